import type { NodeId } from "./types.ts";

/**
 * The few decisions on which safety rests, each on its own line and each from the paper. The core asks them here and
 * nowhere else, so that the simulation can break one at a time and must notice.
 */
export interface Rules {
  /** Section 5.2: one vote per term. `vote` is 0 when none was given. */
  mayVote(vote: NodeId, candidate: NodeId): boolean;
  /** Section 5.4.1: a candidate's log is at least as complete as the voter's. */
  upToDate(logTerm: number, index: number, lastTerm: number, lastIndex: number): boolean;
  /** Section 5.4.2: only entries of the own term commit by counting replicas; older ones commit with them. */
  mayCommit(entryTerm: number, term: number): boolean;
  /** Section 5.3: a follower appends only behind an entry it holds. `heldTerm` is undefined when it has none there. */
  matches(logTerm: number, heldTerm: number | undefined): boolean;
  /** Section 6.4 of the thesis: a read waits until a quorum has answered a heartbeat sent after the read came. */
  readConfirmed(quorumPosition: number, position: number): boolean;
  /** Section 6.4 of the thesis: a new leader knows the commit index only once an entry of its term has committed. */
  mayRead(committedTerm: number, term: number): boolean;
  /**
   * Section 4.1 of the thesis: one change of the members at a time, and a joint configuration is left before the next.
   * `pending`: the fate of an earlier one is open. `joint`: one is in force, and the change does not leave it.
   */
  mayChange(pending: boolean, joint: boolean): boolean;
  /** How far the state machine may go: committed, and durable here, so that it never runs ahead of the own log. */
  mayApply(committed: number, durable: number): number;
}

export const raftRules: Rules = {
  mayVote: (vote, candidate) => vote === 0 || vote === candidate,
  upToDate: (logTerm, index, lastTerm, lastIndex) => logTerm > lastTerm || (logTerm === lastTerm && index >= lastIndex),
  mayCommit: (entryTerm, term) => entryTerm === term,
  matches: (logTerm, heldTerm) => heldTerm === logTerm,
  readConfirmed: (quorumPosition, position) => quorumPosition >= position,
  mayRead: (committedTerm, term) => committedTerm === term,
  mayChange: (pending, joint) => !pending && !joint,
  mayApply: (committed, durable) => committed < durable ? committed : durable,
};
