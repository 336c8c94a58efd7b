interface Waiting {
  readonly key: string;
  readonly enter: () => void;
}

/**
 * Bounds how much goes on at once, in all and for each key, so that the slow ones of one tenant hold up nobody else's.
 * First come, first served among those whose key has room.
 */
export class Slots {
  readonly #totalMax: number;
  readonly #perKeyMax: number;
  readonly #taken = new Map<string, number>();
  #waiting: Waiting[] = [];
  #total = 0;

  constructor(options: { readonly totalMax: number; readonly perKeyMax: number }) {
    this.#totalMax = options.totalMax;
    this.#perKeyMax = options.perKeyMax;
  }

  /** Runs `work` once there is room; rejects with the signal's reason when that comes first. */
  async run<T>(key: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.#enter(key, signal);
    try {
      return await work();
    } finally {
      this.#leave(key);
    }
  }

  #enter(key: string, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const abort = () => {
        this.#waiting = this.#waiting.filter((each) => each !== waiting);
        reject(signal.reason);
      };
      const waiting: Waiting = {
        key,
        enter: () => {
          signal.removeEventListener("abort", abort);
          resolve();
        },
      };
      signal.addEventListener("abort", abort, { once: true });
      this.#waiting.push(waiting);
      this.#admit();
    });
  }

  #leave(key: string): void {
    const left = this.#taken.get(key)! - 1;
    if (left === 0) this.#taken.delete(key);
    else this.#taken.set(key, left);
    this.#total--;
    this.#admit();
  }

  #admit(): void {
    this.#waiting = this.#waiting.filter((waiting) => {
      const taken = this.#taken.get(waiting.key) ?? 0;
      if (this.#total >= this.#totalMax || taken >= this.#perKeyMax) return true;
      this.#taken.set(waiting.key, taken + 1);
      this.#total++;
      waiting.enter();
      return false;
    });
  }
}
