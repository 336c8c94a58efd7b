import { likePatternMax } from "./bounds.ts";
import { literalMax, needleMax, patternPasses, patternPassesMax, slowWork, type ValueWork } from "./value_work.ts";

/**
 * How long values may get while a statement runs, so that it ends: SQLite cannot be interrupted here, but it refuses
 * values beyond a length that can be set for each statement.
 */

/** Bytes that a statement may work through, in units of copying them: some seconds. */
const madeBytesMax = 4 * 1024 ** 3;
/** The same where values come from rows only: they are rarely as long as they may be. */
const storedBytesMax = 32 * 1024 ** 3;
/** Length by length, in units of comparing bytes in bulk. */
const squareMax = 2 ** 39;
/** A pattern that only running tells is held to this many characters, and taken to need as many passes. */
const computedPatternMax = 100;
const computedPasses = 16;
/** Work of this much takes as long as visiting a row. */
const workPerRow = 32;

/** What of the parameters matters. */
export interface Bound {
  /** Bytes of the longest. */
  readonly longest: number;
  /** Passes of the worst of them as a pattern. */
  readonly passes: number;
}

/** Reads it from the values that are bound; `asPatterns`: one of them is a pattern. */
export function boundValues(values: Iterable<string | Uint8Array>, asPatterns: boolean): Bound {
  let longest = 0, passes = 1;
  for (const value of values) {
    longest = Math.max(longest, value.length);
    // SQLite takes no longer ones as patterns.
    if (asPatterns && typeof value === "string" && value.length <= likePatternMax) {
      passes = Math.max(passes, patternPasses(value));
    }
  }
  return { longest, passes };
}

export interface ValueLimits {
  /** Bytes of the longest value or row. */
  readonly bytesMax: number;
  /** Characters of the longest pattern. */
  readonly patternMax: number;
}

/** Rows that a plan visits, weighed by what is done for each of them. */
export function weighedRows(rows: number, work: ValueWork, { passes }: Bound): number {
  const each = work.linear + work.called + work.asked * slowWork * passes;
  return rows * Math.max(1, each / workPerRow, work.frames ? rows : 1);
}

/**
 * The limits for a statement that does `work` for each of `rows`; undefined when the usual ones do. `nested`: what one
 * row holds may be used for many others.
 */
export function valueLimits(
  rows: number,
  nested: boolean,
  work: ValueWork,
  { longest, passes }: Bound,
  usual: ValueLimits,
): ValueLimits | undefined {
  const long = longest > needleMax;
  const square = work.square + (long ? work.needles : 0);
  const linear = 1 + work.linear + work.asked * slowWork * passes + work.patterns * slowWork * computedPasses;
  const makes = work.makes || (long && work.replaces) || (work.asked > 0 && passes > patternPassesMax) ||
    (longest > literalMax && linear > 1);
  const bytesMax = Math.floor(Math.min(
    makes ? madeBytesMax / (rows * linear) : Infinity,
    (nested && work.linear >= 1) || work.patterns > 0 ? storedBytesMax / (rows * linear) : Infinity,
    square > 0 ? Math.sqrt(squareMax / (rows * square)) : Infinity,
  ));
  if (bytesMax >= usual.bytesMax && work.patterns === 0) return undefined;
  return {
    bytesMax: Math.min(bytesMax, usual.bytesMax),
    patternMax: work.patterns > 0 ? computedPatternMax : usual.patternMax,
  };
}
