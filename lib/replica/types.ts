import type { Change, Configuration, PeerProgress } from "@ultracloud/raft";
import type { BoundService } from "@ultracloud/rpc";
import type { GroupStateMachine } from "./state_machine.ts";

export interface GroupStatus {
  readonly group: number;
  readonly id: number;
  readonly role: "follower" | "pre_candidate" | "candidate" | "leader";
  readonly term: number;
  /** 0 when unknown. */
  readonly leader: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly lastIndex: number;
  readonly voters: readonly number[];
  readonly learners: readonly number[];
  readonly configuration: Configuration;
  /** How far each other member is; on a leader only. */
  readonly progress?: ReadonlyMap<number, PeerProgress>;
}

/** One Raft group on this replica. */
export interface Group {
  /**
   * Resolves with the state machine's result once the entry is committed and applied here. Rejects with an unavailable
   * fault, with a hint at the leader when one is known, when this replica does not lead or loses the lead. After
   * `outcome_unknown` the entry may still take effect. With `forward` a replica that follows asks its leader to log the
   * data and answers with the result that the entry has here; it is asked once, and never again.
   */
  propose(data: Uint8Array, options?: { readonly forward?: boolean }): Promise<unknown>;
  /** Resolves once local state holds everything that was committed when it was called. */
  readBarrier(): Promise<void>;
  /** Resolves once the entry at `index` is applied here; rejects with the signal's reason. */
  waitApplied(index: number, signal: AbortSignal): Promise<void>;
  /**
   * Changes who takes part, asked of the leader; several steps go through a joint configuration. Resolves once the
   * change is in force and applied here, a joint configuration that ends itself having ended. Rejects like `propose`,
   * with `change_pending`, with `unsafe_change` where it would cost the quorum or promote a learner that lags, and with
   * a failed_precondition for steps that break a rule by themselves.
   */
  changeConfiguration(change: Change): Promise<{ readonly index: number; readonly configuration: Configuration }>;
  status(): GroupStatus;
  /** How long ago this replica last heard from its leader (or, leading, from a quorum). */
  contactAgeMs(): number;
  transferLeader(to: number): void;
  /** Called after role, term or leader changed. Answers how to stop. */
  onRoleChange(callback: (status: GroupStatus) => void): () => void;
  /** Called after another configuration came into force. Answers how to stop. */
  onConfigurationChange(callback: (configuration: Configuration, index: number) => void): () => void;
}

export interface GroupToOpen {
  readonly group: number;
  readonly voters: readonly number[];
  readonly join?: boolean;
  /**
   * A leader asks it about data that another replica forwards, and logs what it answers: a place for what only a leader
   * knows. A Fault of a kind that says nothing was done (invalid_argument, resource_exhausted, ...) refuses the data.
   */
  readonly admit?: (data: Uint8Array) => Uint8Array;
}

/** The replicas of several groups in this process, on one log. */
export interface ReplicaNode extends AsyncDisposable {
  /**
   * Opens a group. `voters` found it, when it is new on this replica; a replica that is to `join` others founds nothing
   * and learns everything from their leader, once that one has it as a member.
   */
  openGroup(
    options: GroupToOpen,
    machine: GroupStateMachine,
  ): Promise<Group>;
  /** Stops a group and forgets its log. */
  removeGroup(group: number): Promise<void>;
  /** What the other replicas call; to be served on the peer listener. */
  readonly peerService: BoundService;
  status(): GroupStatus[];
  /** Messages and bytes that came from each replica since the start, pieces of snapshots included. */
  readonly received: ReadonlyMap<number, { readonly messages: number; readonly bytes: number }>;
}
