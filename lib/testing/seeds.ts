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

/** Runs seeds `[from, from + count)` until one fails; with `twice`, a seed whose second run differs fails too. */
export function runSeeds(
  options: { readonly from: number; readonly count: number; readonly twice: boolean },
  run: (seed: number) => SeedOutcome,
): SeedSummary {
  const faults: Record<string, number> = {};
  let seeds = 0, events = 0;
  const summary = (failure?: SeedFailure): SeedSummary => ({ seeds, events, faults, failure });
  for (let seed = options.from; seed < options.from + options.count; seed++) {
    try {
      const outcome = run(seed);
      seeds++;
      events += outcome.events;
      for (const [kind, count] of Object.entries(outcome.faults)) faults[kind] = (faults[kind] ?? 0) + count;
      if (options.twice) {
        const again = run(seed);
        if (again.traceHash !== outcome.traceHash) {
          throw new Error(`Run is not repeatable: trace ${again.traceHash} differs from ${outcome.traceHash}`);
        }
      }
    } catch (error) {
      return summary({ seed, error: error instanceof Error ? error : new Error(String(error)) });
    }
  }
  return summary();
}
