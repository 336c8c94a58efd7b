import { fault, systemClock } from "@ultracloud/base";

export interface WaitOptions {
  readonly timeoutMs: number;
  /** What is waited for, as a noun: "a leader". */
  readonly what: string;
  readonly everyMs?: number;
  readonly signal?: AbortSignal | undefined;
}

let patience = 1;

/**
 * Stretches every wait, and how often it looks, from now on: the same lanes run on processors that are emulated, where
 * looking costs too.
 */
export function setPatience(times: number): void {
  patience = times;
}

/** A time that is generous on this substrate, for one that is on netns. */
export function patient(ms: number): number {
  return ms * patience;
}

/** Repeats until there is a value; what was last seen to fail becomes the cause. */
export async function waitFor<T>(options: WaitOptions, look: () => Promise<T | undefined>): Promise<T> {
  const timeoutMs = patient(options.timeoutMs);
  const endMs = performance.now() + timeoutMs;
  let cause: unknown;
  for (;;) {
    options.signal?.throwIfAborted();
    try {
      const value = await look();
      if (value !== undefined) return value;
    } catch (error) {
      cause = error;
    }
    if (performance.now() > endMs) {
      const last = cause instanceof Error ? ` (last: ${cause.message})` : "";
      throw fault(
        "deadline_exceeded",
        "wait_timeout",
        `Cannot wait longer than ${timeoutMs} ms for ${options.what}${last}`,
        { cause },
      );
    }
    await systemClock.sleep(patient(options.everyMs ?? 50), options.signal);
  }
}
