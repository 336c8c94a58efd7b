/** Milliseconds since the Unix epoch. */
export type WallMs = number;
/** Milliseconds on a clock that never steps; only differences mean something. */
export type MonoMs = number;

/** Time as a dependency. Its simulated twin is SimClock in lib/testing. */
export interface Clock {
  nowMs(): WallMs;
  monotonicMs(): MonoMs;
  /** Resolves after `ms`; rejects with `signal.reason` when aborted first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** The machine's clock. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  sleep(ms, signal) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const onAbort = () => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      }, ms);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  },
};
