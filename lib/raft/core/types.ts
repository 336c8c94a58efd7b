/**
 * The vocabulary of the protocol as plain values. Field for field the shapes of `ultracloud.raft.v1`; lib/replica
 * converts at the wire. Terms and indexes are integers below 2^53, asserted where they enter.
 */

/** A replica of one group; a positive integer that is never used again after its replica is gone. 0 means none. */
export type NodeId = number;

export type EntryKind = "normal" | "config";

export interface Entry {
  readonly term: number;
  readonly index: number;
  readonly kind: EntryKind;
  /** Empty in the no-op of a new leader; an encoded configuration in a config entry. */
  readonly data: Uint8Array;
}

export type MessageKind =
  | "append"
  | "append_response"
  | "heartbeat"
  | "heartbeat_response"
  | "pre_vote"
  | "pre_vote_response"
  | "vote"
  | "vote_response"
  | "timeout_now"
  | "read_index"
  | "read_index_response"
  | "snapshot_status";

/** One shape for every kind, so that the hot path stays monomorphic; fields a kind does not use are zero. */
export interface Message {
  readonly kind: MessageKind;
  readonly from: NodeId;
  readonly to: NodeId;
  readonly term: number;
  /** Term and index of the entry before `entries`, or of the last log entry in a vote. */
  readonly logTerm: number;
  /** See `logTerm`; in an append_response the last matching index, or the refused one. */
  readonly index: number;
  readonly commit: number;
  readonly entries: readonly Entry[];
  readonly reject: boolean;
  /** Where the follower's log may agree, in a refused append. */
  readonly rejectHintIndex: number;
  readonly rejectHintTerm: number;
  /** Position of a read barrier or heartbeat round; never reused. */
  readonly context: number;
  /** A vote asked for by leader transfer: leases do not stand against it. */
  readonly force: boolean;
}

/** What a replica must remember across a crash. `commit` may lag behind what was acknowledged. */
export interface HardState {
  readonly term: number;
  readonly vote: NodeId;
  readonly commit: number;
}

/** Who decides. A joint configuration has a non-empty `votersOutgoing`; every list is sorted ascending. */
export interface Configuration {
  readonly voters: readonly NodeId[];
  readonly votersOutgoing: readonly NodeId[];
  readonly learners: readonly NodeId[];
  /** Voters of the outgoing half that become learners when the joint configuration is left. */
  readonly learnersNext: readonly NodeId[];
  readonly autoLeave: boolean;
}

/** The point a snapshot, or the cut-off front of a log, stands for. Index 0 is the empty log. */
export interface SnapshotMeta {
  readonly index: number;
  readonly term: number;
  readonly configuration: Configuration;
}

/** The durable log as the core reads it. Answers only about what `LogStore` completions have reported as durable. */
export interface LogView {
  /** Index of the first entry still held: one past the cut-off front. */
  firstIndex(): number;
  /** Index of the last entry; `firstIndex() - 1` when there is none. */
  lastIndex(): number;
  /** Term of the entry at `index`, also at `firstIndex() - 1`; undefined when cut off or beyond the end. */
  term(index: number): number | undefined;
  /**
   * Entries of `[low, high)`, at least one when the range is not empty, then as many as fit `bytesMax` of data.
   * The range lies within the log.
   */
  entries(low: number, high: number, bytesMax: number): readonly Entry[];
}

/** What a leader knows of a peer. Invariant: match < next. */
export interface PeerProgress {
  readonly id: NodeId;
  /** Highest index the peer is known to hold durably. */
  readonly match: number;
  /** Index of the next entry to send. */
  readonly next: number;
  readonly state: "probe" | "replicate" | "snapshot";
  readonly recentlyActive: boolean;
}

export type Role = "follower" | "pre_candidate" | "candidate" | "leader";
