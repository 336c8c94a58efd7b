import { assert } from "@ultracloud/base";
import { noEntries } from "./message.ts";
import type { Entry, LogView, SnapshotMeta } from "./types.ts";

/**
 * The log as the protocol sees it: recent entries in memory (all that are not yet durable or not yet handed to the
 * state machine, and some more for peers that are close), older ones read from the durable log.
 *
 *     first - 1 ... offset - 1 | offset ...... last
 *     durable, read on demand  | in memory
 *
 * durable <= last, applied <= applying <= committed <= last, and `applying` never passes `durable`.
 */
export class RaftLog {
  readonly #view: LogView;
  readonly #cacheBytesMax: number;
  /** Entries from index `#offset` on. */
  #cache: Entry[] = [];
  #offset: number;
  #cacheBytes = 0;
  /** A snapshot on its way to the durable log stands for everything below it. */
  #installing: SnapshotMeta | undefined;

  lastIndex: number;
  lastTerm: number;
  /** The log up to here survives a crash. */
  durable: number;
  /** The log up to here has been handed out to be written. */
  handed: number;
  committed: number;
  /** Entries up to here have been handed to the state machine. */
  applying: number;
  applied: number;

  constructor(view: LogView, committed: number, applied: number, cacheBytesMax: number) {
    this.#view = view;
    this.#cacheBytesMax = cacheBytesMax;
    this.lastIndex = view.lastIndex();
    this.lastTerm = view.term(this.lastIndex) ?? 0;
    this.#offset = this.lastIndex + 1;
    this.durable = this.handed = this.lastIndex;
    this.committed = committed;
    this.applying = this.applied = applied;
    assert(committed <= this.lastIndex, `Log ends at ${this.lastIndex} before its commit index ${committed}`);
    assert(applied <= committed, `State machine is at ${applied} past the commit index ${committed}`);
    assert(applied >= view.firstIndex() - 1, `State machine is at ${applied} before the log's start`);
  }

  /** Index of the first entry that can still be sent. */
  get firstIndex(): number {
    return this.#installing ? this.#installing.index + 1 : this.#view.firstIndex();
  }

  /** The snapshot that is being installed; nothing is applied until it is there. */
  get installing(): SnapshotMeta | undefined {
    return this.#installing;
  }

