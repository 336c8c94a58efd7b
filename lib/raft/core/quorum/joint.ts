import type { NodeId } from "../types.ts";
import { type AckedIndex, majorityCommitted, majorityVote, type VoteResult } from "./majority.ts";

/** The two halves of a joint configuration; outside a change the outgoing half is empty. */
export interface VoterSets {
  readonly voters: readonly NodeId[];
  readonly votersOutgoing: readonly NodeId[];
}

/** The highest index that a majority of each half holds. */
export function jointCommitted(sets: VoterSets, acked: AckedIndex): number {
  const incoming = majorityCommitted(sets.voters, acked);
  if (sets.votersOutgoing.length === 0) return incoming;
  return Math.min(incoming, majorityCommitted(sets.votersOutgoing, acked));
}

/** Won when both halves say so, lost as soon as one does. */
export function jointVote(sets: VoterSets, votes: ReadonlyMap<NodeId, boolean>): VoteResult {
  const incoming = majorityVote(sets.voters, votes);
  if (sets.votersOutgoing.length === 0) return incoming;
  const outgoing = majorityVote(sets.votersOutgoing, votes);
  if (incoming === outgoing) return incoming;
  return incoming === "lost" || outgoing === "lost" ? "lost" : "pending";
}
