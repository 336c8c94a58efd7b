import { assert, fault } from "@ultracloud/base";
import type { Database } from "@ultracloud/sqlite";
import { changesBytesMax, changesCountMax } from "../domain/bounds.ts";
import { afterPrefix, compareKeys } from "../domain/ranges.ts";
import type { Meta } from "./schema.ts";

/** One write of a key as watches tell it; `value` null: the key is gone. */
export interface KvChange {
  readonly index: number;
  readonly bucket: string;
  readonly key: string;
  readonly value: Uint8Array | null;
  readonly expireMs: number | null;
}

interface StoredChange {
  readonly idx: number;
  readonly seq: number;
  readonly key: string;
  readonly value: Uint8Array | null;
  readonly expire_ms: number | null;
}

export interface ChangePage {
  /** Everything up to this index is in this page or an earlier one. */
  readonly index: number;
  readonly changes: readonly KvChange[];
}

/** Recent changes held in memory too, so that watches that keep up cost no query. */
const recentCountMax = 4_096;
const recentBytesMax = 8 * 1024 * 1024;
/** Pruning goes this far below the bound, so that it happens once in a while and not with every entry. */
const pruneTo = 0.99;
const rowBytes = 64;
/** Rows read at once for a watch that resumes. */
const chunkRows = 256;

/** The last changes of a database, in order, bounded by count and bytes; part of the replicated state. */
export class ChangeLog {
  readonly #db: Database;
  readonly #meta: Meta;
  #count = 0;
  #bytes = 0;
  /** Changes at and below it are no longer held. */
  #cut = 0;
  #recent: KvChange[] = [];
  #recentBytes = 0;
  /** Every change above it is in `#recent`. */
  #recentFrom = 0;

  constructor(db: Database, meta: Meta) {
    this.#db = db;
    this.#meta = meta;
  }

  /** Reads the totals; call it when the tables were opened or replaced. */
  load(appliedIndex: number): void {
    const row = this.#db.get<{ n: number; b: number }>(
      `SELECT count(*) AS n, coalesce(sum(${rowBytes} + length(CAST(key AS BLOB)) + coalesce(length(value), 0)), 0) AS b FROM _uc_change`,
    )!;
    this.#count = row.n;
    this.#bytes = row.b;
    this.#cut = this.#meta.get("changes_cut");
    this.#recent = [];
    this.#recentBytes = 0;
    this.#recentFrom = appliedIndex;
  }

  add(
    index: number,
    seq: number,
    bucket: string,
    key: string,
    value: Uint8Array | null,
    expireMs: number | null,
  ): void {
    this.#db.run("INSERT INTO _uc_change VALUES(?,?,?,?,?,?)", index, seq, bucket, key, value, expireMs);
    const bytes = rowBytes + utf8Length(key) + (value?.length ?? 0);
    this.#count++;
    this.#bytes += bytes;
    this.#recent.push({ index, bucket, key, value, expireMs });
    this.#recentBytes += bytes;
  }

  /** Forgets the oldest changes when an entry has passed a bound; the same on every replica. */
  prune(): void {
    if (this.#count > changesCountMax || this.#bytes > changesBytesMax) this.#dropOldest();
    if (this.#recent.length > recentCountMax || this.#recentBytes > recentBytesMax) this.#dropRecent();
  }

  /** The oldest first, a chunk at a time: what is held is never read as a whole. */
  #dropOldest(): void {
    const within = () => this.#count <= changesCountMax * pruneTo && this.#bytes <= changesBytesMax * pruneTo;
    while (!within()) {
      const rows = this.#db.all<{ idx: number; n: number; b: number }>(
        `SELECT idx, count(*) AS n, sum(${rowBytes} + length(CAST(key AS BLOB)) + coalesce(length(value), 0)) AS b
          FROM _uc_change WHERE idx > ? GROUP BY idx ORDER BY idx LIMIT ${chunkRows}`,
        this.#cut,
      );
      assert(rows.length > 0, "Changes that are counted are held");
      for (const { idx, n, b } of rows) {
        if (within()) break;
        this.#count -= n;
        this.#bytes -= b;
        this.#cut = idx;
      }
    }
    this.#db.run("DELETE FROM _uc_change WHERE idx <= ?", this.#cut);
    this.#meta.set("changes_cut", this.#cut);
  }

  #dropRecent(): void {
    let n = 0;
    while (
      n < this.#recent.length &&
      (this.#recent.length - n > recentCountMax * pruneTo || this.#recentBytes > recentBytesMax * pruneTo)
    ) {
      const change = this.#recent[n++]!;
      this.#recentBytes -= rowBytes + utf8Length(change.key) + (change.value?.length ?? 0);
      this.#recentFrom = change.index;
    }
    // The rest of a half dropped entry is of no use.
    while (n < this.#recent.length && this.#recent[n]!.index === this.#recentFrom) {
      const change = this.#recent[n++]!;
      this.#recentBytes -= rowBytes + utf8Length(change.key) + (change.value?.length ?? 0);
    }
    this.#recent.splice(0, n);
  }

  /**
   * Changes of the bucket and prefix after index `after`, whole entries, about `bytesMax` at most.
   *
   * @throws {Fault} `compacted` when changes after `after` are no longer held.
   */
  read(bucket: string, prefix: string, after: number, appliedIndex: number, bytesMax: number): ChangePage {
    if (after < this.#cut) {
      throw fault(
        "out_of_range",
        "compacted",
        `Cannot watch after index ${after} as changes up to ${this.#cut} are no longer held: read again and watch from there`,
        { metadata: { compacted_index: String(this.#cut) } },
      );
    }
    if (after >= appliedIndex) return { index: appliedIndex, changes: [] };
    const all = after >= this.#recentFrom
      ? this.#recent.filter((c) => c.index > after && c.bucket === bucket && c.key.startsWith(prefix))
      : this.#stored(bucket, prefix, after);
    const changes: KvChange[] = [];
    let bytes = 0;
    for (const change of all) {
      if (bytes >= bytesMax && change.index !== changes.at(-1)!.index) {
        return { index: changes.at(-1)!.index, changes };
      }
      changes.push(change);
      bytes += rowBytes + (change.value?.length ?? 0);
    }
    return { index: appliedIndex, changes };
  }

  *#stored(bucket: string, prefix: string, after: number): Generator<KvChange> {
    const end = afterPrefix(prefix);
    // In chunks: the iterator of node:sqlite would end in silence when reading fails.
    for (let at = after, seq = Number.MAX_SAFE_INTEGER;;) {
      const rows = this.#db.all<StoredChange>(
        `SELECT idx, seq, key, value, expire_ms FROM _uc_change
          WHERE (idx, seq) > (?, ?) AND bucket = ? ORDER BY idx, seq LIMIT ${chunkRows}`,
        at,
        seq,
        bucket,
      );
      for (const row of rows) {
        if (compareKeys(row.key, prefix) < 0 || (end !== undefined && compareKeys(row.key, end) >= 0)) continue;
        yield { index: row.idx, bucket, key: row.key, value: row.value, expireMs: row.expire_ms };
      }
      if (rows.length < chunkRows) return;
      ({ idx: at, seq } = rows.at(-1)!);
    }
  }
}

function utf8Length(text: string): number {
  let bytes = 0;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    // Each half of a surrogate pair stands for two of its four bytes.
    bytes += unit < 0x80 ? 1 : unit < 0x800 || (unit >= 0xd800 && unit <= 0xdfff) ? 2 : 3;
  }
  return bytes;
}
