import {
  decodeConfiguration,
  type Done,
  emptyConfiguration,
  encodeConfiguration,
  type Entry,
  type HardState,
  type LogBatch,
  type LogStore,
  type Snapshot,
  type SnapshotMeta,
} from "@ultracloud/raft";
import type { SimDisk, SimDiskFile } from "./sim_disk.ts";

const LOG = "/raft/log";
const dataPath = (index: number) => `/raft/snapshot-${index}`;

const STATE = 1, ENTRY = 2, INSTALL = 3, COMPACT = 4;

/** How the log breaks its promises, for planted bugs. */
export interface SimLogBugs {
  readonly ackBeforeSync?: boolean;
  readonly forgetVote?: boolean;
}

type Operation =
  | { readonly kind: "append"; readonly batch: LogBatch; readonly done: Done }
  | { readonly kind: "install"; readonly snapshot: Snapshot; readonly done: Done }
  | { readonly kind: "compact"; readonly base: SnapshotMeta };

/** A log whose ground truth the checks may ask for. */
export interface CheckedLog extends LogStore {
  /** Told of entries before they are in the log, with the term of the one before them. */
  onAppend: (entries: readonly Entry[], termBefore: number | undefined) => void;
  /** What a killed process left in the system's cache is not durable yet: to be awaited before the log is used. */
  settle(done: Done): void;
  /** True when a crash now cannot take the entry (as part of the log or inside its base). */
  holdsDurably(index: number, term: number): boolean;
  durableLast(): number;
}

/** What is in a log at some moment. */
export class LogContent {
  hardState: HardState = { term: 0, vote: 0, commit: 0 };
  base: SnapshotMeta = { index: 0, term: 0, configuration: emptyConfiguration };
  entries: Entry[] = [];

  get last(): number {
    return this.base.index + this.entries.length;
  }

  term(index: number): number | undefined {
    if (index === this.base.index) return this.base.term;
    return this.entries[index - this.base.index - 1]?.term;
  }

  /** True when the entry is there, or what is cut off stands for it. */
  holds(index: number, term: number): boolean {
    return index < this.base.index || this.term(index) === term;
  }

  append(entries: readonly Entry[]): void {
    for (const entry of entries) {
      const at = entry.index - this.base.index - 1;
      if (at < 0) continue;
      if (at > this.entries.length) throw new Error(`Log has a hole before ${entry.index}`);
      this.entries.length = at;
      this.entries.push(entry);
    }
  }

  install(base: SnapshotMeta): void {
    this.base = base;
    this.entries = [];
  }

  compact(base: SnapshotMeta): void {
    if (base.index <= this.base.index) return;
    this.entries.splice(0, base.index - this.base.index);
    this.base = base;
  }
}

/**
 * A log of one group in one file of a simulated disk: records with a checksum, one sync for all that waits, a torn end
 * cut at open. It keeps a second image of what a crash cannot take, as ground truth for the checks.
 */
export class SimLogStore implements CheckedLog {
  readonly #disk: SimDisk;
  readonly #bugs: SimLogBugs;
  readonly #file: SimDiskFile;
  readonly #live = new LogContent();
  /** What would be there after a crash now, at least. */
  readonly #truth = new LogContent();
  #snapshot: Snapshot | undefined;
  #end = 0;
  #queue: Operation[] = [];
  #syncing = false;
  /** A sync failed: nothing that is written from now on can be trusted. */
  #broken: Error | undefined;

  readonly #soon: (run: () => void) => void;
  onAppend: (entries: readonly Entry[], termBefore: number | undefined) => void = () => {};

  /** `soon` runs something later at the same instant: completions never come from within the call they end. */
  constructor(disk: SimDisk, soon: (run: () => void) => void, bugs: SimLogBugs = {}) {
    this.#disk = disk;
    this.#soon = soon;
    this.#bugs = bugs;
    this.#file = disk.open(LOG, { create: true });
    disk.syncDir("/raft");
    this.#load();
  }

  settle(done: Done): void {
    this.#file.syncThen(done);
  }

