import { assert, type Clock, type Disk, type Fault, fault } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import {
  bootstrapBatch,
  type Change,
  type Configuration,
  type DriverStatus,
  RaftDriver,
  type RaftOptions,
  type Refusal,
  type SnapshotHeader,
  type StateMachine,
  type Transport,
} from "@ultracloud/raft";
import type { Rng } from "@ultracloud/base";
import type { WalLogStore } from "./log_store.ts";
import { nothingLogged, refusalFault } from "./refusals.ts";
import { memoryBytesMax, readWhole, type SnapshotFile } from "./snapshot_file.ts";
import { type InboxAnswer, type IncomingSnapshot, SnapshotInbox } from "./snapshot_inbox.ts";
import { SnapshotShelf } from "./snapshot_shelf.ts";
import type { GroupStateMachine } from "./state_machine.ts";
import type { Group, GroupStatus } from "./types.ts";

export interface GroupOptions {
  readonly group: number;
  readonly raft: RaftOptions;
  /** Founds the group when it is new here; empty for a replica that joins. */
  readonly voters: readonly number[];
  readonly tickMs: number;
  readonly clientUrl: ClientUrl;
  readonly admit?: (data: Uint8Array) => Uint8Array;
}

/** Client address of a replica, for hints at the leader; undefined when not known. */
export type ClientUrl = (id: number) => string | undefined;

export interface GroupDeps {
  readonly logStore: WalLogStore;
  readonly machine: GroupStateMachine;
  readonly disk: Disk;
  readonly transport: Transport<SnapshotFile>;
  /** Asks another replica to log data; answers where. A `connect_failed` or a refusal promises that nothing was done. */
  readonly forward: (to: number, data: Uint8Array) => Promise<{ readonly index: number; readonly term: number }>;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly onFatal: (error: Error) => void;
  readonly onSnapshot?: ((tookMs: number) => void) | undefined;
}

/** The log is cut after this many applied entries or bytes of them, or after this long when anything was applied. */
const checkpointEntries = 20_000;
const checkpointBytes = 32 * 2 ** 20;
const checkpointEveryMs = 30_000;

/** One group on this replica: driver, log and state machine tied together. */
export class GroupReplica implements Group {
  readonly driver: RaftDriver<SnapshotFile>;
  readonly #inbox: SnapshotInbox;
  readonly #options: GroupOptions;
  readonly #deps: GroupDeps;
  readonly #roleWatchers = new Set<(status: GroupStatus) => void>();
  readonly #configurationWatchers = new Set<(configuration: Configuration, index: number) => void>();
  readonly #appliedWaiters = new Set<() => void>();
  readonly #shelf: SnapshotShelf;
  #checkpointed: number;
  #sinceCheckpointMs = 0;
  #sinceCheckpointBytes = 0;
  #stopped = false;

