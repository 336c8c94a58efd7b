import {
  type Done,
  emptyConfiguration,
  type Entry,
  type HardState,
  type LogBatch,
  type LogStore,
  type Snapshot,
  type SnapshotMeta,
} from "@ultracloud/raft";

interface Content {
  readonly hardState: HardState;
  readonly base: SnapshotMeta;
  readonly entries: readonly Entry[];
  readonly snapshot: Snapshot | undefined;
}

const empty: Content = {
  hardState: { term: 0, vote: 0, commit: 0 },
  base: { index: 0, term: 0, configuration: emptyConfiguration },
  entries: [],
  snapshot: undefined,
};

interface Waiting {
  readonly group: number;
  readonly change: (content: Content) => Content;
  readonly done: Done;
}

/**
 * The one log of a simulated machine, for all of its groups: what is written becomes durable in order and with one sync
 * for all that waits; a power cut takes everything behind some write that was not synced.
 */
export class SharedLog {
  readonly #durable = new Map<number, Content>();
  readonly #live = new Map<number, Content>();
  readonly #deps: { readonly after: (ms: number, run: () => void) => void; readonly syncMs: () => number };
  readonly #ackBeforeSync: boolean;
  #waiting: Waiting[] = [];
  #syncing = false;
  #life = 0;

  constructor(
    options: { /** A planted bug. */ readonly ackBeforeSync: boolean },
    deps: { readonly after: (ms: number, run: () => void) => void; readonly syncMs: () => number },
  ) {
    this.#ackBeforeSync = options.ackBeforeSync;
    this.#deps = deps;
  }

  /** Ends the process: with `power` gone, only a prefix of what waited for a sync is left. */
  crash(power: boolean, kept: (waiting: number) => number): void {
    this.#life++;
    const left = power ? this.#waiting.slice(0, kept(this.#waiting.length)) : this.#waiting;
    for (const { group, change } of left) this.#durable.set(group, change(this.#durable.get(group) ?? empty));
    this.#waiting = [];
    this.#syncing = false;
    this.#live.clear();
  }

  content(group: number): Content {
    return this.#live.get(group) ?? this.#durable.get(group) ?? empty;
  }

  write(group: number, change: (content: Content) => Content, done: Done): void {
    this.#live.set(group, change(this.content(group)));
    this.#waiting.push({ group, change, done });
    this.#pump();
  }

  #pump(): void {
    if (this.#syncing || this.#waiting.length === 0) return;
    this.#syncing = true;
    const life = this.#life;
    const batch = [...this.#waiting];
    const alive = (run: () => void) => () => life === this.#life ? run() : undefined;
    if (this.#ackBeforeSync) this.#deps.after(0, alive(() => batch.forEach(({ done }) => done())));
    this.#deps.after(
      this.#deps.syncMs(),
      alive(() => {
        for (const { group, change } of batch) this.#durable.set(group, change(this.#durable.get(group) ?? empty));
        this.#waiting.splice(0, batch.length);
        this.#syncing = false;
        if (!this.#ackBeforeSync) batch.forEach(({ done }) => done());
        this.#pump();
      }),
    );
  }
}

/** The part of one group. */
export class GroupLog implements LogStore {
  readonly #log: SharedLog;
  readonly #group: number;

  constructor(log: SharedLog, group: number) {
    this.#log = log;
    this.#group = group;
  }

  get #content(): Content {
    return this.#log.content(this.#group);
  }
  initialState(): { hardState: HardState; base: SnapshotMeta } {
    return this.#content;
  }
  firstIndex(): number {
    return this.#content.base.index + 1;
  }
  lastIndex(): number {
    const { base, entries } = this.#content;
    return base.index + entries.length;
  }
  term(index: number): number | undefined {
    const { base, entries } = this.#content;
    return index === base.index ? base.term : entries[index - base.index - 1]?.term;
  }
  entries(low: number, high: number, bytesMax: number): readonly Entry[] {
    const { base, entries } = this.#content;
    const found: Entry[] = [];
    let bytes = 0;
    for (const entry of entries.slice(low - base.index - 1, high - base.index - 1)) {
      bytes += entry.data.length;
      if (found.length > 0 && bytes > bytesMax) break;
      found.push(entry);
    }
    return found;
  }
  append(batch: LogBatch, done: Done): void {
    this.#log.write(this.#group, (content) => {
      let { entries } = content;
      const first = batch.entries.find(({ index }) => index > content.base.index);
      if (first !== undefined) {
        const added = batch.entries.filter(({ index }) => index > content.base.index);
        entries = [...entries.slice(0, first.index - content.base.index - 1), ...added];
      }
      return { ...content, entries, hardState: batch.hardState ?? content.hardState };
    }, done);
  }
  installSnapshot(snapshot: Snapshot, done: Done): void {
    this.#log.write(this.#group, (content) => ({ ...content, base: snapshot.meta, entries: [], snapshot }), done);
  }
  loadSnapshot(): Snapshot | undefined {
    return this.#content.snapshot;
  }
  releaseSnapshot(index: number): void {
    this.#log.write(
      this.#group,
      (content) => (content.snapshot?.meta.index ?? Infinity) <= index ? { ...content, snapshot: undefined } : content,
      () => {},
    );
  }
  compact(base: SnapshotMeta): void {
    this.#log.write(this.#group, (content) => {
      if (base.index <= content.base.index) return content;
      return { ...content, base, entries: content.entries.slice(base.index - content.base.index) };
    }, () => {});
  }
}
