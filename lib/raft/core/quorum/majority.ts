import type { NodeId } from "../types.ts";

/** How a vote stands: decided either way, or open. */
export type VoteResult = "won" | "lost" | "pending";

/** The last index a voter is known to hold; undefined when it has not reported. */
export type AckedIndex = (id: NodeId) => number | undefined;

/** Reused between calls, so that counting a commit allocates nothing; single-threaded, so never shared. */
const scratch: number[] = [];

/**
 * The highest index that a majority of `voters` holds. Nobody to ask means no objection: Infinity, so that the empty
 * half of a joint configuration never decides.
 */
export function majorityCommitted(voters: readonly NodeId[], acked: AckedIndex): number {
  const n = voters.length;
  if (n === 0) return Infinity;
  if (n === 1) return acked(voters[0]!) ?? 0;
  // Insertion sort: groups have three to seven voters.
  for (let i = 0; i < n; i++) {
    const value = acked(voters[i]!) ?? 0;
    let at = i;
    while (at > 0 && scratch[at - 1]! > value) {
      scratch[at] = scratch[at - 1]!;
      at--;
    }
    scratch[at] = value;
  }
  return scratch[n - (Math.floor(n / 2) + 1)]!;
}

/** How the vote among `voters` stands; an empty electorate has nothing against anyone. */
export function majorityVote(voters: readonly NodeId[], votes: ReadonlyMap<NodeId, boolean>): VoteResult {
  if (voters.length === 0) return "won";
  let yes = 0, open = 0;
  for (const id of voters) {
    const vote = votes.get(id);
    if (vote === undefined) open++;
    else if (vote) yes++;
  }
  const quorum = Math.floor(voters.length / 2) + 1;
  if (yes >= quorum) return "won";
  return yes + open >= quorum ? "pending" : "lost";
}
