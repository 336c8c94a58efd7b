import { compareBytes, equalBytes, Fault } from "@ultracloud/base";
import { rangeHas } from "../domain/ranges.ts";
import type {
  Command,
  Compare,
  KeyRange,
  KeyValue,
  Op,
  OpResult,
  RangeOp,
  SessionCall,
  TxnOp,
} from "../domain/types.ts";
import { rejections } from "../errors.ts";
import { isAdmin } from "./admin_codec.ts";
import { TwinAdmin } from "./_twin_admin.ts";

/** The store as plainly as it can be said: every revision is a whole copy of all keys. For tests. */
export class TwinState {
  /** State at revision i + 1. */
  readonly past: KeyValue[][] = [[]];
  compactRevision = 0;
  clockMs = 0;
  readonly admin = new TwinAdmin();
  leases = new Map<bigint, { ttlMs: number; deadlineMs: number }>();

  get revision(): number {
    return this.past.length;
  }

  get now(): KeyValue[] {
    return this.past.at(-1)!;
  }

  apply(command: Command, clockMs: number, session?: SessionCall): unknown {
    this.clockMs = Math.max(this.clockMs, clockMs);
    if (!session) return this.#perform(command);
    const known = this.admin.known(session);
    if (known) return known.answer;
    const answer = this.#perform(command);
    if (!(answer instanceof Fault)) this.admin.remember(session, answer);
    return answer;
  }

