import type { Clock } from "@ultracloud/base";
import { watchesCountMax } from "../domain/limits.ts";
import type { KeyRange, KvEvent } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import type { StateListener } from "../state/machine.ts";
import { WatchStream } from "./stream.ts";
import type { Watch } from "./watch.ts";

/** Where history comes from: the state. */
export interface ChangeSource {
  readonly revision: number;
  readonly compactRevision: number;
  changes(range: KeyRange, from: number, rows: number, prevKv: boolean): { events: KvEvent[]; next: number };
}

/** A key as a map key: one character a byte. */
function textOf(key: Uint8Array): string {
  let text = "";
  for (const byte of key) text += String.fromCharCode(byte);
  return text;
}

/** Hands each change to the watches that want it. Never waits for a reader. */
export class WatchHub implements StateListener {
  readonly source: ChangeSource;
  readonly #clock: Pick<Clock, "monotonicMs">;
  /** Live watches on one key, by key, and on ranges. */
  readonly #byKey = new Map<string, Set<Watch>>();
  readonly #onRanges = new Set<Watch>();
  readonly #streams = new Map<string, WatchStream>();
  /** Everything up to it was told to live watches. */
  #toldRevision: number;
  #watches = 0;
  /** Changes told to live watches, and streams cut off as nobody read them, since the start. */
  told = 0;
  cutOff = 0;

  constructor(deps: { readonly source: ChangeSource; readonly clock: Pick<Clock, "monotonicMs"> }) {
    this.source = deps.source;
    this.#clock = deps.clock;
    this.#toldRevision = deps.source.revision;
  }

  nowMs(): number {
    return this.#clock.monotonicMs();
  }

  get watches(): number {
    return this.#watches;
  }

  get streams(): number {
    return this.#streams.size;
  }

  /** Watches that begin in the namespace. */
  watchesIn(namespace: Uint8Array): number {
    let count = 0;
    for (const stream of this.#streams.values()) count += stream.countIn(namespace);
    return count;
  }

  open(options: { readonly id: string; readonly owner: string; readonly progressMs: number }): WatchStream {
    const stream = new WatchStream(options, this);
    this.#streams.set(stream.id, stream);
    return stream;
  }

  /** The caller's own stream of the name. */
  stream(id: string, owner: string): WatchStream {
    const stream = this.#streams.get(id);
    if (!stream || stream.owner !== owner) throw rejections.watchStreamNotFound(id);
    return stream;
  }

  drop(stream: WatchStream): void {
    this.#streams.delete(stream.id);
  }

  /** Notes watches that came (positive) or went. */
  count(change: number): void {
    if (change > 0 && this.#watches + change > watchesCountMax) throw rejections.tooManyWatches(watchesCountMax);
    this.#watches += change;
  }

  attach(watch: Watch): void {
    if (watch.spec.end.length > 0) return void this.#onRanges.add(watch);
    const key = textOf(watch.spec.key);
    const set = this.#byKey.get(key);
    if (set) set.add(watch);
    else this.#byKey.set(key, new Set([watch]));
  }

  detach(watch: Watch): void {
    if (watch.spec.end.length > 0) return void this.#onRanges.delete(watch);
    const key = textOf(watch.spec.key);
    const set = this.#byKey.get(key);
    if (set?.delete(watch) && set.size === 0) this.#byKey.delete(key);
  }

  changed(events: readonly KvEvent[]): void {
    this.#toldRevision = events.at(-1)!.kv.modRevision;
    if (this.#byKey.size === 0 && this.#onRanges.size === 0) return;
    const wanted = new Map<Watch, KvEvent[]>();
    const offer = (watch: Watch, event: KvEvent) => {
      if (!watch.wants(event)) return;
      const list = wanted.get(watch);
      if (list) list.push(event);
      else wanted.set(watch, [event]);
    };
    for (const event of events) {
      if (this.#byKey.size > 0) {
        for (const watch of this.#byKey.get(textOf(event.kv.key)) ?? []) offer(watch, event);
      }
      for (const watch of this.#onRanges) offer(watch, event);
    }
    for (const [watch, list] of wanted) {
      this.told += list.length;
      watch.stream.deliver(watch, list);
    }
  }

  /** A snapshot took the place of changes nobody was told: live watches read them from its history. */
  replaced(): void {
    const next = this.#toldRevision + 1;
    this.#toldRevision = this.source.revision;
    if (next > this.source.revision) return;
    for (const watch of [...this.#onRanges, ...[...this.#byKey.values()].flatMap((set) => [...set])]) {
      watch.stream.fallBehind(watch, Math.max(next, watch.spec.from));
    }
  }

  /** Tells streams that were idle for their interval that nothing happened; to be called often. */
  progress(): void {
    const nowMs = this.nowMs();
    for (const stream of this.#streams.values()) {
      if (nowMs - stream.toldMs >= stream.progressMs) stream.progress();
    }
  }

  /** Ends every stream. */
  close(reason: string): void {
    for (const stream of [...this.#streams.values()]) stream.end(reason);
  }
}
