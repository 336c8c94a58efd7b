import { assert, Fault, fault } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import {
  bootstrapBatch,
  type Change,
  type Configuration,
  type DriverStatus,
  type LogStore,
  RaftDriver,
  type RaftOptions,
  type Refusal,
  type StateMachine,
  type Transport,
} from "@ultracloud/raft";
import type { Rng } from "@ultracloud/base";
import type { GroupStateMachine } from "./state_machine.ts";
import type { Group, GroupStatus } from "./types.ts";

export interface GroupOptions {
  readonly group: number;
  readonly raft: RaftOptions;
  /** Founds the group when it is new here; empty for a replica that joins. */
  readonly voters: readonly number[];
  readonly tickMs: number;
  readonly clientUrl: ClientUrl;
}

/** Client address of a replica, for hints at the leader; undefined when not known. */
export type ClientUrl = (id: number) => string | undefined;

export interface GroupDeps {
  readonly logStore: LogStore;
  readonly machine: GroupStateMachine;
  readonly transport: Transport;
  readonly rng: Rng;
  readonly log: Logger;
  readonly onFatal: (error: Error) => void;
}

/** The log is cut after this many applied entries, or after this long when anything was applied. */
const checkpointEntries = 20_000;
const checkpointEveryMs = 30_000;

/** One group on this replica: driver, log and state machine tied together. */
export class GroupReplica implements Group {
  readonly driver: RaftDriver;
  readonly #options: GroupOptions;
  readonly #deps: GroupDeps;
  readonly #roleWatchers = new Set<(status: GroupStatus) => void>();
  readonly #configurationWatchers = new Set<(configuration: Configuration, index: number) => void>();
  readonly #appliedWaiters = new Set<() => void>();
  #checkpointed: number;
  #sinceCheckpointMs = 0;
  #stopped = false;

  constructor(options: GroupOptions, deps: GroupDeps) {
    this.#options = options;
    this.#deps = deps;
    this.#checkpointed = deps.machine.appliedIndex();
    this.driver = new RaftDriver(options.raft, {
      log: deps.logStore,
      machine: this.#machine(),
      transport: deps.transport,
      rng: deps.rng,
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
  }

  #machine(): StateMachine {
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
          const last = entries.at(-1)!.index;
          if (machine.appliedIndex() < last) machine.skipTo(last);
          let at = 0;
          done(entries.map((entry) => entry === effective[at] ? results[at++] : undefined));
          for (const resume of this.#appliedWaiters) resume();
        }),
      snapshot: (done) => {
        try {
          done({ index: machine.appliedIndex(), data: machine.snapshot() });
        } catch (error) {
          done(error instanceof Error ? error : new Error(String(error)));
        }
      },
      restore: (snapshot, done) => {
        try {
          machine.restore(snapshot.meta.index, snapshot.data);
          const { index } = snapshot.meta;
          log.info("restored a snapshot", { group: this.#options.group, index, bytes: snapshot.data.length });
          done();
          for (const resume of this.#appliedWaiters) resume();
        } catch (error) {
          done(error instanceof Error ? error : new Error(String(error)));
        }
      },
    };
  }

  tick(): void {
    this.driver.tick();
    this.#sinceCheckpointMs += this.#options.tickMs;
    const applied = this.#deps.machine.appliedIndex();
    const due = applied - this.#checkpointed;
    if (due >= checkpointEntries || (due > 0 && this.#sinceCheckpointMs >= checkpointEveryMs)) this.checkpoint();
  }

  /** Makes state durable and cuts the log behind it. */
  checkpoint(): void {
    this.#sinceCheckpointMs = 0;
    try {
      this.#checkpointed = this.#deps.machine.checkpoint();
      this.driver.compact(this.#checkpointed);
    } catch (error) {
      // The log stays longer; nothing is lost.
      this.#deps.log.warn("cannot checkpoint", { group: this.#options.group, error });
    }
  }

  propose(data: Uint8Array): Promise<unknown> {
    assert(data.length > 0, "A proposal must have data");
    return new Promise((resolve, reject) => {
      this.driver.propose(
        data,
        (outcome) => "refused" in outcome ? reject(this.#refusal(outcome)) : resolve(outcome.result),
      );
    });
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

  #refusal({ refused, leader, reason }: Refusal): Fault {
    const url = this.#options.clientUrl(leader);
    const hint = url === undefined ? {} : { leaderHint: url };
    const { group } = this.#options;
    switch (refused) {
      case "not_leader":
        return fault(
          "unavailable",
          "not_leader",
          `Cannot serve group ${group} here: replica ${leader || "unknown"} leads`,
          { retryAfterMs: 50, ...hint },
        );
      case "transferring":
        return fault("unavailable", "leader_changing", `Cannot serve group ${group} yet: its leader is changing`, {
          retryAfterMs: 50,
          ...hint,
        });
      case "uncommitted_full":
        return fault(
          "resource_exhausted",
          "too_many_proposals",
          `Cannot take more writes for group ${group}: too many wait for a quorum`,
          { retryAfterMs: 100 },
        );
      case "change_pending":
        return fault(
          "failed_precondition",
          "change_pending",
          `Cannot change the members of group ${group}: an earlier change has not come to its end`,
          { retryAfterMs: 100 },
        );
      case "unsafe_change":
        return fault("failed_precondition", "unsafe_change", `Cannot change the members of group ${group}: ${reason}`);
      case "superseded":
        return fault(
          "unavailable",
          "superseded",
          "Cannot say done: another leader took over and the write has no effect",
          { retryAfterMs: 50, ...hint },
        );
      case "leadership_lost":
        return fault(
          "unavailable",
          "outcome_unknown",
          "Cannot say whether the write took effect: the leader changed meanwhile",
          hint,
        );
      case "no_quorum":
        return fault("unavailable", "no_quorum", `Cannot read group ${group}: no quorum answers`, {
          retryAfterMs: 100,
        });
      case "stopped":
        return fault("unavailable", "stopping", "Cannot serve as this replica is stopping", hint);
    }
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
}
