import { type Rng, uniform } from "@ultracloud/base";
import type { RaftOptions } from "@ultracloud/raft";

/** What goes wrong, as often as it is named. */
export const ACTIONS = [
  "power cut",
  "power cut of all",
  "kill",
  "kill of the leader",
  "isolation of the leader",
  "isolation of the leader",
  "isolation of the leader",
  "partition",
  "one-way cut",
  "healing",
  "healing",
  "healing",
  "healing",
  "healing",
  "pause",
  "slow disk",
  "failed sync",
  "full disk",
  "loss of a disk",
  "clock drift",
  "transfer",
  "checkpoint",
  "checkpoint",
  "checkpoint",
] as const;

/** Sizes so small that every limit is met many times in a run. */
export function raftKnobs(rng: Rng): Omit<RaftOptions, "id"> {
  return {
    electionTicks: 10,
    heartbeatTicks: 2,
    messageBytesMax: pick(rng, [1, 1, 60, 1000]),
    inflightMessagesMax: pick(rng, [1, 2, 8]),
    inflightBytesMax: pick(rng, [30, 1000]),
    uncommittedBytesMax: pick(rng, [60, 10_000]),
    applyBytesMax: pick(rng, [1, 100, 10_000]),
    cacheBytesMax: pick(rng, [1, 200, 10_000]),
    retainedEntries: pick(rng, [0, 3, 30]),
  };
}

export function pick<T>(rng: Rng, from: readonly T[]): T {
  return from[uniform(rng, from.length)]!;
}
