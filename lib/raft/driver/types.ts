import type { Rng } from "@ultracloud/base";
import type { Rules } from "../core/rules.ts";
import type { LeaseOptions } from "./lease.ts";
import type {
  Configuration,
  Entry,
  HardState,
  LogView,
  Message,
  NodeId,
  PeerProgress,
  Role,
  SnapshotMeta,
} from "../core/types.ts";

/** Called once when the work is done; with an error when it failed for good. Never called from within the call it ends. */
export type Done = (error?: Error) => void;

/** One write to the log: all of it becomes durable together, or (after a crash) a prefix of its entries does. */
export interface LogBatch {
  /** To be durable no later than the entries; absent when unchanged. */
  readonly hardState: HardState | undefined;
  /** Consecutive. An entry at an index that exists removes that index and all above it first. */
  readonly entries: readonly Entry[];
}

/**
 * A snapshot that was taken or received: the point it stands for and the state machine's whole state there. How the host
 * holds the state, `Data`, is its own affair (bytes here, a file there): the driver only passes it on.
 */
export interface Snapshot<Data = Uint8Array> {
  readonly meta: SnapshotMeta;
  readonly data: Data;
}

/**
 * The durable log of one group. Writes are asked for in order and complete in order: the completion of one says that
 * everything asked before it is durable too. The inherited reads answer about completed writes; they may already show
 * later ones. An error from any write means that the disk can no longer be trusted: the driver stops for good.
 */
export interface LogStore<Data = Uint8Array> extends LogView {
  /**
   * What survived, read once at start. A new log has term 0, vote 0, commit 0 and base index 0 with no voters; the
   * base of a cut log is what the last `compact` or `installSnapshot` stored.
   */
  initialState(): { readonly hardState: HardState; readonly base: SnapshotMeta };
  append(batch: LogBatch, done: Done): void;
  /**
   * Replaces the whole log by the point of the snapshot and keeps its data readable by `loadSnapshot` until
   * `releaseSnapshot`. Durable (data first, then the point) when done; nothing else is asked of the log until
   * then. The data of an earlier snapshot stays readable as long as the log's base is that snapshot's point: a crash in
   * between needs it.
   */
  installSnapshot(snapshot: Snapshot<Data>, done: Done): void;
  /**
   * The installed snapshot whose data is still held: read once it is installed, and at start when the state machine is
   * behind the log's base.
   */
  loadSnapshot(): Snapshot<Data> | undefined;
  /** The state machine holds this snapshot durably: its data may go. */
  releaseSnapshot(index: number): void;
  /** Forgets entries up to and including `base.index`; need not be durable, since it only frees space. */
  compact(base: SnapshotMeta): void;
}

/**
 * What the log decides. Calls never overlap: the next one comes after the previous is done. Only a snapshot may take its
 * time while entries are applied.
 */
export interface StateMachine<Data = Uint8Array> {
  /** Index of the last entry whose effect survives in the machine, read once at start; 0 when new. */
  appliedIndex(): number;
  /**
   * Applies consecutive entries and records the last index with their effect. Config entries and entries without data
   * only move the index. `done` may be called at once; it carries one result per entry.
   */
  apply(entries: readonly Entry[], done: (results: readonly unknown[]) => void): void;
  /**
   * The whole state at one applied index, at or above the log's start at the call; `done` may be called at once. Until
   * it is sent, the driver keeps the log behind that start.
   */
  snapshot(done: (taken: { readonly index: number; readonly data: Data } | Error) => void): void;
  /**
   * Replaces the whole state. `done` may be called at once; it promises nothing about durability: the log keeps the
   * data until `RaftDriver.compact` reports a durable index at or above it.
   */
  restore(snapshot: Snapshot<Data>, done: Done): void;
}

/** Ways to the other replicas. Messages may be lost, doubled, delayed and reordered; they are never invented. */
export interface Transport<Data = Uint8Array> {
  /** Sends and forgets. Entries and messages may be kept, they are never changed. */
  send(messages: readonly Message[]): void;
  /**
   * Carries a snapshot out of band. The other side hands it to `RaftDriver.receiveSnapshot`. `done(true)` when that
   * side has answered that it is installed or not needed; must be called in any case, or the peer stays without.
   */
  sendSnapshot(header: SnapshotHeader, data: Data, done: (installed: boolean) => void): void;
}

/** What travels before the data of a snapshot. */
export interface SnapshotHeader {
  readonly from: NodeId;
  readonly to: NodeId;
  /** Term of the sender, the leader. */
  readonly term: number;
  readonly meta: SnapshotMeta;
}

