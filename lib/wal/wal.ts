import { assert, type Disk, fault, type Rng, systemRng } from "@ultracloud/base";
import { entryKind, GroupIndex } from "./group_log.ts";
import {
  decodeCommit,
  encodeCommit,
  encodeRecord,
  headerBytes,
  payloadBytesMax,
  type ReadRecord,
  type WalRecord,
} from "./record.ts";
import {
  createSegment,
  listSegments,
  openSegment,
  removeSpares,
  reuseSegment,
  type Segment,
  segmentHeadBytes,
  spareName,
} from "./segment.ts";
import type { SyncTimes, WalDeps, WalDone, WalOptions } from "./options.ts";
import { recordsOf, type WalEntry, type WalWrite } from "./write.ts";

/** Large enough that rolling is rare, small enough that freed space comes back soon. */
const segmentBytesDefault = 16 * 2 ** 20;
/** More segments than this, and entries of idle groups are copied forward out of the oldest one. */
const segmentsBeforeMove = 8;
/** Segments kept for reuse: what a checkpoint under load frees at once. More only takes disk. */
const sparesMax = 4;
/** Entries moved at once; the rest follows at the next turn of a segment. */
const movedBytesMax = 4 * 2 ** 20;

export interface WalStats {
  readonly segments: number;
  readonly records: number;
  readonly syncs: number;
}

interface Pending {
  readonly write: WalWrite;
  readonly done: WalDone;
}

/**
 * One append-only log for many groups. Writes that arrive while a sync is under way share the next one. Completions
 * come in the order of the calls, each after everything asked before it is durable.
 */
export class Wal implements AsyncDisposable {
  readonly #dir: string;
  readonly #segmentBytes: number;
  readonly #commitWaitMs: number;
  readonly #disk: Disk;
  readonly #onFatal: (error: Error) => void;
  readonly #onSync: ((took: SyncTimes) => void) | undefined;
  readonly #nowMs: () => number;
  readonly #groups = new Map<number, GroupIndex>();
  readonly #rng: Pick<Rng, "uint32">;
  #segments: Segment[] = [];
  /** Seals the segments; undefined until there is one that has it. */
  #secret: number | undefined;
  /** Segments that nobody needs, of the usual size. */
  readonly #spares: Segment[] = [];
  #queue: Pending[] = [];
  /** Being written and synced. */
  #inFlight: Pending[] = [];
  #flushing = false;
  #failed: Error | undefined;
  #closed = false;
  #batch = 0;
  #records = 0;
  #syncs = 0;
  #idle: (() => void)[] = [];
  #scratch = new Uint8Array(256 * 1024);

  constructor(options: WalOptions, deps: WalDeps) {
    this.#dir = options.dir;
    this.#segmentBytes = options.segmentBytes ?? segmentBytesDefault;
    this.#commitWaitMs = (options.commitWaitUsMax ?? 0) / 1_000;
    this.#disk = deps.disk;
    this.#onFatal = deps.onFatal;
    this.#onSync = deps.onSync;
    this.#nowMs = deps.nowMs ?? (() => 0);
    this.#rng = deps.rng ?? systemRng;
    this.#disk.mkdir(this.#dir);
    this.#replay();
    this.#ready = this.#syncFound();
  }
  readonly #ready: Promise<void>;