  #perform(command: Command): unknown {
    const { leases } = this;
    if (isAdmin(command)) return this.admin.apply(command, this.revision);
    switch (command.kind) {
      case "put":
      case "delete":
      case "txn":
        return this.#write(command);
      case "compact":
        if (command.revision <= this.compactRevision) {
          return rejections.compacted(command.revision, this.compactRevision);
        }
        if (command.revision > this.revision) return rejections.futureRevision(command.revision, this.revision);
        this.compactRevision = command.revision;
        return { kind: "revision", revision: this.revision };
      case "grant":
        if (leases.has(command.id)) return rejections.leaseExists(command.id);
        leases.set(command.id, { ttlMs: command.ttlMs, deadlineMs: this.clockMs + command.ttlMs + 1 });
        return { kind: "lease", revision: this.revision, id: command.id, ttlMs: command.ttlMs };
      case "keep_alive": {
        const lease = leases.get(command.id);
        if (!lease) return rejections.leaseNotFound(command.id);
        lease.deadlineMs = this.clockMs + lease.ttlMs + 1;
        return { kind: "lease", revision: this.revision, id: command.id, ttlMs: lease.ttlMs };
      }
      case "revoke":
        if (!leases.has(command.id)) return rejections.leaseNotFound(command.id);
        this.#end(command.id);
        return { kind: "revision", revision: this.revision };
      case "expire": {
        const due = [...leases].filter(([, lease]) => lease.deadlineMs <= this.clockMs);
        due.sort(([a, x], [b, y]) => x.deadlineMs - y.deadlineMs || Number(a - b));
        for (const [id] of due) this.#end(id);
        return { kind: "revision", revision: this.revision };
      }
    }
  }

  #end(id: bigint): void {
    this.leases.delete(id);
    const kept = this.now.filter((kv) => kv.lease !== id);
    if (kept.length < this.now.length) this.past.push(kept);
  }

  #write(op: Exclude<Op, RangeOp>): unknown {
    const draft = { kvs: [...this.now], wrote: false, revision: this.revision + 1 };
    try {
      const plan = this.#plan(op);
      // A put of its own looks for its lease first.
      if (op.kind === "put" && op.lease !== 0n && !this.leases.has(op.lease)) throw rejections.leaseNotFound(op.lease);
      this.#reject(plan, "put");
      this.#reject(plan, "range");
      const result = this.#run(plan, draft);
      if (draft.wrote) this.past.push(draft.kvs);
      return result;
    } catch (error) {
      if (error instanceof Fault) return error;
      throw error;
    }
  }

  /** Decides every comparison on the state as it is. */
  #plan(op: Op): Planned {
    if (op.kind !== "txn") return op;
    const succeeded = op.compares.every((compare) => this.#holds(compare));
    return { kind: "planned", succeeded, ops: (succeeded ? op.success : op.failure).map((inner) => this.#plan(inner)) };
  }

  /** Puts first, then ranges, all by the state before. */
  #reject(op: Planned, kind: "put" | "range"): void {
    if (op.kind === "planned") return op.ops.forEach((inner) => this.#reject(inner, kind));
    if (op.kind !== kind) return;
    if (op.kind === "range") return this.#checkRevision(op, this.revision);
    if (op.kind !== "put") return;
    if ((op.ignoreValue || op.ignoreLease) && !this.now.some((kv) => equalBytes(kv.key, op.key))) {
      throw rejections.keyNotFound();
    }
    if (op.lease !== 0n && !this.leases.has(op.lease)) throw rejections.leaseNotFound(op.lease);
  }

  #checkRevision(op: RangeOp, revision: number): void {
    if (op.revision > revision) throw rejections.futureRevision(op.revision, revision);
    if (op.revision > 0 && op.revision < this.compactRevision) {
      throw rejections.compacted(op.revision, this.compactRevision);
    }
  }

  #run(op: Planned, draft: Draft): OpResult {
    const revision = () => draft.wrote ? draft.revision : draft.revision - 1;
    switch (op.kind) {
      case "planned": {
        const results = op.ops.map((inner) => this.#run(inner, draft));
        return { kind: "txn", revision: revision(), succeeded: op.succeeded, results };
      }
      case "range":
        return { ...this.#range(op, draft.kvs, revision()) };
      case "put": {
        const before = draft.kvs.find((kv) => equalBytes(kv.key, op.key));
        const old = draft.kvs;
        draft.kvs = draft.kvs.filter((kv) => kv !== before);
        draft.kvs.push({
          key: op.key,
          value: op.ignoreValue ? before!.value : op.value,
          createRevision: before?.createRevision ?? draft.revision,
          modRevision: draft.revision,
          version: (before?.version ?? 0) + 1,
          lease: op.ignoreLease ? before!.lease : op.lease,
        });
        const over = this.admin.checkQuotas(old, draft.kvs, op.key, before !== undefined);
        if (over) throw over;
        draft.wrote = true;
        return { kind: "put", revision: draft.revision, prev: op.prevKv ? before : undefined };
      }
      case "delete": {
        const gone = sorted(draft.kvs.filter((kv) => rangeHas(op, kv.key)));
        if (gone.length > 0) draft.wrote = true;
        draft.kvs = draft.kvs.filter((kv) => !gone.includes(kv));
        return { kind: "delete", revision: revision(), deleted: gone.length, prevs: op.prevKv ? gone : [] };
      }
    }
  }

  range(op: RangeOp): OpResult | Fault {
    try {
      return this.#range(op, this.now, this.revision);
    } catch (error) {
      if (error instanceof Fault) return error;
      throw error;
    }
  }

  #range(op: RangeOp, now: readonly KeyValue[], revision: number): OpResult {
    this.#checkRevision(op, revision);
    const source = op.revision === 0 || op.revision === revision ? now : this.past[op.revision - 1]!;
    const inRange = sorted(source.filter((kv) => rangeHas(op, kv.key)));
    if (op.countOnly) return { kind: "range", revision, kvs: [], more: false, count: inRange.length };
    const found = inRange.filter((kv) =>
      kv.modRevision >= op.minMod && (op.maxMod === 0 || kv.modRevision <= op.maxMod) &&
      kv.createRevision >= op.minCreate && (op.maxCreate === 0 || kv.createRevision <= op.maxCreate)
    );
    const sign = op.descending ? -1 : 1;
    const by: Record<RangeOp["target"], (a: KeyValue, b: KeyValue) => number> = {
      key: (a, b) => compareBytes(a.key, b.key),
      version: (a, b) => a.version - b.version,
      create: (a, b) => a.createRevision - b.createRevision,
      mod: (a, b) => a.modRevision - b.modRevision,
      value: (a, b) => compareBytes(a.value, b.value),
    };
    found.sort((a, b) => sign * by[op.target](a, b) || compareBytes(a.key, b.key));
    const more = op.limit > 0 && found.length > op.limit;
    const kvs = (op.limit > 0 ? found.slice(0, op.limit) : found)
      .map((kv) => op.keysOnly ? { ...kv, value: new Uint8Array(0) } : kv);
    return { kind: "range", revision, kvs, more, count: inRange.length };
  }

  #holds(compare: Compare): boolean {
    const found = this.now.filter((kv) => rangeHas(compare as KeyRange, kv.key));
    if (found.length === 0 && compare.target === "value") return false;
    const zero = { value: new Uint8Array(0), createRevision: 0, modRevision: 0, version: 0, lease: 0n };
    return (found.length > 0 ? found : [zero]).every((kv) => {
      const actual = { version: kv.version, create: kv.createRevision, mod: kv.modRevision, lease: kv.lease };
      const order = compare.target === "value"
        ? compareBytes(kv.value, compare.operand as Uint8Array)
        : Number(BigInt(actual[compare.target]) - (compare.operand as bigint));
      return { equal: order === 0, not_equal: order !== 0, less: order < 0, greater: order > 0 }[compare.result];
    });
  }
}

type Planned = Exclude<Op, TxnOp> | { kind: "planned"; succeeded: boolean; ops: readonly Planned[] };

interface Draft {
  kvs: KeyValue[];
  wrote: boolean;
  readonly revision: number;
}

function sorted(kvs: readonly KeyValue[]): KeyValue[] {
  return [...kvs].sort((a, b) => compareBytes(a.key, b.key));
}