  /** Term of the entry at `index`; undefined when cut off or not there. */
  term(index: number): number | undefined {
    if (index > this.lastIndex || index < 0) return undefined;
    if (index === this.lastIndex) return this.lastTerm;
    if (index >= this.#offset) return this.#cache[index - this.#offset]!.term;
    if (this.#installing) return index === this.#installing.index ? this.#installing.term : undefined;
    return this.#view.term(index);
  }

  /** Entries of `[low, high)` within `bytesMax` of data, at least one; undefined when `low` is cut off. */
  slice(low: number, high: number, bytesMax: number): readonly Entry[] | undefined {
    if (low >= high) return noEntries;
    if (low < this.firstIndex) return undefined;
    if (low < this.#offset) {
      // A short answer is fine: the rest goes with the next message.
      return this.#view.entries(low, Math.min(high, this.#offset), bytesMax);
    }
    const from = low - this.#offset;
    let to = from + 1, bytes = this.#cache[from]!.data.length;
    const end = high - this.#offset;
    while (to < end) {
      bytes += this.#cache[to]!.data.length;
      if (bytes > bytesMax) break;
      to++;
    }
    return from === 0 && to === this.#cache.length ? this.#cache.slice() : this.#cache.slice(from, to);
  }

  /** Adds one entry of the own term at the end: what a leader does. */
  push(entry: Entry): void {
    assert(
      entry.index === this.lastIndex + 1,
      `Cannot append entry ${entry.index} as the log ends at ${this.lastIndex}`,
    );
    assert(Number.isSafeInteger(entry.index), "Log indexes stay below 2^53");
    assert(entry.term >= this.lastTerm, `Cannot append term ${entry.term} behind term ${this.lastTerm}`);
    this.#cache.push(entry);
    this.#cacheBytes += entry.data.length;
    this.lastIndex = entry.index;
    this.lastTerm = entry.term;
  }

  /**
   * Takes a leader's entries behind an index that matches; skips what is held already and removes what conflicts.
   * Answers the index from which entries were removed, 0 when none were.
   */
  take(entries: readonly Entry[]): number {
    let removedFrom = 0;
    for (const entry of entries) {
      if (entry.index <= this.lastIndex) {
        if (entry.index < this.firstIndex || this.term(entry.index) === entry.term) continue;
        assert(
          entry.index > this.committed,
          `Entry ${entry.index} of term ${entry.term} conflicts with a committed entry (commit ${this.committed})`,
        );
        this.#truncate(entry.index);
        removedFrom ||= entry.index;
      }
      this.push(entry);
    }
    return removedFrom;
  }

  /**
   * The largest index at or below `index` whose term is at most `term`, where two logs may agree; 0 for the term when
   * it is cut off.
   */
  conflictBefore(index: number, term: number): { index: number; term: number } {
    let at = Math.min(index, this.lastIndex);
    for (; at > 0; at--) {
      const held = this.term(at);
      if (held === undefined) return { index: at, term: 0 };
      if (held <= term) return { index: at, term: held };
    }
    return { index: 0, term: 0 };
  }

  commitTo(index: number): boolean {
    if (index <= this.committed) return false;
    assert(index <= this.lastIndex, `Cannot commit ${index} as the log ends at ${this.lastIndex}: was it corrupted?`);
    this.committed = index;
    return true;
  }

  /** What has not been handed out to be written yet; marks it as handed out. */
  handOut(): readonly Entry[] {
    if (this.handed === this.lastIndex) return noEntries;
    const entries = this.#cache.slice(this.handed + 1 - this.#offset);
    this.handed = this.lastIndex;
    return entries;
  }

  /** The log up to `index` is durable. */
  durableTo(index: number): void {
    if (index <= this.durable) return;
    assert(index <= this.handed, `Entry ${index} cannot be durable as only ${this.handed} was handed out`);
    this.durable = index;
    this.#trim();
  }

  applyingTo(index: number): void {
    this.applying = index;
  }

  appliedTo(index: number): void {
    assert(index >= this.applied && index <= this.applying, `Cannot mark ${index} applied: asked for ${this.applying}`);
    this.applied = index;
    this.#trim();
  }

  /** Replaces everything by the point of a snapshot. */
  install(meta: SnapshotMeta): void {
    assert(meta.index > this.committed, `Cannot install a snapshot at ${meta.index} behind commit ${this.committed}`);
    this.#installing = meta;
    this.#cache = [];
    this.#cacheBytes = 0;
    this.#offset = meta.index + 1;
    this.lastIndex = this.handed = this.committed = meta.index;
    this.lastTerm = meta.term;
    // Nothing of the old log counts any more, and nothing may be applied before the snapshot is there.
    this.durable = 0;
  }

  /** The snapshot is durable in the log; the state machine is to follow. */
  installed(meta: SnapshotMeta): void {
    assert(this.#installing === meta, "Cannot finish a snapshot that is not being installed");
    this.#installing = undefined;
    this.durable = Math.max(this.durable, meta.index);
    this.applying = meta.index;
  }

  #truncate(from: number): void {
    const keep = from - this.#offset;
    if (keep <= 0) {
      this.#cache = [];
      this.#cacheBytes = 0;
      this.#offset = from;
    } else {
      for (let i = keep; i < this.#cache.length; i++) this.#cacheBytes -= this.#cache[i]!.data.length;
      this.#cache.length = keep;
    }
    const lastTerm = from - 1 >= this.#offset ? this.#cache[from - 1 - this.#offset]!.term : this.#below(from - 1);
    this.lastIndex = from - 1;
    this.lastTerm = lastTerm;
    this.durable = Math.min(this.durable, from - 1);
    this.handed = Math.min(this.handed, from - 1);
  }

  #below(index: number): number {
    const term = this.#installing?.index === index ? this.#installing.term : this.#view.term(index);
    assert(term !== undefined, `The term of entry ${index} was cut off under an uncommitted entry`);
    return term;
  }

  /** Lets go of the oldest entries in memory, in halves so that the cost per entry stays constant. */
  #trim(): void {
    if (this.#cacheBytes <= this.#cacheBytesMax && this.#cache.length <= CACHE_COUNT_MAX) return;
    const free = Math.min(this.durable, this.applied) - this.#offset + 1;
    const count = Math.min(free, this.#cache.length >>> 1);
    if (count < CACHE_COUNT_MAX >>> 3 && this.#cache.length > count * 4) return;
    for (let i = 0; i < count; i++) this.#cacheBytes -= this.#cache[i]!.data.length;
    this.#cache.splice(0, count);
    this.#offset += count;
  }
}

/** Entries in memory however small they are: 64 bytes of bookkeeping each make a few megabytes. */
const CACHE_COUNT_MAX = 65_536;
