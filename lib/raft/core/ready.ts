import type { ReadState } from "./reads.ts";
import type { Entry, HardState, Message, NodeId, SnapshotMeta } from "./types.ts";

/** What the outside has to do. Fields without work are undefined or empty. */
export interface Ready {
  /** To be sent now; a leader's appends travel while its own write is under way. */
  readonly messages: readonly Message[];
  /** Replace the durable log by this point, before `append`; answer with `advanceAppend(seq)`. */
  readonly install: { readonly seq: number; readonly meta: SnapshotMeta } | undefined;
  /** Write this behind all earlier writes; answer with `advanceAppend(seq)` once durable. */
  readonly append:
    | { readonly seq: number; readonly hardState: HardState | undefined; readonly entries: readonly Entry[] }
    | undefined;
  /** Hand these to the state machine; answer with `advanceApply(last index)`. The next ones come only then. */
  readonly committed: readonly Entry[];
  /** Peers that need a snapshot; answer each by stepping a `snapshot_status`. */
  readonly snapshotsDue: readonly NodeId[];
  /** Reads that may be served once the state machine has reached their index. */
  readonly reads: readonly ReadState[];
}

/** Why a proposal was not taken; nothing happened. */
export type ProposeRefusal = "not_leader" | "transferring" | "uncommitted_full";
