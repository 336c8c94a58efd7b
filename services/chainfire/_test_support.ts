import { Fault, systemClock, utf8 } from "@ultracloud/base";
import assert from "node:assert/strict";

export const b = utf8.encode;
export const text = utf8.decode;
/** Every key there is. */
export const all = { key: new Uint8Array([0]), rangeEnd: new Uint8Array([0]) };
/** Quick elections: several processes share the machine with the tests. */
export const quick = { tickMs: 20, electionTicks: 15, heartbeatTicks: 3 };

export async function rejects(work: Promise<unknown>, kind: string, code: string): Promise<void> {
  await assert.rejects(work, (error) => {
    assert.ok(error instanceof Fault, String(error));
    assert.deepEqual({ kind: error.kind, code: error.code }, { kind, code });
    return true;
  });
}

/** Waits for a condition, with a deadline. */
export async function eventually(
  condition: () => boolean | Promise<boolean>,
  what = "the condition must hold in time",
  timeoutMs = 30_000,
): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!await condition()) {
    assert.ok(performance.now() < end, what);
    await systemClock.sleep(20);
  }
}

/** Tries until a leader answers: what a patient client does while one is elected. */
export async function patiently<T>(work: () => Promise<T>, timeoutMs = 30_000): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Fault && error.kind === "unavailable") || performance.now() > end) throw error;
      await systemClock.sleep(20);
    }
  }
}
