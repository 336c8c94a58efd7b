import { systemClock } from "@ultracloud/base";

const everyMs = 20;

/** How slow a machine is while something else is timed. */
export interface Pace extends AsyncDisposable {
  /** The longest that one of the calls took so far, or that a timer was late. */
  readonly slowestMs: number;
}

/**
 * Repeats calls that nothing hinders beside something that is timed, so that a starved machine can be told from a broken
 * promise: on an idle one they take milliseconds, and what is allowed on top is nothing. Failures of the calls reject
 * the disposal.
 */
export function startPace(calls: readonly (() => Promise<unknown>)[]): Pace {
  const over = new AbortController();
  let slowestMs = 0;
  const note = (ms: number) => slowestMs = Math.max(slowestMs, ms);
  const repeat = async (call: () => Promise<unknown>) => {
    while (!over.signal.aborted) {
      const start = performance.now();
      await call();
      note(performance.now() - start);
      const slept = performance.now();
      await systemClock.sleep(everyMs, over.signal).catch(() => {});
      if (!over.signal.aborted) note(performance.now() - slept - everyMs);
    }
  };
  const all = Promise.all(calls.map(repeat));
  // Told by the disposal; until then it must not be an unhandled one.
  all.catch(() => {});
  return {
    get slowestMs() {
      return slowestMs;
    },
    async [Symbol.asyncDispose]() {
      over.abort();
      await all;
    },
  };
}