  constructor(options: GroupOptions, deps: GroupDeps) {
    this.#options = options;
    this.#deps = deps;
    this.#checkpointed = deps.machine.appliedIndex();
    const { names } = deps.logStore;
    this.#shelf = new SnapshotShelf(names, deps);
    this.#inbox = new SnapshotInbox(names, { disk: deps.disk, install: (header, file) => this.#receive(header, file) });
    this.driver = new RaftDriver(options.raft, {
      log: deps.logStore,
      machine: this.#machine(),
      transport: {
        send: (messages) => deps.transport.send(messages),
        sendSnapshot: (header, file, done) => {
          this.#shelf.hold(file);
          deps.transport.sendSnapshot(header, file, (installed) => {
            this.#shelf.release(file);
            done(installed);
          });
        },
      },
      rng: deps.rng,
      nowMs: () => deps.clock.monotonicMs(),
      events: {
        wake: () => queueMicrotask(() => this.driver.run()),
        roleChanged: (status) => {
          deps.log.info("raft role changed", {
            group: options.group,
            role: status.role,
            term: status.term,
            leader: status.leader,
          });
          for (const told of this.#roleWatchers) told(this.#statusOf(status));
        },
        configurationChanged: (configuration, index) => {
          const { voters, votersOutgoing, learners } = configuration;
          deps.log.info("raft configuration", { group: options.group, index, voters, votersOutgoing, learners });
          for (const told of this.#configurationWatchers) told(configuration, index);
        },
        fatal: (error) => deps.onFatal(error),
      },
    });
  }

  /** Writes the founding entry of a new group, then takes part. */
  async start(): Promise<void> {
    const { logStore } = this.#deps;
    const { hardState, base } = logStore.initialState();
    const isNew = hardState.term === 0 && base.index === 0 && logStore.lastIndex() === 0;
    if (isNew && this.#options.voters.includes(this.#options.raft.id)) {
      await new Promise<void>((resolve, reject) => {
        logStore.append(bootstrapBatch(this.#options.voters), (error) => error ? reject(error) : resolve());
      });
    }
    this.driver.start();
    await this.#restoring;
  }
  #restoring: Promise<void> | undefined;

  /** A peer asks how far its snapshot is, or sends the next piece of it. */
  async takeSnapshot(snapshot: IncomingSnapshot, offset: number, chunk: Uint8Array): Promise<InboxAnswer> {
    const { id, term } = this.driver.status();
    const { header } = snapshot;
    if (header.to !== id || header.term < term) {
      throw fault(
        "failed_precondition",
        "snapshot_stale",
        `Cannot take a snapshot for replica ${header.to} of term ${header.term}: this is ${id} in term ${term}`,
      );
    }
    // Many gigabytes need not travel when the log has come there by itself.
    if (
      header.meta.index <= (this.driver.core?.durableIndex ?? 0) &&
      header.meta.index <= this.driver.status().commitIndex
    ) {
      return { offset: snapshot.bytes, installed: true };
    }
    return await this.#inbox.take(snapshot, offset, chunk);
  }

  /** A snapshot has arrived whole; false when it is stale or another is being installed. */
  #receive(header: SnapshotHeader, file: SnapshotFile): Promise<boolean> {
    return new Promise((resolve) => this.driver.receiveSnapshot(header, file, resolve));
  }

  #machine(): StateMachine<SnapshotFile> {
    const { machine, log, onFatal } = this.#deps;
    const guarded = (work: () => void) => {
      try {
        work();
      } catch (error) {
        onFatal(error instanceof Error ? error : new Error(String(error)));
      }
    };
    return {
      appliedIndex: () => machine.appliedIndex(),
      apply: (entries, done) =>
        guarded(() => {
          const effective = entries.filter((entry) => entry.kind === "normal" && entry.data.length > 0);
          const results = effective.length > 0 ? machine.applyBatch(effective) : [];
          for (const entry of effective) this.#sinceCheckpointBytes += entry.data.length;
          const last = entries.at(-1)!.index;
          if (machine.appliedIndex() < last) machine.skipTo(last);
          let at = 0;
          done(entries.map((entry) => entry === effective[at] ? results[at++] : undefined));
          for (const resume of this.#appliedWaiters) resume();
        }),
      snapshot: (done) => {
        this.#shelf.take(this.driver.status().firstIndex - 1).then(done, (error) => {
          log.warn("cannot take a snapshot", { group: this.#options.group, error });
          done(error instanceof Error ? error : new Error(String(error)));
        });
      },
      restore: ({ meta, data }, done) => {
        this.#restoring = this.#restore(meta.index, data).then(() => {
          if (this.#stopped) return;
          log.info("restored a snapshot", { group: this.#options.group, index: meta.index, bytes: data.bytes });
          done();
          for (const resume of this.#appliedWaiters) resume();
        }, (error) => done(error instanceof Error ? error : new Error(String(error))));
      },
    };
  }

  async #restore(index: number, { path, bytes }: SnapshotFile): Promise<void> {
    const { machine, disk } = this.#deps;
    await this.#shelf.settled();
    if (this.#stopped) return;
    if (machine.restoreFrom) return await machine.restoreFrom(index, path);
    if (bytes > memoryBytesMax) {
      throw fault("resource_exhausted", "snapshot_too_large", `Cannot hold a snapshot of ${bytes} bytes in memory`);
    }
    machine.restore(index, readWhole(disk, path));
  }

  tick(): void {
    this.driver.tick();
    this.#shelf.tick();
    this.#sinceCheckpointMs += this.#options.tickMs;
    const applied = this.#deps.machine.appliedIndex();
    const due = applied - this.#checkpointed;
    const full = due >= checkpointEntries || this.#sinceCheckpointBytes >= checkpointBytes;
    if (full || (due > 0 && this.#sinceCheckpointMs >= checkpointEveryMs)) this.checkpoint();
  }

  /** Makes state durable and cuts the log behind it. */
  checkpoint(): void {
    this.#sinceCheckpointMs = 0;
    this.#sinceCheckpointBytes = 0;
    try {
      this.#checkpointed = this.#deps.machine.checkpoint();
      this.driver.compact(this.#checkpointed);
    } catch (error) {
      // The log stays longer; nothing is lost.
      this.#deps.log.warn("cannot checkpoint", { group: this.#options.group, error });
    }
  }

  propose(data: Uint8Array, { forward = false }: { readonly forward?: boolean } = {}): Promise<unknown> {
    assert(data.length > 0, "A proposal must have data");
    const { core } = this.driver;
    if (forward && core && core.role !== "leader" && core.leader !== 0) return this.#forward(core.leader, data);
    return new Promise((resolve, reject) => {
      this.driver.propose(
        data,
        (outcome) => "refused" in outcome ? reject(this.#refusal(outcome)) : resolve(outcome.result),
      );
    });
  }

  #forward(leader: number, data: Uint8Array): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const waiting = this.driver.forward(
        (outcome) => "refused" in outcome ? reject(this.#refusal(outcome)) : resolve(outcome.result),
      );
      if (!waiting) return reject(this.#refusal({ refused: this.#stopped ? "stopped" : "uncommitted_full", leader }));
      this.#deps.forward(leader, data).then(({ index, term }) => waiting.logged(index, term), (error) => {
        waiting.dropped();
        reject(nothingLogged(error) ? error : this.#refusal({ refused: "leadership_lost", leader }));
      });
    });
  }

  /** Logs data for a follower; answers where. */
  proposeFor(data: Uint8Array): { readonly index: number; readonly term: number } {
    if (data.length === 0) throw fault("invalid_argument", "proposal_empty", "Cannot log a proposal without data");
    const { admit = (same) => same } = this.#options;
    const logged = this.driver.status().role === "leader"
      ? this.driver.proposeFor(admit(data))
      : { refused: "not_leader" as const, leader: this.driver.status().leader };
    if ("refused" in logged) throw this.#refusal(logged);
    return logged;
  }

  changeConfiguration(change: Change): Promise<{ readonly index: number; readonly configuration: Configuration }> {
    return new Promise((resolve, reject) => {
      this.driver.changeConfiguration(
        change,
        (outcome) => "refused" in outcome ? reject(this.#refusal(outcome)) : resolve(outcome),
      );
    });
  }

  readBarrier(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.driver.read((outcome) => "refused" in outcome ? reject(this.#refusal(outcome)) : resolve());
    });
  }

  waitApplied(index: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const end = () => {
        this.#appliedWaiters.delete(look);
        signal.removeEventListener("abort", abort);
      };
      const look = () => {
        if (this.#deps.machine.appliedIndex() < index) return;
        end();
        resolve();
      };
      const abort = () => {
        end();
        reject(signal.reason);
      };
      if (signal.aborted) return reject(signal.reason);
      this.#appliedWaiters.add(look);
      signal.addEventListener("abort", abort, { once: true });
      look();
    });
  }

  #refusal(refusal: Refusal): Fault {
    return refusalFault(this.#options.group, refusal, this.#options.clientUrl(refusal.leader));
  }

  #statusOf(status: DriverStatus): GroupStatus {
    return { group: this.#options.group, ...status };
  }

  status(): GroupStatus {
    return this.#statusOf(this.driver.status());
  }

  contactAgeMs(): number {
    return this.driver.status().contactTicks * this.#options.tickMs;
  }

  transferLeader(to: number): void {
    if (!this.driver.transferLeader(to)) {
      throw fault(
        "failed_precondition",
        "bad_transferee",
        `Cannot hand group ${this.#options.group} to replica ${to}: wanted another voter, asked of the leader`,
      );
    }
  }

  onRoleChange(callback: (status: GroupStatus) => void): () => void {
    this.#roleWatchers.add(callback);
    return () => this.#roleWatchers.delete(callback);
  }

  onConfigurationChange(callback: (configuration: Configuration, index: number) => void): () => void {
    this.#configurationWatchers.add(callback);
    return () => this.#configurationWatchers.delete(callback);
  }

  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.driver.stop();
  }

  /** Stops, and lets go of snapshots on their way. */
  async close(): Promise<void> {
    this.stop();
    await Promise.all([this.#inbox.close(), this.#shelf.close()]);
  }
}
