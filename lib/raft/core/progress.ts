import { assert } from "@ultracloud/base";
import type { NodeId } from "./types.ts";

/**
 * What a leader sends next. probe: one append at a time, to find where the logs agree. replicate: a pipeline of
 * appends, advanced before they are acknowledged. snapshot: nothing, until the snapshot has arrived or failed.
 */
export type ProgressState = "probe" | "replicate" | "snapshot";

/** The appends on their way to one peer: last index and bytes of each, oldest first, bounded by count and bytes. */
export class Inflights {
  readonly #countMax: number;
  readonly #bytesMax: number;
  #indexes: number[] = [];
  #sizes: number[] = [];
  /** Where the oldest stands; the front is cut off in blocks to keep removal cheap. */
  #head = 0;
  #bytes = 0;

  constructor(countMax: number, bytesMax: number) {
    this.#countMax = countMax;
    this.#bytesMax = bytesMax;
  }

  get count(): number {
    return this.#indexes.length - this.#head;
  }

  get full(): boolean {
    return this.count >= this.#countMax || this.#bytes >= this.#bytesMax;
  }

  add(lastIndex: number, bytes: number): void {
    assert(!this.full, "Cannot send another append as the window is full");
    this.#indexes.push(lastIndex);
    this.#sizes.push(bytes);
    this.#bytes += bytes;
  }

  /** Everything up to `index` has arrived. */
  freeTo(index: number): void {
    while (this.#head < this.#indexes.length && this.#indexes[this.#head]! <= index) {
      this.#bytes -= this.#sizes[this.#head]!;
      this.#head++;
    }
    if (this.#head === this.#indexes.length) this.reset();
    else if (this.#head >= 64) {
      this.#indexes.splice(0, this.#head);
      this.#sizes.splice(0, this.#head);
      this.#head = 0;
    }
  }

  reset(): void {
    if (this.#indexes.length > 0) {
      this.#indexes.length = 0;
      this.#sizes.length = 0;
    }
    this.#head = 0;
    this.#bytes = 0;
  }
}

/** A leader's view of one peer. Invariant: match < next. */
export class Progress {
  readonly id: NodeId;
  readonly inflights: Inflights;
  state: ProgressState = "probe";
  /** Highest index the peer is known to hold durably. */
  match = 0;
  /** Index of the next entry to send. */
  next: number;
  /** Highest commit index told to the peer in an append. */
  sentCommit = 0;
  /** No append until the peer shows itself: the probe is out, or the window is full. */
  paused = false;
  /** Heard from since the last quorum check. */
  recentActive = false;
  /** Heard from between the last quorum check and the one before. */
  wasActive = false;

  constructor(id: NodeId, next: number, inflights: Inflights) {
    this.id = id;
    this.next = next;
    this.inflights = inflights;
  }

  /** Back to the start, as a new leader must: nothing is known of the peer. */
  reset(next: number): void {
    this.#become("probe");
    this.match = 0;
    this.next = next;
    this.sentCommit = 0;
    this.recentActive = this.wasActive = false;
  }

  becomeProbe(next = this.match + 1): void {
    this.#become("probe");
    this.next = next;
    this.sentCommit = Math.min(this.sentCommit, this.next - 1);
  }

  becomeReplicate(): void {
    this.#become("replicate");
    this.next = this.match + 1;
  }

  becomeSnapshot(): void {
    this.#become("snapshot");
  }

  /** The peer acknowledged `index`: true when that is news. */
  acknowledge(index: number): boolean {
    if (index <= this.match) return false;
    this.match = index;
    if (this.next <= index) this.next = index + 1;
    this.paused = false;
    return true;
  }

  /**
   * The peer refused the append behind `refused` and may agree at `hint`. False for a late answer to an append that
   * has been overtaken, which must not move anything.
   */
  refuse(refused: number, hint: number): boolean {
    if (this.state === "replicate") {
      if (refused <= this.match) return false;
      this.next = this.match + 1;
      this.sentCommit = Math.min(this.sentCommit, this.next - 1);
      return true;
    }
    if (this.next - 1 !== refused) return false;
    this.next = Math.max(Math.min(refused, hint + 1), this.match + 1);
    this.sentCommit = Math.min(this.sentCommit, this.next - 1);
    this.paused = false;
    return true;
  }

  /** An append with `count` entries of `bytes` that ends at `last` went out. */
  sent(count: number, last: number, bytes: number): void {
    if (this.state === "replicate") {
      if (count > 0) {
        this.next = last + 1;
        this.inflights.add(last, bytes);
      }
      this.paused = this.inflights.full;
    } else if (count > 0) this.paused = true;
  }

  /** Heard from within the last two quorum checks, so that the moment after one says something too. */
  get heardFrom(): boolean {
    return this.recentActive || this.wasActive;
  }

  get blocked(): boolean {
    return this.state === "snapshot" || this.paused;
  }

  #become(state: ProgressState): void {
    this.state = state;
    this.paused = false;
    this.inflights.reset();
  }
}
