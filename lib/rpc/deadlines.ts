/** Something that ends when its time is over. */
export interface Expiring {
  /** On the monotonic clock; Infinity never expires. */
  readonly deadlineMs: number;
  expire(): void;
}

/** Least time between two looks at all entries, and so how late one may expire. */
const granularityMs = 8;

/**
 * Entries under way, each expired at its deadline. One timer serves all: a timer per call costs more than the call.
 * It is set for the nearest deadline and not moved when that entry ends early, as nearly all do.
 */
export class Deadlines<E extends Expiring> {
  readonly entries = new Set<E>();
  readonly #now: () => number;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #nextMs = Infinity;

  constructor(now: () => number) {
    this.#now = now;
  }

  add(entry: E): void {
    this.entries.add(entry);
    if (entry.deadlineMs < this.#nextMs) this.#arm(entry.deadlineMs);
  }

  remove(entry: E): void {
    this.entries.delete(entry);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#nextMs = Infinity;
  }

  #arm(deadlineMs: number): void {
    clearTimeout(this.#timer);
    this.#nextMs = deadlineMs;
    this.#timer = setTimeout(() => this.#fire(), Math.max(granularityMs, deadlineMs - this.#now()));
  }

  #fire(): void {
    const now = this.#now();
    let nextMs = Infinity;
    for (const entry of [...this.entries]) {
      if (entry.deadlineMs <= now) entry.expire();
      else if (entry.deadlineMs < nextMs) nextMs = entry.deadlineMs;
    }
    this.#nextMs = Infinity;
    if (nextMs !== Infinity) this.#arm(nextMs);
  }
}
