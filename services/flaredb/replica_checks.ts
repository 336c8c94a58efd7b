import { create, toBinary } from "@bufbuild/protobuf";
import { backoffMs, type Clock, fault, type Rng } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import { LoggedCheckSchema, LoggedReportSchema } from "@ultracloud/proto/flaredb/v1";
import type { OpenDatabase } from "./databases.ts";
import { encodeEntry, type EntryKind, entryKinds, noSeed } from "./domain/log_entry.ts";
import { databaseNotFound } from "./domain/names.ts";
import { describeTestimonies, type Testimony, verdictOf } from "./domain/verdict.ts";
import type { ContentDigest } from "./state/replica_check.ts";
import type { DatabaseMachine } from "./state/database_machine.ts";

/** What a check found: the content of most, and what each member reported. */
export interface CheckedReplicas extends ContentDigest {
  readonly replicas: readonly (Testimony & { readonly differs: boolean })[];
}

export interface ReplicaChecksDeps {
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly health: Health;
}

/**
 * How long a check waits for members that do not report, beside a multiple of what the digest took here: they may be
 * down, and then nothing comes.
 */
const reportWaitMsMin = 3_000;
const reportWaitFactor = 3;
const retryMs = { baseMs: 50, maxMs: 1_000, tries: Infinity };

/** Reports this replica's digests to the others, and asks all of them for theirs. */
export class ReplicaChecks {
  readonly #memberId: number;
  readonly #deps: ReplicaChecksDeps;
  readonly #reporting = new Map<DatabaseMachine, Promise<void>>();
  readonly #diverged = new Map<DatabaseMachine, string>();
  readonly #stop = new AbortController();

  constructor(options: { readonly memberId: number }, deps: ReplicaChecksDeps) {
    this.#memberId = options.memberId;
    this.#deps = deps;
  }

  /** From now on the database reports what its log asks for; what an ended process still owed, too. */
  follow(database: OpenDatabase): void {
    const look = () => {
      this.#tell(database);
      this.#report(database);
    };
    database.machine.onApplied(look);
    look();
  }

  /**
   * Lets every replica note a digest of its content at one index and report it, and waits for the reports; not for ever,
   * as a member may be down. The digest reads every row, on every replica, while nothing else of the process runs.
   * Without a content that more than half of the voters have, the call fails and says who has what.
   */
  async ask({ row, group, machine }: OpenDatabase, signal: AbortSignal): Promise<CheckedReplicas> {
    // A replica that has just come may not know the members yet.
    await group.readBarrier();
    const { voters, learners } = group.status();
    const members = create(LoggedCheckSchema, { voters: voters.map(BigInt), learners: learners.map(BigInt) });
    const data = this.#entry(entryKinds.hash, toBinary(LoggedCheckSchema, members));
    const { clock } = this.#deps;
    const askedMs = clock.monotonicMs();
    const noted = await group.propose(data, { forward: true });
    if (noted instanceof Error) throw noted;
    const { index } = noted as ContentDigest;
    const waitMs = reportWaitMsMin + reportWaitFactor * (clock.monotonicMs() - askedMs);
    await this.#reports(machine, index, waitMs, signal);
    if (machine.closed) throw databaseNotFound(row.name);
    const said = machine.parts.check.testimonies(index);
    const verdict = verdictOf(said);
    if (verdict.kind === "agreed") {
      const { sha256, differ } = verdict;
      return { index, sha256, replicas: said.map((each) => ({ ...each, differs: differ.includes(each.member) })) };
    }
    const who = describeTestimonies(said);
    if (verdict.kind === "undecided") {
      throw fault(
        "data_loss",
        "replicas_undecided",
        `Cannot tell which content of ${row.name} is right at index ${index} as no majority has the same: ${who}`,
      );
    }
    throw fault(
      "deadline_exceeded",
      "replicas_silent",
      `Cannot compare the replicas of ${row.name} at index ${index} as too few reported in time: ${who}`,
    );
  }

  /** Resolves once everyone has reported, or it took too long. */
  #reports(machine: DatabaseMachine, index: number, waitMs: number, signal: AbortSignal): Promise<void> {
    const missing = () => machine.parts.check.testimonies(index).some(({ sha256 }) => sha256 === undefined);
    const ends = AbortSignal.any([signal, this.#stop.signal]);
    const waited = new AbortController();
    return new Promise((resolve) => {
      const stop = machine.onApplied(() => (machine.closed || !missing()) && done());
      const done = () => {
        stop();
        ends.removeEventListener("abort", done);
        waited.abort();
        resolve();
      };
      ends.addEventListener("abort", done, { once: true });
      this.#deps.clock.sleep(waitMs, waited.signal).then(done, () => {});
      if (ends.aborted || !missing()) done();
    });
  }

  #entry(kind: EntryKind, payload: Uint8Array): Uint8Array {
    return encodeEntry({ kind, timeMs: this.#deps.clock.nowMs(), seed: noSeed, dedupe: undefined, payload });
  }

  #report(database: OpenDatabase): void {
    const { machine } = database;
    if (machine.closed || this.#stop.signal.aborted || this.#reporting.has(machine)) return;
    if (machine.parts.check.unreported(this.#memberId) === undefined) return;
    const reporting = this.#reportAll(database).finally(() => this.#reporting.delete(machine));
    this.#reporting.set(machine, reporting);
  }

  /** Until its report is in its own log: the leader may be another one meanwhile. */
  async #reportAll({ row, group, machine }: OpenDatabase): Promise<void> {
    const { clock, rng, log } = this.#deps;
    const { signal } = this.#stop;
    for (let attempt = 1; !machine.closed && !signal.aborted; attempt++) {
      const due = machine.parts.check.unreported(this.#memberId);
      if (due === undefined) return;
      const report = { index: BigInt(due.index), sha256: due.sha256, member: BigInt(this.#memberId) };
      const payload = toBinary(LoggedReportSchema, create(LoggedReportSchema, report));
      try {
        await group.propose(this.#entry(entryKinds.report, payload), { forward: true });
        attempt = 0;
      } catch (error) {
        log.debug("cannot report the content of a replica yet", { database: row.name, error });
        await clock.sleep(backoffMs(retryMs, attempt, rng), signal).catch(() => {});
      }
    }
  }

  /** Says so when a replica is found to differ, and when it no longer does. */
  #tell({ row, machine }: OpenDatabase): void {
    if ((machine.diverged && !machine.closed) === this.#diverged.has(machine)) return;
    const { log, health } = this.#deps;
    if (this.#diverged.delete(machine)) log.info("content replaced by another replica's", { database: row.name });
    else {
      this.#diverged.set(machine, row.name);
      log.error("this replica's content differs from that of most: it serves nothing of the database any more", {
        database: row.name,
        index: machine.noted?.index,
      });
    }
    const names = [...this.#diverged.values()].sort().join(", ");
    if (names === "") health.set("content", "ready");
    else health.set("content", "degraded", `the content of ${names} differs from that of most replicas`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await Promise.allSettled(this.#reporting.values());
  }
}
