import type { Clock } from "@ultracloud/base";

/** A point on the simulated time line. */
interface SimEvent {
  readonly atMs: number;
  readonly seq: number;
  run: (() => void) | undefined;
}

/**
 * Time that moves only when told to. Events run ordered by time, then by the order in which they were asked for, so
 * the same program gives the same run. Serves code that waits (`Clock`) and simulations that schedule (`at`).
 */
export class SimClock implements Clock {
  readonly #epochMs: number;
  readonly #heap: SimEvent[] = [];
  #nowMs = 0;
  #seq = 0;
  #skewMs = 0;

  /** `epochMs` is the wall time at the start. */
  constructor(options: { readonly epochMs?: number } = {}) {
    this.#epochMs = options.epochMs ?? Date.UTC(2026, 0, 1);
  }

  nowMs(): number {
    return this.#epochMs + this.#nowMs + this.#skewMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const cancel = this.after(ms, () => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      });
      const onAbort = () => {
        cancel();
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  /** Runs `run` once `ms` have passed; the answer cancels it. */
  after(ms: number, run: () => void): () => void {
    const event: SimEvent = { atMs: this.#nowMs + Math.max(0, ms), seq: this.#seq++, run };
    this.#push(event);
    return () => {
      event.run = undefined;
    };
  }

  /** Steps the wall clock, forward or back; monotonic time and timers do not notice. */
  skew(ms: number): void {
    this.#skewMs += ms;
  }

  /** Time of the next event; undefined when nothing is scheduled. */
  nextMs(): number | undefined {
    return this.#heap[0]?.atMs;
  }

  /** Runs the next event and moves time to it; false when there is none at or before `untilMs`. */
  step(untilMs = Infinity): boolean {
    const event = this.#heap[0];
    if (!event || event.atMs > untilMs) return false;
    this.#pop();
    this.#nowMs = event.atMs;
    event.run?.();
    return true;
  }

  /** Runs everything that is due within the next `ms`, without giving promises a turn: for simulations. */
  run(ms: number): void {
    const until = this.#nowMs + ms;
    while (this.step(until));
    this.#nowMs = until;
  }

  /** Moves time by `ms` and lets promises settle after every event: for code that awaits `sleep`. */
  async advance(ms: number): Promise<void> {
    const until = this.#nowMs + ms;
    await settle();
    while (this.step(until)) await settle();
    this.#nowMs = until;
  }

  #push(event: SimEvent): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(event, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
  }
}

function before(a: SimEvent, b: SimEvent): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.seq < b.seq);
}

/** One turn of the event loop: every promise that can settle has settled. */
function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