  initialState(): { hardState: HardState; base: SnapshotMeta } {
    return { hardState: this.#live.hardState, base: this.#live.base };
  }
  firstIndex(): number {
    return this.#live.base.index + 1;
  }
  lastIndex(): number {
    return this.#live.last;
  }
  term(index: number): number | undefined {
    return this.#live.term(index);
  }
  entries(low: number, high: number, bytesMax: number): readonly Entry[] {
    const from = low - this.#live.base.index - 1;
    let to = from, bytes = 0;
    while (to < high - this.#live.base.index - 1) {
      bytes += this.#live.entries[to]!.data.length;
      if (to > from && bytes > bytesMax) break;
      to++;
    }
    return this.#live.entries.slice(from, to);
  }

  append(batch: LogBatch, done: Done): void {
    if (batch.entries.length > 0) this.onAppend(batch.entries, this.#live.term(batch.entries[0]!.index - 1));
    this.#live.append(batch.entries);
    if (batch.hardState) this.#live.hardState = batch.hardState;
    this.#enqueue({ kind: "append", batch, done });
  }

  installSnapshot(snapshot: Snapshot, done: Done): void {
    this.#live.install(snapshot.meta);
    this.#snapshot = snapshot;
    this.#enqueue({ kind: "install", snapshot, done });
  }

  loadSnapshot(): Snapshot | undefined {
    return this.#snapshot;
  }

  releaseSnapshot(index: number): void {
    if (this.#snapshot && this.#snapshot.meta.index <= index) this.#snapshot = undefined;
    removeSnapshotData(this.#disk, (held) => held <= index);
  }

  compact(base: SnapshotMeta): void {
    this.#live.compact(base);
    this.#enqueue({ kind: "compact", base });
  }

  holdsDurably(index: number, term: number): boolean {
    return this.#truth.holds(index, term);
  }
  durableLast(): number {
    return this.#truth.last;
  }

  #enqueue(operation: Operation): void {
    const broken = this.#broken;
    if (broken) {
      if (operation.kind !== "compact") this.#soon(() => operation.done(broken));
      return;
    }
    this.#queue.push(operation);
    this.#pump();
  }

  /** One sync at a time, for everything that waits: completions stay in order. */
  #pump(): void {
    if (this.#syncing || this.#queue.length === 0) return;
    this.#syncing = true;
    const first = this.#queue[0]!;
    let count = 1;
    if (first.kind !== "install") {
      while (count < this.#queue.length && this.#queue[count]!.kind !== "install") count++;
    }
    const batch = this.#queue.splice(0, count);
    try {
      if (first.kind === "install") this.#installNow(first);
      else {
        for (const operation of batch) this.#write(operation);
        this.#sync(batch);
      }
    } catch (error) {
      // No room: what was asked for together may lie there in part.
      this.#queue.unshift(...batch);
      this.#soon(() => this.#break(error as Error));
    }
  }

  /** The data first, then the record that refers to it. */
  #installNow(operation: Operation & { kind: "install" }): void {
    writeSnapshotData(this.#disk, operation.snapshot, (error) => {
      if (error) return operation.done(error);
      try {
        this.#write(operation);
      } catch (full) {
        operation.done(full as Error);
        return this.#break(full as Error);
      }
      this.#sync([operation]);
    });
  }

  #sync(batch: readonly Operation[]): void {
    const finish = (error?: Error) => {
      for (const operation of batch) if (operation.kind !== "compact") operation.done(error);
    };
    if (this.#bugs.ackBeforeSync) this.#soon(() => finish());
    this.#file.syncThen((error) => {
      this.#syncing = false;
      if (!error) { for (const operation of batch) this.#remember(operation); }
      if (!this.#bugs.ackBeforeSync) finish(error);
      if (error) this.#break(error);
      else this.#pump();
    });
  }

  #break(error: Error): void {
    this.#broken = error;
    for (const operation of this.#queue.splice(0)) if (operation.kind !== "compact") operation.done(error);
  }

  #remember(operation: Operation): void {
    if (operation.kind === "compact") this.#truth.compact(operation.base);
    else if (operation.kind === "install") {
      this.#truth.install(operation.snapshot.meta);
      removeSnapshotData(this.#disk, (index) => index < operation.snapshot.meta.index);
    } else this.#truth.append(operation.batch.entries);
  }

  #write(operation: Operation): void {
    if (operation.kind === "append") {
      const { hardState, entries } = operation.batch;
      if (hardState) {
        const vote = this.#bugs.forgetVote ? 0 : hardState.vote;
        this.#record(STATE, [hardState.term, vote, hardState.commit]);
      }
      for (const { term, index, kind, data } of entries) {
        this.#record(ENTRY, [term, index, kind === "config" ? 1 : 0], data);
      }
      return;
    }
    const base = operation.kind === "install" ? operation.snapshot.meta : operation.base;
    const type = operation.kind === "install" ? INSTALL : COMPACT;
    this.#record(type, [base.index, base.term, 0], encodeConfiguration(base.configuration));
  }

  #record(type: number, numbers: readonly [number, number, number], data: Uint8Array = new Uint8Array(0)): void {
    const body = new Uint8Array(25 + data.length);
    const view = new DataView(body.buffer);
    body[0] = type;
    numbers.forEach((n, i) => view.setFloat64(1 + 8 * i, n));
    body.set(data, 25);
    const record = withSum(body);
    this.#file.writeAt(record, this.#end);
    this.#end += record.length;
  }

