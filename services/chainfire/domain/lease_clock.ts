import type { Clock } from "@ultracloud/base";
import { leaseClockStepMsMax } from "./limits.ts";

/**
 * A leader's reading of the replicated clock: what the state last heard plus the time since on the monotonic clock.
 * It never runs ahead of real time, whatever happens to the wall clock, and it leaves out what nobody could use:
 * time without a leader and time in which the process stood still.
 */
export class LeaseClock {
  readonly #clock: Pick<Clock, "monotonicMs">;
  readonly #replicatedMs: () => number;
  #ms = 0;
  #seenMs: number;

  constructor(deps: { readonly clock: Pick<Clock, "monotonicMs">; readonly replicatedMs: () => number }) {
    this.#clock = deps.clock;
    this.#replicatedMs = deps.replicatedMs;
    this.#seenMs = deps.clock.monotonicMs();
  }

  /** To be called when leadership begins: time goes on from where the last leader left it. */
  restart(): void {
    this.#ms = this.#replicatedMs();
    this.#seenMs = this.#clock.monotonicMs();
  }

  /** Whole milliseconds. To be called at least every `leaseClockStepMsMax`, or time is left out. */
  nowMs(): number {
    const seenMs = this.#clock.monotonicMs();
    this.#ms += Math.min(Math.max(0, seenMs - this.#seenMs), leaseClockStepMsMax);
    this.#seenMs = seenMs;
    this.#ms = Math.max(this.#ms, this.#replicatedMs());
    return Math.floor(this.#ms);
  }
}
