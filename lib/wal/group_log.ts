import { assert } from "@ultracloud/base";
import type { RecordKind } from "./record.ts";

/** Where the payload of an entry lies. */
export interface Location {
  readonly segment: number;
  /** Of the payload within the segment's file. */
  readonly offset: number;
  readonly bytes: number;
  readonly term: number;
  readonly config: boolean;
}

export interface GroupBase {
  readonly index: number;
  readonly term: number;
  /** Configuration at the base, as the caller encoded it. */
  readonly configuration: Uint8Array;
}

export interface GroupHardState {
  readonly term: number;
  readonly vote: number;
  readonly commit: number;
}

/** What the log holds about one group: its hard state, its base and where each entry lies. */
export class GroupIndex {
  hardState: GroupHardState = { term: 0, vote: 0, commit: 0 };
  base: GroupBase = { index: 0, term: 0, configuration: new Uint8Array(0) };
  /** Entry `base.index + 1 + i` is at position `i`; a hole exists only while a log is being read. */
  #entries: (Location | undefined)[] = [];

  firstIndex(): number {
    return this.base.index + 1;
  }

  lastIndex(): number {
    return this.base.index + this.#entries.length;
  }

  at(index: number): Location | undefined {
    return this.#entries[index - this.base.index - 1];
  }

  /** Puts an entry; one that is not moved removes what stands at its index and above. */
  put(index: number, location: Location, moved: boolean): void {
    const position = index - this.base.index - 1;
    if (position < 0) return; // already cut off
    if (!moved) this.#entries.length = Math.min(this.#entries.length, position);
    // A moved entry is the same entry at another place; one that has been overwritten since is not brought back.
    if (moved && this.#entries[position] !== undefined && this.#entries[position]!.term !== location.term) return;
    while (this.#entries.length < position) this.#entries.push(undefined);
    this.#entries[position] = location;
  }

  /** Cuts the front off up to `base.index`; a reset drops every entry. */
  rebase(base: GroupBase, reset: boolean): void {
    if (reset) this.#entries = [];
    else if (base.index <= this.base.index && this.base.index > 0) return;
    else this.#entries.splice(0, base.index - this.base.index);
    this.base = base;
  }

  /** Index of the first hole; undefined when the log is whole. */
  hole(): number | undefined {
    const position = this.#entries.indexOf(undefined);
    return position === -1 ? undefined : this.base.index + 1 + position;
  }

  /** Indexes of entries that lie in the segment. */
  inSegment(segment: number): number[] {
    const found: number[] = [];
    this.#entries.forEach((location, i) => {
      if (location?.segment === segment) found.push(this.base.index + 1 + i);
    });
    return found;
  }

  /** Lowest segment that holds an entry; Infinity when there is none. */
  oldestSegment(): number {
    let oldest = Infinity;
    for (const location of this.#entries) if (location && location.segment < oldest) oldest = location.segment;
    return oldest;
  }

  check(index: number): Location {
    const location = this.at(index);
    assert(location !== undefined, `Entry ${index} must lie in the log [${this.firstIndex()}, ${this.lastIndex()}]`);
    return location;
  }
}

export function entryKind(config: boolean, moved: boolean): RecordKind {
  return moved ? (config ? "moved_config_entry" : "moved_entry") : (config ? "config_entry" : "entry");
}