  #load(): void {
    const all = new Uint8Array(this.#file.size());
    this.#file.readAt(all, 0);
    for (;;) {
      const body = checkedBody(all.subarray(this.#end));
      if (!body) break;
      const view = new DataView(body.buffer, body.byteOffset, body.length);
      const [a, b, c] = [view.getFloat64(1), view.getFloat64(9), view.getFloat64(17)];
      const data = body.slice(25);
      if (body[0] === STATE) this.#live.hardState = { term: a, vote: b, commit: c };
      else if (body[0] === ENTRY) {
        this.#live.append([{ term: a, index: b, kind: c === 1 ? "config" : "normal", data }]);
      } else {
        const base = { index: a, term: b, configuration: decodeConfiguration(data) };
        if (body[0] === INSTALL) this.#live.install(base);
        else this.#live.compact(base);
      }
      this.#end += body.length + 8;
    }
    if (this.#end < all.length) this.#file.truncate(this.#end);
    this.#truth.hardState = this.#live.hardState;
    this.#truth.base = this.#live.base;
    this.#truth.entries = this.#live.entries.slice();
    const data = readSnapshotData(this.#disk, this.#live.base.index);
    if (data) this.#snapshot = { meta: this.#live.base, data };
  }
}

/** Writes the data of a snapshot to a file of its own. */
export function writeSnapshotData(disk: SimDisk, { meta, data }: Snapshot, done: Done): void {
  const file = disk.open(dataPath(meta.index), { create: true });
  file.truncate(0);
  file.writeAt(withSum(data), 0);
  file.syncThen((error) => {
    if (!error) disk.syncDir("/raft");
    done(error);
  });
}

/** The data of the snapshot at an index, if it is there and whole. */
export function readSnapshotData(disk: SimDisk, index: number): Uint8Array | undefined {
  if (!disk.list("/raft").includes(`snapshot-${index}`)) return undefined;
  const file = disk.open(dataPath(index), { create: false });
  const bytes = new Uint8Array(file.size());
  file.readAt(bytes, 0);
  return checkedBody(bytes)?.slice();
}

export function removeSnapshotData(disk: SimDisk, which: (index: number) => boolean): void {
  for (const name of disk.list("/raft")) {
    const index = Number(name.split("-")[1]);
    if (name.startsWith("snapshot-") && which(index)) disk.remove(dataPath(index));
  }
}

function withSum(body: Uint8Array): Uint8Array {
  const record = new Uint8Array(8 + body.length);
  const view = new DataView(record.buffer);
  view.setUint32(0, body.length);
  view.setUint32(4, sum(body));
  record.set(body, 8);
  return record;
}

function checkedBody(bytes: Uint8Array): Uint8Array | undefined {
  if (bytes.length < 8) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const length = view.getUint32(0);
  if (length === 0 || bytes.length < 8 + length) return undefined;
  const body = bytes.subarray(8, 8 + length);
  return view.getUint32(4) === sum(body) ? body : undefined;
}

/** FNV-1a. */
export function sum(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < bytes.length; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
  return hash >>> 0;
}
