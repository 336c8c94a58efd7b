import type { Clock } from "@ultracloud/base";

/** What `work` answers; undefined when it takes longer than `ms`. */
export async function first<T>(clock: Clock, work: Promise<T>, ms: number): Promise<T | undefined> {
  const stop = new AbortController();
  const late = clock.sleep(ms, stop.signal).then(() => undefined, () => undefined);
  try {
    return await Promise.race([work, late]);
  } finally {
    stop.abort();
  }
}

/** True when `work` ends within the time. */
export async function within(clock: Clock, work: Promise<unknown>, ms: number): Promise<boolean> {
  return await first(clock, work.then(() => true as const), ms) ?? false;
}
