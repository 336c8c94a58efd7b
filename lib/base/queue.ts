import { fault } from "./fault.ts";

/** First in, first out, with a bound: `push` refuses (resource_exhausted) instead of growing past it. One consumer. */
export class BoundedQueue<T> {
  #items: T[] = [];
  #waiting: { resolve: (item: T | undefined) => void } | undefined;
  #closed = false;
  readonly #limit: number;
  readonly #name: string;

  constructor(options: { readonly name: string; readonly limit: number }) {
    this.#name = options.name;
    this.#limit = options.limit;
  }

  get size(): number {
    return this.#items.length;
  }

  push(item: T): void {
    if (this.#closed) throw fault("unavailable", "queue_closed", `Cannot add to ${this.#name} as it is closed`);
    if (this.#waiting) {
      const { resolve } = this.#waiting;
      this.#waiting = undefined;
      resolve(item);
      return;
    }
    if (this.#items.length >= this.#limit) {
      throw fault(
        "resource_exhausted",
        "queue_full",
        `Cannot add to ${this.#name} as it holds ${this.#items.length} of at most ${this.#limit}`,
      );
    }
    this.#items.push(item);
  }

  /** The next item; undefined once closed and drained. Rejects with `signal.reason` when aborted. */
  take(signal?: AbortSignal): Promise<T | undefined> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (this.#items.length > 0) return Promise.resolve(this.#items.shift());
    if (this.#closed) return Promise.resolve(undefined);
    if (this.#waiting) throw new Error(`Two consumers wait on ${this.#name}: wanted one`);
    return new Promise((resolve, reject) => {
      const waiter = {
        resolve: (item: T | undefined) => {
          signal?.removeEventListener("abort", onAbort);
          resolve(item);
        },
      };
      const onAbort = () => {
        if (this.#waiting === waiter) this.#waiting = undefined;
        reject(signal?.reason);
      };
      this.#waiting = waiter;
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  /** Lets the consumer drain what is there and then see the end. */
  close(): void {
    this.#closed = true;
    const waiter = this.#waiting;
    this.#waiting = undefined;
    waiter?.resolve(undefined);
  }
}