/** What the driver tells its host; each call happens inside `RaftDriver.run`. */
export interface DriverEvents {
  /**
   * There is work for `run`. Called at most once between two runs, so that everything that arrives in one turn of the
   * event loop shares one write. The host calls `run` soon, never from within.
   */
  wake(): void;
  /** Role, term or known leader changed. */
  roleChanged?(status: DriverStatus): void;
  /** Another configuration is in force, since the entry or snapshot at `index`; told once at start too. */
  configurationChanged?(configuration: Configuration, index: number): void;
  /** The log failed or a bug was found. The driver does nothing any more; the process should end. */
  fatal(error: Error): void;
}

export interface DriverDeps<Data = Uint8Array> {
  readonly log: LogStore<Data>;
  readonly machine: StateMachine<Data>;
  readonly transport: Transport<Data>;
  readonly events: DriverEvents;
  readonly rng: Rng;
  /** A clock that never goes back, for lease reads alone: it must go on while the process is stopped. */
  readonly nowMs?: () => number;
  /** Replaced by the simulation, to prove that it notices a broken rule. */
  readonly rules?: Rules;
}

export interface DriverStatus {
  readonly id: NodeId;
  readonly role: Role;
  readonly term: number;
  /** 0 when unknown. */
  readonly leader: NodeId;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly firstIndex: number;
  readonly lastIndex: number;
  readonly voters: readonly NodeId[];
  readonly learners: readonly NodeId[];
  readonly configuration: Configuration;
  /** How far each peer is; on a leader only. */
  readonly progress?: ReadonlyMap<NodeId, PeerProgress>;
  /** Ticks since this replica last heard from a leader, or, on a leader, since a quorum was last confirmed. */
  readonly contactTicks: number;
}

/** Why a proposal or a read was not served. */
export type RefusalCode =
  /** This replica does not lead; `leader` may. Nothing happened. */
  | "not_leader"
  /** Leadership is being handed over, or no commit of the own term yet. Nothing happened. */
  | "transferring"
  /** Too many bytes wait for commit. Nothing happened. */
  | "uncommitted_full"
  /** An earlier change of the members has not come to its end. Nothing happened. */
  | "change_pending"
  /** The change would cost the quorum, or promote a learner that lags. Nothing happened. */
  | "unsafe_change"
  /** Leadership went away after the entry was logged: it may or may not take effect. */
  | "leadership_lost"
  /** Another entry took its place: it never takes effect. */
  | "superseded"
  /** No quorum answered a read in time. */
  | "no_quorum"
  /** The driver was stopped: a logged entry may or may not take effect. */
  | "stopped";

export interface Refusal {
  readonly refused: RefusalCode;
  /** The leader as far as known, 0 otherwise. */
  readonly leader: NodeId;
  /** For operators, where the code does not say it all. */
  readonly reason?: string;
}

/**
 * The answer to a change of the members: in force since `index` and applied here. A joint configuration that is left by
 * itself has been left by then.
 */
export type ChangeOutcome = { readonly index: number; readonly configuration: Configuration } | Refusal;

/** The answer to a proposal: applied at `index` with the state machine's result, or a refusal. */
export type ProposalOutcome = { readonly index: number; readonly result: unknown } | Refusal;

/** The answer to a read: local state now holds everything up to `index`, or a refusal. */
export type ReadOutcome = { readonly index: number } | Refusal;

/** Durations in ticks of the host's clock, sizes in bytes of entry data. */
export interface RaftOptions {
  readonly id: NodeId;
  /** A follower stands for election after this to twice this many ticks without a leader. */
  readonly electionTicks: number;
  /** A leader shows itself this often; well below `electionTicks`. */
  readonly heartbeatTicks: number;
  /** Data in one append message. */
  readonly messageBytesMax?: number;
  /** Append messages on their way to one peer. */
  readonly inflightMessagesMax?: number;
  readonly inflightBytesMax?: number;
  /** Proposed data that waits for commit; the bound on memory when a quorum is lost. */
  readonly uncommittedBytesMax?: number;
  /** Data handed to the state machine at once. */
  readonly applyBytesMax?: number;
  /** Recent entries kept in memory, beyond those not yet durable or applied. */
  readonly cacheBytesMax?: number;
  /** Entries kept behind a compaction, so that a peer which was away for a moment needs no snapshot. */
  readonly retainedEntries?: number;
  /**
   * A leader that a quorum confirmed a moment ago answers reads without asking again. Absent, the default: clocks decide
   * nothing. Either every replica of the group has it or none, since a replica that starts then waits with its vote.
   */
  readonly leaseReads?: LeaseOptions;
  /** A leader makes voters of learners that lag by at most this many entries. Absent: somebody asks for each. */
  readonly promotionLagMax?: number;
  /** Which learners those are; all of them when absent. */
  readonly mayPromote?: (id: NodeId) => boolean;
}
