import type { Fault } from "@ultracloud/base";
import { namespaceName } from "../domain/namespaces.ts";
import type { Alarm, KeyValue, MemberInfo, Quota, SessionCall } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import type { AdminCommand } from "./admin_codec.ts";

interface TwinSession {
  readonly caller: string;
  answeredBelow: number;
  readonly answers: { sequence: number; bodyHash: number; answer: unknown }[];
}

const inside = (quota: Quota, kv: KeyValue) => namespaceName(kv.key).startsWith(namespaceName(quota.namespace));
const total = (kvs: readonly KeyValue[]) => kvs.reduce((sum, kv) => sum + kv.key.length + kv.value.length, 0);
const leasesOf = (kvs: readonly KeyValue[]) => new Set(kvs.map((kv) => kv.lease).filter((lease) => lease !== 0n));

/** Sessions, quotas, alarms and members as plainly as they can be said. For tests. */
export class TwinAdmin {
  readonly sessions = new Map<bigint, TwinSession>();
  #sessionLast = 0;
  readonly quotas = new Map<string, Quota>();
  alarms: Alarm[] = [];
  readonly members = new Map<number, MemberInfo>();
  readonly promoting = new Set<number>();
  #memberLast = 0;
  #check = 0;
  #reports = new Map<number, number>();

  /** The answer to a command, or its rejection. */
  apply(command: AdminCommand, revision: number): unknown {
    const done = { kind: "revision", revision };
    switch (command.kind) {
      case "open_session": {
        const id = BigInt(++this.#sessionLast);
        this.sessions.set(id, { caller: command.caller, answeredBelow: 0, answers: [] });
        return { kind: "session", revision, id };
      }
      case "close_session":
        if (this.sessions.get(command.id)?.caller !== command.caller) return rejections.sessionExpired(command.id);
        this.sessions.delete(command.id);
        return done;
      case "set_quota":
        this.quotas.set(namespaceName(command.quota.namespace), command.quota);
        return done;
      case "delete_quota":
        return this.quotas.delete(namespaceName(command.namespace)) ? done : rejections.quotaNotFound("");
      case "raise_alarm":
        this.raise(command.alarm);
        return done;
      case "clear_alarm":
        this.alarms = this.alarms.filter(({ member, type }) =>
          member !== command.alarm.member || type !== command.alarm.type
        );
        return done;
      case "add_member":
        if (command.member.id <= this.#memberLast) return rejections.memberIdUsed(command.member.id);
        this.#memberLast = command.member.id;
        this.members.set(command.member.id, command.member);
        return done;
      case "update_member":
        if (!this.members.has(command.member.id)) return rejections.memberNotFound(command.member.id);
        this.members.set(command.member.id, command.member);
        return done;
      case "remove_member":
        if (!this.members.delete(command.id)) return rejections.memberNotFound(command.id);
        this.promoting.delete(command.id);
        this.alarms = this.alarms.filter(({ member }) => member !== command.id);
        return done;
      case "await_promotion":
        if (!this.members.has(command.id)) return rejections.memberNotFound(command.id);
        this.promoting.add(command.id);
        return done;
      case "check_hash":
        this.#check++;
        this.#reports = new Map();
        return done;
      case "report_hash":
        this.#report(command.member, command.check, command.hash);
        return done;
    }
  }

  raise(alarm: Alarm): void {
    if (this.alarms.some(({ member, type }) => member === alarm.member && type === alarm.type)) return;
    this.alarms.push(alarm);
    this.alarms.sort((a, b) => a.member - b.member || (a.type < b.type ? -1 : 1));
  }

  #report(member: number, check: number, hash: number): void {
    if (check !== this.#check || !this.members.has(member)) return;
    this.#reports.set(member, hash);
    const said = [...this.#reports].filter(([id]) => this.members.has(id));
    const agreed = [7, 8].find((h) => said.filter(([, its]) => its === h).length * 2 > this.members.size);
    if (agreed === undefined && said.length < this.members.size) return;
    if (new Set(said.map(([, its]) => its)).size < 2) return;
    for (const [id, its] of said) if (its !== agreed) this.raise({ member: id, type: "corrupt" });
  }

  /** Rejects what would take a namespace from `before` over a bound to `after`. */
  checkQuotas(
    before: readonly KeyValue[],
    after: readonly KeyValue[],
    key: Uint8Array,
    had: boolean,
  ): Fault | undefined {
    for (const quota of this.quotas.values()) {
      if (!namespaceName(key).startsWith(namespaceName(quota.namespace))) continue;
      const [was, is] = [before, after].map((kvs) => kvs.filter((kv) => inside(quota, kv))) as [KeyValue[], KeyValue[]];
      const over = (max: number, old: number, now: number) => max > 0 && now > max && now > old;
      // A put that takes one lease's last key and gives it to another still needs room for both at once.
      const leases = new Set([...leasesOf(was), ...leasesOf(is)]);
      if (
        over(quota.bytesMax, total(was), total(is)) || (!had && over(quota.keysMax, was.length, is.length)) ||
        over(quota.leasesMax, leasesOf(was).size, leases.size)
      ) return rejections.quotaExceeded("", "", 0, 0);
    }
    return undefined;
  }

  usage(quota: Quota, kvs: readonly KeyValue[]) {
    const own = kvs.filter((kv) => inside(quota, kv));
    return { bytes: total(own), keys: own.length, leases: leasesOf(own).size };
  }

  /** What a session says to a write before it is done: the known answer, a rejection, or nothing. */
  known(call: SessionCall): { answer: unknown } | undefined {
    const session = this.sessions.get(call.session);
    if (session?.caller !== call.caller) return { answer: rejections.sessionExpired(call.session) };
    if (call.sequence < session.answeredBelow) return { answer: rejections.sequenceAnswered(call.sequence, 0) };
    const found = session.answers.find(({ sequence }) => sequence === call.sequence);
    if (!found) return undefined;
    return found.bodyHash === call.bodyHash ? found : { answer: rejections.sequenceMismatch(call.sequence) };
  }

  remember(call: SessionCall, answer: unknown): void {
    const session = this.sessions.get(call.session)!;
    session.answeredBelow = Math.max(session.answeredBelow, call.answeredBelow);
    session.answers.push({ sequence: call.sequence, bodyHash: call.bodyHash, answer });
  }
}
