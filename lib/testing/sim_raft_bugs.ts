import type { PlantedBug } from "./sim_raft_node.ts";

/** Bugs that real systems had, each breaking one rule. A simulation that misses one of them proves nothing. */
export const plantedBugs: Readonly<Record<string, PlantedBug>> = {
  "acknowledges before its own sync": { log: { ackBeforeSync: true } },
  "forgets its vote in a crash": { log: { forgetVote: true } },
  "votes twice in a term": { rules: { mayVote: () => true } },
  "votes for a shorter log": { rules: { upToDate: () => true } },
  "commits entries of older terms by counting": { rules: { mayCommit: () => true } },
  "appends behind an entry of another term": { rules: { matches: (_, held) => held !== undefined } },
  "serves reads without asking a quorum": { rules: { readConfirmed: () => true } },
  "serves reads before a commit in its own term": { rules: { mayRead: () => true } },
  "applies entries that its own log may lose": { rules: { mayApply: (committed) => committed } },
  "serves reads in a lease that rests on equal clocks": { trustsClocks: true },
  "changes the members while a change is open": { rules: { mayChange: () => true } },
  "takes a repeated request for a new one": { machine: { forgetSessions: "at once" } },
  "leaves the clients' sessions out of its snapshots": { machine: { forgetSessions: "in snapshots" } },
  "comes back with an empty disk under its old id": { emptyDisk: true },
  "cuts the log behind state that is not durable": { compactApplied: true },
};
