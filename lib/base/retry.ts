import type { Clock } from "./clock.ts";
import { fraction, type Rng } from "./rng.ts";

export interface BackoffOptions {
  readonly baseMs: number;
  readonly maxMs: number;
  /** Tries in all, the first included. */
  readonly tries: number;
}

/** Delay before try `attempt` (1 is the first repeat): exponential with full jitter, never 0. */
export function backoffMs(options: BackoffOptions, attempt: number, rng: Rng): number {
  const ceiling = Math.min(options.maxMs, options.baseMs * 2 ** (attempt - 1));
  return Math.max(1, Math.floor(ceiling * (0.5 + fraction(rng) / 2)));
}

/** Runs `work` until it succeeds, `retryable` says no, or the tries are used up; then rethrows the last failure. */
export async function retry<T>(
  options: BackoffOptions,
  deps: { readonly clock: Clock; readonly rng: Rng; readonly retryable: (error: unknown) => boolean },
  work: (attempt: number) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  for (let attempt = 1;; attempt++) {
    try {
      return await work(attempt);
    } catch (error) {
      if (attempt >= options.tries || !deps.retryable(error)) throw error;
      await deps.clock.sleep(backoffMs(options, attempt, deps.rng), signal);
    }
  }
}
