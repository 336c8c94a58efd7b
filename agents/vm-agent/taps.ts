import { type Clock, fault } from "@ultracloud/base";
import { outputOf } from "./stats.ts";

/** net-agent makes a device within a second of hearing of it. */
const tapTimeoutMs = 10_000;
const tapEveryMs = 25;

/** Waits until net-agent has made the taps: QEMU would make one itself, which leads nowhere. */
export async function awaitTaps(devices: readonly string[], deps: { readonly clock: Clock }): Promise<void> {
  const deadline = deps.clock.monotonicMs() + tapTimeoutMs;
  for (const device of devices) {
    while (await outputOf("ip", ["-brief", "link", "show", "dev", device]) === "") {
      if (deps.clock.monotonicMs() > deadline) {
        throw fault(
          "unavailable",
          "tap_missing",
          `Cannot start QEMU as there is no device ${device} after ${tapTimeoutMs} ms: wanted it from net-agent`,
          { retryAfterMs: 1_000 },
        );
      }
      await deps.clock.sleep(tapEveryMs);
    }
  }
}
