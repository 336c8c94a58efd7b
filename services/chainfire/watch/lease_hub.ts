import { leaseWatchesCountMax, leaseWatchQueueEventsMax } from "../domain/limits.ts";
import type { LeaseEvent } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import type { StateListener } from "../state/machine.ts";

export interface PresentLease {
  readonly id: bigint;
  readonly ttlMs: number;
}

/** What the reader of a lease watch gets, in order. */
export type LeaseMessage =
  /** Everything there is; what was told before counts no more. */
  | { readonly kind: "present"; readonly leases: readonly PresentLease[] }
  | { readonly kind: "events"; readonly events: readonly LeaseEvent[] }
  /** The last one. */
  | { readonly kind: "cancelled"; readonly reason: string };

export interface LeaseWatchOptions {
  /** Empty: every lease. */
  readonly ids: ReadonlySet<bigint>;
  readonly renewals: boolean;
}

/** Tells whoever watches how leases come and go. Never waits for a reader. */
export class LeaseHub implements StateListener {
  readonly #present: () => readonly PresentLease[];
  readonly #streams = new Set<LeaseStream>();

  constructor(deps: { readonly present: () => readonly PresentLease[] }) {
    this.#present = deps.present;
  }

  get count(): number {
    return this.#streams.size;
  }

  open(options: LeaseWatchOptions): LeaseStream {
    if (this.#streams.size >= leaseWatchesCountMax) throw rejections.tooManyWatches(leaseWatchesCountMax);
    const stream = new LeaseStream(options, {
      present: () => this.#present().filter(({ id }) => options.ids.size === 0 || options.ids.has(id)),
      drop: () => void this.#streams.delete(stream),
    });
    this.#streams.add(stream);
    return stream;
  }

  leasesChanged(events: readonly LeaseEvent[]): void {
    for (const stream of this.#streams) stream.deliver(events);
  }

  replaced(): void {
    for (const stream of this.#streams) stream.startOver();
  }

  /** Ends every watch. */
  close(reason: string): void {
    for (const stream of [...this.#streams]) stream.end(reason);
  }
}

/** One watch of leases. */
export class LeaseStream {
  readonly #options: LeaseWatchOptions;
  readonly #deps: { readonly present: () => readonly PresentLease[]; readonly drop: () => void };
  #startOver = true;
  #events: LeaseEvent[] = [];
  #ended: string | undefined;
  #wake: (() => void) | undefined;

  constructor(
    options: LeaseWatchOptions,
    deps: { readonly present: () => readonly PresentLease[]; readonly drop: () => void },
  ) {
    this.#options = options;
    this.#deps = deps;
  }

  deliver(events: readonly LeaseEvent[]): void {
    // Whoever is about to be told what is present needs no changes before that.
    if (this.#startOver) return;
    const { ids, renewals } = this.#options;
    for (const event of events) {
      if ((ids.size === 0 || ids.has(event.id)) && (renewals || event.type !== "renewed")) this.#events.push(event);
    }
    if (this.#events.length > leaseWatchQueueEventsMax) this.end("too slow: changes came faster than they were read");
    else if (this.#events.length > 0) this.#wake?.();
  }

  /** The reader is told what is present again. */
  startOver(): void {
    this.#startOver = true;
    this.#events = [];
    this.#wake?.();
  }

  end(reason: string): void {
    this.#ended ??= reason;
    this.#events = [];
    this.#deps.drop();
    this.#wake?.();
  }

  /** Messages until the watch ends; to be read once. */
  async *messages(signal: AbortSignal): AsyncGenerator<LeaseMessage> {
    const onAbort = () => this.end("cancelled by the caller");
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      while (!signal.aborted) {
        if (this.#ended !== undefined) {
          yield { kind: "cancelled", reason: this.#ended };
          return;
        }
        if (this.#startOver) {
          this.#startOver = false;
          yield { kind: "present", leases: this.#deps.present() };
        } else if (this.#events.length > 0) {
          const events = this.#events;
          this.#events = [];
          yield { kind: "events", events };
        } else {
          await new Promise<void>((resolve) => this.#wake = resolve);
          this.#wake = undefined;
        }
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
      this.#deps.drop();
    }
  }
}