  /**
   * A process that was killed leaves writes that only the machine's memory holds. They were read here, so they must be
   * made durable before anyone acts on them: a later write may lie in another file and survive them.
   */
  async #syncFound(): Promise<void> {
    try {
      const newest = this.#segments.at(-1);
      this.#disk.syncDir(this.#dir);
      await newest?.file.sync();
      if (this.#secret === undefined) await this.#found();
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Makes the first segment that has a secret, durable before there is a record in it: nothing else could tell it. */
  async #found(): Promise<void> {
    const secret = this.#rng.uint32();
    const number = (this.#segments.at(-1)?.number ?? 0) + 1;
    const segment = createSegment(this.#disk, this.#dir, number, this.#segmentBytes, secret);
    await segment.file.sync();
    this.#secret = secret;
    this.#segments.push(segment);
    const records = this.#headRecords();
    if (records.length === 0) return;
    this.#batch = (this.#batch + 1) >>> 0;
    this.#put(segment, records, sizeOf(records));
    await segment.file.sync();
  }

  /** Resolves once what was found at open is durable; wait for it before acting on what is read. */
  ready(): Promise<void> {
    return this.#ready;
  }

  #replay(): void {
    removeSpares(this.#disk, this.#dir);
    const numbers = listSegments(this.#disk, this.#dir);
    for (const [i, number] of numbers.entries()) {
      if (i > 0 && number !== numbers[i - 1]! + 1) {
        throw fault("data_loss", "wal_gap", `Cannot open the log: segment ${number - 1} is missing`);
      }
      const last = i === numbers.length - 1;
      const segment = openSegment(
        this.#disk,
        this.#dir,
        { number, last, previousBatch: this.#batch, secret: this.#secret },
        (record, offset) => this.#take(record, number, offset),
      );
      if (segment.end === 0) {
        segment.file.close();
        this.#disk.remove(segment.path);
        this.#disk.syncDir(this.#dir);
        continue;
      }
      this.#segments.push(segment);
      this.#secret ??= segment.secret;
    }
    for (const [group, index] of this.#groups) {
      const hole = index.hole();
      if (hole !== undefined) {
        throw fault("data_loss", "wal_hole", `Cannot open the log: entry ${hole} of group ${group} is missing`);
      }
    }
  }

  #take(record: ReadRecord, segment: number, offset: number): void {
    this.#batch = record.batch;
    if (record.kind === "removed") return void this.#groups.delete(record.group);
    const index = this.#group(record.group);
    switch (record.kind) {
      case "hard_state":
        index.hardState = { term: record.term, vote: record.index, commit: decodeCommit(record.payload) };
        break;
      case "base":
      case "reset":
        index.rebase(
          { index: record.index, term: record.term, configuration: record.payload.slice() },
          record.kind === "reset",
        );
        break;
      default: {
        const config = record.kind === "config_entry" || record.kind === "moved_config_entry";
        const moved = record.kind === "moved_entry" || record.kind === "moved_config_entry";
        index.put(record.index, { segment, offset, bytes: record.payload.length, term: record.term, config }, moved);
      }
    }
  }

  #group(id: number): GroupIndex {
    let index = this.#groups.get(id);
    if (!index) this.#groups.set(id, index = new GroupIndex());
    return index;
  }

  /** Groups the log knows. */
  groups(): number[] {
    return [...this.#groups.keys()];
  }

  /** What the log holds of the group; empty for a new one. Read it, never change it. */
  index(group: number): GroupIndex {
    return this.#group(group);
  }

  stats(): WalStats {
    return { segments: this.#segments.length, records: this.#records, syncs: this.#syncs };
  }

  /** Data of an entry that lies in the log. */
  read(group: number, index: number): WalEntry {
    const location = this.#group(group).check(index);
    const data = new Uint8Array(location.bytes);
    if (data.length > 0) {
      const segment = this.#segments[location.segment - this.#segments[0]!.number];
      assert(segment !== undefined, `Segment ${location.segment} must be open`);
      const n = segment.file.readAt(data, location.offset);
      assert(n === data.length, `Entry ${index} must be readable in full`);
    }
    return { term: location.term, index, config: location.config, data };
  }

  /** Asks for a durable write. `done` is called once, later, never from within this call. */
  append(write: WalWrite, done: WalDone): void {
    for (const entry of write.entries ?? []) {
      assert(entry.data.length <= payloadBytesMax, `An entry must have at most ${payloadBytesMax} bytes`);
    }
    if (this.#failed || this.#closed) {
      const error = this.#failed ?? fault("unavailable", "wal_closed", "Cannot append as the log is closed");
      return queueMicrotask(() => done(error));
    }
    this.#queue.push({ write, done });
    if (!this.#flushing) {
      this.#flushing = true;
      // Whatever else arrives in this turn of the event loop shares the write.
      queueMicrotask(() => void this.#flush());
    }
  }

  async #flush(): Promise<void> {
    try {
      await this.#ready;
      while (this.#queue.length > 0) {
        if (this.#commitWaitMs > 0) await new Promise((resolve) => setTimeout(resolve, this.#commitWaitMs));
        const batch = this.#inFlight = this.#queue;
        this.#queue = [];
        const startMs = this.#nowMs();
        this.#write(batch);
        const writtenMs = this.#nowMs();
        await this.#segments.at(-1)!.file.sync();
        this.#syncs++;
        this.#inFlight = [];
        this.#onSync?.({ writeMs: writtenMs - startMs, syncMs: this.#nowMs() - writtenMs });
        for (const { done } of batch) done();
      }
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
    } finally {
      this.#flushing = false;
      for (const resolve of this.#idle.splice(0)) resolve();
    }
  }

  #fail(cause: Error): void {
    this.#failed = fault("data_loss", "wal_write_failed", "Cannot go on after a write or sync of the log failed", {
      cause,
    });
    // Those of the write that failed come first: nobody knows whether it is on disk.
    for (const { done } of [...this.#inFlight.splice(0), ...this.#queue.splice(0)]) done(this.#failed);
    this.#onFatal(this.#failed);
  }

  /** Encodes a batch, writes it with one call and notes where everything lies. Not yet durable. */
  #write(batch: readonly Pending[]): void {
    const records: WalRecord[] = [];
    for (const { write } of batch) recordsOf(write, records);
    const bytes = sizeOf(records);
    this.#batch = (this.#batch + 1) >>> 0;
    const segment = this.#room(bytes);
    this.#put(segment, records, bytes);
  }

  #put(segment: Segment, records: readonly WalRecord[], bytes: number): void {
    if (this.#scratch.length < bytes) this.#scratch = new Uint8Array(2 ** Math.ceil(Math.log2(bytes)));
    const into = this.#scratch.subarray(0, bytes);
    const view = new DataView(into.buffer, into.byteOffset, into.byteLength);
    let at = 0;
    for (const record of records) at = encodeRecord(into, view, at, record, this.#batch, segment.seal);
    segment.file.writeAt(into, segment.end);
    for (const record of records) {
      this.#take({ ...record, batch: this.#batch, bytes: 0 }, segment.number, segment.end + headerBytes);
      segment.end += headerBytes + record.payload.length;
    }
    this.#records += records.length;
  }

  /** The segment that takes `bytes` more: the newest, or a new one headed by every group's state. */
  #room(bytes: number): Segment {
    const newest = this.#segments.at(-1);
    if (newest && newest.end + bytes <= newest.bytes) return newest;
    this.#dropOldest();
    const head = this.#headRecords();
    const moved = this.#movedRecords();
    const records = [...head, ...moved];
    const extra = sizeOf(records);
    const number = (this.#segments.at(-1)?.number ?? 0) + 1;
    const wanted = Math.max(this.#segmentBytes, segmentHeadBytes + bytes + extra);
    const secret = this.#secret;
    assert(secret !== undefined, "The log must be ready before it is written");
    const spare = wanted === this.#segmentBytes ? this.#spares.pop() : undefined;
    const segment = spare === undefined
      ? createSegment(this.#disk, this.#dir, number, wanted, secret)
      : reuseSegment(this.#disk, this.#dir, spare, number, secret);
    this.#segments.push(segment);
    if (records.length > 0) this.#put(segment, records, extra);
    return segment;
  }

  /** State of every group, so that no older segment is needed for it. */
  #headRecords(): WalRecord[] {
    const records: WalRecord[] = [];
    for (const [group, { hardState, base }] of this.#groups) {
      records.push({ group, kind: "base", term: base.term, index: base.index, payload: base.configuration });
      records.push({
        group,
        kind: "hard_state",
        term: hardState.term,
        index: hardState.vote,
        payload: encodeCommit(hardState.commit),
      });
    }
    return records;
  }

  /** Entries that alone keep the oldest segment, to be written again at the front. */
  #movedRecords(): WalRecord[] {
    if (this.#segments.length < segmentsBeforeMove) return [];
    const oldest = this.#segments[0]!.number;
    const records: WalRecord[] = [];
    let bytes = 0;
    for (const [group, index] of this.#groups) {
      for (const at of index.inSegment(oldest)) {
        const entry = this.read(group, at);
        bytes += entry.data.length;
        if (bytes > movedBytesMax) return records;
        records.push({ group, kind: entryKind(entry.config, true), term: entry.term, index: at, payload: entry.data });
      }
    }
    return records;
  }

  /**
   * Removes segments no group needs. Called before a new segment is made, when everything in the newest is durable:
   * what replaced the old segment's content is then on disk.
   */
  #dropOldest(): void {
    let needed = Infinity;
    for (const index of this.#groups.values()) needed = Math.min(needed, index.oldestSegment());
    let dropped = false;
    while (this.#segments.length > 1 && this.#segments[0]!.number < needed) {
      const segment = this.#segments.shift()!;
      if (segment.bytes === this.#segmentBytes && this.#spares.length < sparesMax) {
        const path = `${this.#dir}/${spareName(segment.number)}`;
        this.#disk.rename(segment.path, path);
        this.#spares.push({ ...segment, path });
      } else {
        segment.file.close();
        this.#disk.remove(segment.path);
      }
      dropped = true;
    }
    if (dropped) this.#disk.syncDir(this.#dir);
  }

  /** Waits for what was asked, then closes the files. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#ready;
    if (this.#flushing) await new Promise<void>((resolve) => this.#idle.push(resolve));
    for (const segment of [...this.#segments.splice(0), ...this.#spares.splice(0)]) segment.file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function sizeOf(records: readonly WalRecord[]): number {
  return records.reduce((sum, { payload }) => sum + headerBytes + payload.length, 0);
}

/** Opens the log in `dir`, made when absent; data_loss when a record that was acknowledged is damaged. */
export function openWal(options: WalOptions, deps: WalDeps): Wal {
  return new Wal(options, deps);
}
