import { type Rng, seededRng } from "@ultracloud/base";

/** What one run of a seed reports. Two runs of the same seed report the same hash. */
export interface SeedOutcome {
  readonly traceHash: string;
  readonly events: number;
  /** Faults that were injected, by kind. */
  readonly faults: Readonly<Record<string, number>>;
}

/** A seed that failed: the violated rule, and what repeats it. */
export interface SeedFailure {
  readonly seed: number;
  readonly error: Error;
}

export interface SeedSummary {
  readonly seeds: number;
  readonly events: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly failure: SeedFailure | undefined;
}

/** A source of randomness for one part of a simulation: draws in one part do not shift those of another. */
export function splitRng(seed: number, part: number): Rng {
  return seededRng(Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(part + 1, 0x85ebca6b));
}

export interface SeedRange {
  readonly from: number;
  readonly count: number;
  readonly twice: boolean;
}

/** Runs seeds `[from, from + count)` until one fails; with `twice`, a seed whose second run differs fails too. */
export function runSeeds({ from, count, twice }: SeedRange, run: (seed: number) => SeedOutcome): SeedSummary {
  const tally = new Tally();
  for (let seed = from; seed < from + count; seed++) {
    try {
      const outcome = run(seed);
      tally.add(outcome);
      if (twice) sameTrace(outcome, run(seed));
    } catch (error) {
      return tally.summary({ seed, error: error instanceof Error ? error : new Error(String(error)) });
    }
  }
  return tally.summary();
}

/** The same for simulations that give promises their turns. */
export async function runSeedsAsync(
  { from, count, twice }: SeedRange,
  run: (seed: number) => Promise<SeedOutcome>,
): Promise<SeedSummary> {
  const tally = new Tally();
  for (let seed = from; seed < from + count; seed++) {
    try {
      const outcome = await run(seed);
      tally.add(outcome);
      if (twice) sameTrace(outcome, await run(seed));
    } catch (error) {
      return tally.summary({ seed, error: error instanceof Error ? error : new Error(String(error)) });
    }
  }
  return tally.summary();
}

class Tally {
  readonly #faults: Record<string, number> = {};
  #seeds = 0;
  #events = 0;

  add({ events, faults }: SeedOutcome): void {
    this.#seeds++;
    this.#events += events;
    for (const [kind, count] of Object.entries(faults)) this.#faults[kind] = (this.#faults[kind] ?? 0) + count;
  }

  summary(failure?: SeedFailure): SeedSummary {
    return { seeds: this.#seeds, events: this.#events, faults: this.#faults, failure };
  }
}

function sameTrace(one: SeedOutcome, other: SeedOutcome): void {
  if (one.traceHash === other.traceHash) return;
  throw new Error(`Run is not repeatable: trace ${other.traceHash} differs from ${one.traceHash}`);
}
