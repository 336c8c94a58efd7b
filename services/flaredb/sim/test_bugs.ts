/** One broken promise at a time, to prove that the simulation notices. */
export interface PlantedBug {
  /** Writes are answered before they are synced. */
  readonly ackBeforeSync?: boolean;
  /** The log is cut behind state that is not durable. */
  readonly cutApplied?: boolean;
  /** Retried requests carry no key. */
  readonly noKeys?: boolean;
  /** Chance is each replica's own. */
  readonly ownChance?: boolean;
  /** Time is each replica's own. */
  readonly ownClock?: boolean;
  /** Reads are served without asking anybody. */
  readonly localReads?: boolean;
  /** A restarted replica applies its last entry again. */
  readonly appliesTwice?: boolean;
  /** A snapshot leaves the stored answers out. */
  readonly forgetsAnswers?: boolean;
  /** What a batch expects queries to answer is not looked at. */
  readonly ignoresExpected?: boolean;
}

export const plantedBugs: Readonly<Record<string, PlantedBug>> = {
  "answers before the sync": { ackBeforeSync: true },
  "cuts the log behind state that is not durable": { cutApplied: true },
  "retries without a key": { noKeys: true },
  "draws random values on each replica": { ownChance: true },
  "reads the clock on each replica": { ownClock: true },
  "serves reads without asking a quorum": { localReads: true },
  "applies an entry again after a restart": { appliesTwice: true },
  "loses stored answers with a snapshot": { forgetsAnswers: true },
  "runs batches whatever they rest on": { ignoresExpected: true },
};
