import { watchCatchUpRows, watchesPerStreamMax, watchQueueBytesMax, watchQueueMessagesMax } from "../domain/limits.ts";
import { beginsIn } from "../domain/namespaces.ts";
import type { KvEvent } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import type { WatchHub } from "./hub.ts";
import { Watch, type WatchSpec } from "./watch.ts";

/** What the reader of a stream gets, in order. */
export type WatchMessage =
  | { readonly kind: "opened" }
  | { readonly kind: "created"; readonly id: bigint }
  | { readonly kind: "events"; readonly watch: WatchSpec; readonly events: readonly KvEvent[] }
  /** `id` -1n: the whole stream. */
  | { readonly kind: "cancelled"; readonly id: bigint; readonly reason: string; readonly compactRevision: number }
  /** Everything up to the revision was told before. */
  | { readonly kind: "progress"; readonly revision: number };

/** A rough size: what a message holds in memory while it waits. */
function sizeOf(events: readonly KvEvent[]): number {
  let bytes = 64;
  for (const { kv, prev } of events) {
    bytes += 128 + kv.key.length + kv.value.length + (prev ? prev.key.length + prev.value.length : 0);
  }
  return bytes;
}

/**
 * The watches of one caller. Changes that happen are queued up to a bound; a reader that does not take them is cut
 * off and told so, it can go on from the last revision it got. History is read only as fast as the reader takes it.
 */
export class WatchStream {
  readonly id: string;
  readonly owner: string;
  /** Silence after which the reader is told that nothing happened. */
  readonly progressMs: number;
  readonly #hub: WatchHub;
  readonly #watches = new Map<bigint, Watch>();
  readonly #behind = new Set<Watch>();
  #queue: { message: WatchMessage; bytes: number }[] = [{ message: { kind: "opened" }, bytes: 0 }];
  #bytes = 0;
  #ended = false;
  #progressAsked = false;
  #wake: (() => void) | undefined;
  /** When the reader last got something. */
  toldMs: number;

  constructor(options: { readonly id: string; readonly owner: string; readonly progressMs: number }, hub: WatchHub) {
    this.id = options.id;
    this.owner = options.owner;
    this.progressMs = options.progressMs;
    this.#hub = hub;
    this.toldMs = hub.nowMs();
  }

  /** Watches of the stream that begin in the namespace. */
  countIn(namespace: Uint8Array): number {
    let count = 0;
    for (const { spec } of this.#watches.values()) if (beginsIn(namespace, spec)) count++;
    return count;
  }

  add(spec: WatchSpec, field: string): void {
    if (this.#watches.has(spec.id)) throw rejections.watchIdTaken(spec.id, field);
    if (this.#watches.size >= watchesPerStreamMax) throw rejections.tooManyWatches(watchesPerStreamMax);
    this.#hub.count(1);
    const watch = new Watch(spec, this);
    this.#watches.set(spec.id, watch);
    this.#push({ kind: "created", id: spec.id }, 0);
    if (spec.from <= this.#hub.source.revision) this.fallBehind(watch, spec.from);
    else this.#hub.attach(watch);
  }

  cancel(id: bigint, reason: string, compactRevision = 0): void {
    const watch = this.#watches.get(id);
    if (!watch) throw rejections.watchNotFound(id);
    this.#forget(watch);
    this.#push({ kind: "cancelled", id, reason, compactRevision }, 0);
  }

  #forget(watch: Watch): void {
    if (!this.#watches.delete(watch.spec.id)) return;
    this.#behind.delete(watch);
    this.#hub.detach(watch);
    this.#hub.count(-1);
  }

  /** The watch reads history from `next` on before it hears of changes again. */
  fallBehind(watch: Watch, next: number): void {
    watch.next = next;
    this.#hub.detach(watch);
    this.#behind.add(watch);
    this.#wake?.();
  }

  /** Changes for a live watch, as they happen. */
  deliver(watch: Watch, events: readonly KvEvent[]): void {
    const bytes = sizeOf(events);
    if (this.#queue.length >= watchQueueMessagesMax || this.#bytes + bytes > watchQueueBytesMax) {
      this.#hub.cutOff++;
      return this.end("too slow: changes came faster than they were read");
    }
    this.#push({ kind: "events", watch: watch.spec, events }, bytes);
  }

  /** Tells that nothing happened, when that is so. */
  progress(): void {
    if (this.#queue.length === 0 && this.#behind.size === 0 && !this.#ended) this.#pushProgress();
  }

  /** Tells how far the reader is, at once or when no watch is behind any more. */
  requestProgress(): void {
    this.#progressAsked = true;
    this.#answerProgress();
  }

  #answerProgress(): void {
    if (!this.#progressAsked || this.#behind.size > 0 || this.#ended) return;
    this.#progressAsked = false;
    this.#pushProgress();
  }

  #pushProgress(): void {
    // One at the end of the queue says it all, however often it is asked for.
    if (this.#queue.at(-1)?.message.kind === "progress") this.#queue.pop();
    this.#push({ kind: "progress", revision: this.#hub.source.revision }, 0);
  }

  /** Cancels every watch; the reader gets the reason instead of what still waited. */
  end(reason: string): void {
    if (this.#ended) return;
    this.#queue = [];
    this.#bytes = 0;
    this.#push({ kind: "cancelled", id: -1n, reason, compactRevision: 0 }, 0);
    this.close();
  }

  /** Frees everything but what was already said. */
  close(): void {
    this.#ended = true;
    for (const watch of [...this.#watches.values()]) this.#forget(watch);
    this.#hub.drop(this);
    this.#wake?.();
  }

  #push(message: WatchMessage, bytes: number): void {
    this.#queue.push({ message, bytes });
    this.#bytes += bytes;
    this.#wake?.();
  }

  /** Messages until the stream ends; to be read once. Ending the loop closes the stream. */
  async *messages(signal: AbortSignal): AsyncGenerator<WatchMessage> {
    const onAbort = () => this.close();
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      while (!signal.aborted) {
        this.#answerProgress();
        if (this.#queue.length > 0) {
          const taken = this.#queue;
          this.#queue = [];
          for (const { message, bytes } of taken) {
            this.#bytes -= bytes;
            yield message;
            if (signal.aborted) return;
          }
          this.toldMs = this.#hub.nowMs();
        } else if (this.#ended) {
          return;
        } else if (this.#behind.size > 0) {
          const message = this.#catchUp();
          if (message) yield message;
          // Lets writes and other readers have their turn between two steps.
          else await new Promise<void>((resolve) => setTimeout(resolve, 0));
        } else {
          await new Promise<void>((resolve) => this.#wake = resolve);
          this.#wake = undefined;
        }
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
      this.close();
    }
  }

  /** One step of history for the watch that waited longest. */
  #catchUp(): WatchMessage | undefined {
    const { source } = this.#hub;
    const watch: Watch = this.#behind.values().next().value!;
    this.#behind.delete(watch);
    if (watch.next < source.compactRevision) {
      this.cancel(watch.spec.id, "compacted: the start revision is gone", source.compactRevision);
      return undefined;
    }
    const { events, next } = source.changes(watch.spec, watch.next, watchCatchUpRows, watch.spec.prevKv);
    watch.next = next;
    if (next > source.revision) this.#hub.attach(watch);
    else this.#behind.add(watch);
    const wanted = events.filter((event) => watch.wants(event));
    if (wanted.length === 0) return undefined;
    return { kind: "events", watch: watch.spec, events: wanted };
  }
}
