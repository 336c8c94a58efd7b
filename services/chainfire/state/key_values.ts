import type { Database } from "@ultracloud/sqlite";
import { rejections } from "../errors.ts";
import { rangeBytesMax } from "../domain/limits.ts";
import { isOpenEnd, noBytes } from "../domain/ranges.ts";
import type { KeyRange, KeyValue, KvEvent, RangeOp, RangeResult } from "../domain/types.ts";
import { FreshRows } from "./fresh.ts";
import type { Quotas } from "./quotas.ts";
import { hashChange } from "./rolling_hash.ts";
import type { Counters } from "./schema.ts";

interface Row {
  readonly id: number;
  readonly revision: number;
  readonly key: Uint8Array;
  /** Null for a deletion. */
  readonly value: Uint8Array | null;
  readonly create_revision: number;
  readonly version: number;
  readonly lease: number | bigint;
}

const columns = "h.id, h.revision, h.key, h.value, h.create_revision, h.version, h.lease";
const keyColumns = "h.id, h.revision, h.key, x'' AS value, h.create_revision, h.version, h.lease";
const liveRows = "live JOIN history h ON h.id = live.id";
/** Per key value, beside key and value. */
const kvOverheadBytes = 40;

const sortColumns = {
  key: "h.key",
  version: "h.version",
  create: "h.create_revision",
  mod: "h.revision",
  value: "h.value",
} as const;

/** Rows read before their usual size is known, and at once when they are small. */
const rowsFirst = 64;
const rowsAtOnceMax = 16_384;

/** Rows `h` of history to choose from. */
interface Source {
  readonly from: string;
  readonly where: string;
  readonly params: readonly (Uint8Array | number)[];
}

/** A condition on a key column and its parameters. */
export function keyCondition(column: string, { key, end }: KeyRange): { sql: string; params: Uint8Array[] } {
  if (end.length === 0) return { sql: `${column} = ?`, params: [key] };
  if (isOpenEnd(end)) return { sql: `${column} >= ?`, params: [key] };
  return { sql: `${column} >= ? AND ${column} < ?`, params: [key, end] };
}

function toKv(row: Row): KeyValue {
  return {
    key: row.key,
    value: row.value ?? noBytes,
    createRevision: row.create_revision,
    modRevision: row.revision,
    version: row.version,
    lease: BigInt(row.lease),
  };
}

/** Bytes that keep a much larger buffer alive (that of an entry, or of a peer's message) are copied. */
function owned(bytes: Uint8Array): Uint8Array {
  return bytes.buffer.byteLength - bytes.length > wasteBytesMax ? bytes.slice() : bytes;
}
const wasteBytesMax = 1_024;

/** A read of one key as it is now, without conditions. */
function isPlainGet(op: RangeOp, now: number): boolean {
  return op.end.length === 0 && (op.revision === 0 || op.revision === now) && !op.countOnly &&
    op.minMod === 0 && op.maxMod === 0 && op.minCreate === 0 && op.maxCreate === 0;
}

/** Rejects a revision that is compacted or not there yet. */
export function checkRevision(op: RangeOp, { revision, compactRevision }: Counters): void {
  if (op.revision > revision) throw rejections.futureRevision(op.revision, revision);
  if (op.revision > 0 && op.revision < compactRevision) throw rejections.compacted(op.revision, compactRevision);
}

/** Keys with all their revisions. Writes happen inside the caller's transaction and leave an event each. */
export class KeyValues {
  readonly #db: Database;
  /** Changes on their way into the tables: whoever reads a table asks `#tables` first. */
  readonly fresh: FreshRows;
  readonly #counters: Counters;
  readonly #quotas: Quotas;
  /** Changes since they were last taken, in order. */
  #events: KvEvent[] = [];

  constructor(db: Database, counters: Counters, quotas: Quotas) {
    this.#db = db;
    this.#counters = counters;
    this.#quotas = quotas;
    this.fresh = new FreshRows(db);
  }

  /** The database with every change so far in its tables. */
  get #tables(): Database {
    this.fresh.flush();
    return this.#db;
  }

  takeEvents(): KvEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** How many changes are noted, to go back to with `dropEvents`. */
  get eventCount(): number {
    return this.#events.length;
  }

  dropEvents(count: number): void {
    for (let i = this.#events.length - 1; i >= count; i--) {
      const { type, kv, prev } = this.#events[i]!;
      this.#quotas.changed(type === "put" ? kv : undefined, prev);
    }
    this.#events.length = count;
  }

  get(key: Uint8Array): KeyValue | undefined {
    const known = this.fresh.find(key);
    if (known !== undefined) return known ?? undefined;
    // A key with a change that is not in the tables yet is always known.
    const row = this.#db.get<Row>(`SELECT ${columns} FROM ${liveRows} WHERE live.key = ?`, key);
    if (!row) return undefined;
    const kv = toKv(row);
    this.fresh.remember(kv);
    return kv;
  }

  /** Keys of the range that exist now, in order. */
  all(range: KeyRange): KeyValue[] {
    const { sql, params } = keyCondition("live.key", range);
    return this.#tables.all<Row>(`SELECT ${columns} FROM ${liveRows} WHERE ${sql} ORDER BY live.key`, ...params).map(
      toKv,
    );
  }

  keysOfLease(id: bigint): Uint8Array[] {
    const rows = this.#tables.all<{ key: Uint8Array }>(
      "SELECT key FROM live WHERE lease = ? AND lease <> 0 ORDER BY key",
      id,
    );
    return rows.map((row) => row.key);
  }

  /** Rejects, before it writes, what a quota forbids. */
  put(before: KeyValue | undefined, key: Uint8Array, value: Uint8Array, lease: bigint, revision: number): KeyValue {
    const kv: KeyValue = {
      key: before?.key ?? owned(key),
      value: owned(value),
      createRevision: before?.createRevision ?? revision,
      modRevision: revision,
      version: (before?.version ?? 0) + 1,
      lease,
    };
    this.#quotas.check(before, kv);
    this.fresh.add(kv, false);
    this.#note({ type: "put", kv, prev: before });
    return kv;
  }

  delete(before: KeyValue, revision: number): void {
    const kv: KeyValue = {
      key: before.key,
      value: noBytes,
      createRevision: 0,
      modRevision: revision,
      version: 0,
      lease: 0n,
    };
    this.fresh.add(kv, true);
    this.#note({ type: "delete", kv, prev: before });
  }

  #note(event: KvEvent): void {
    const { type, kv, prev } = event;
    this.#quotas.changed(prev, type === "put" ? kv : undefined);
    this.#counters.stateHash = hashChange(this.#counters.stateHash, kv, type === "delete");
    this.#events.push(event);
  }

  /**
   * Keys of the range at the asked revision, up to about `bytesMax` of keys and values. Rejects a revision that is
   * compacted or not there yet.
   */
  range(op: RangeOp, bytesMax = rangeBytesMax): RangeResult {
    const { revision: now } = this.#counters;
    checkRevision(op, this.#counters);
    if (isPlainGet(op, now)) {
      const kv = this.get(op.key);
      const kvs = kv === undefined ? [] : [op.keysOnly ? { ...kv, value: noBytes } : kv];
      return { kind: "range", revision: now, kvs, more: false, count: kvs.length };
    }
    const source = this.#source(op, op.revision > 0 && op.revision < now);
    if (op.countOnly) return { kind: "range", revision: now, kvs: [], more: false, count: this.#count(source) };

    const where = [source.where];
    const params = [...source.params];
    const bound = (sql: string, value: number) => {
      if (value === 0) return;
      where.push(sql);
      params.push(value);
    };
    bound("h.revision >= ?", op.minMod);
    bound("h.revision <= ?", op.maxMod);
    bound("h.create_revision >= ?", op.minCreate);
    bound("h.create_revision <= ?", op.maxCreate);
    const filtered = where.length > 1;
    const direction = op.descending ? "DESC" : "ASC";
    const order = op.target === "key" ? `h.key ${direction}` : `${sortColumns[op.target]} ${direction}, h.key ASC`;
    const sql = `SELECT ${op.keysOnly ? keyColumns : columns} FROM ${source.from} WHERE ${where.join(" AND ")}` +
      ` ORDER BY ${order} LIMIT ? OFFSET ?`;

    const kvs: KeyValue[] = [];
    let bytes = 0;
    let more = false;
    // Rows come in pieces of what still fits, so that a cut answer does not read the rest of the range.
    for (let offset = 0, rows = rowsFirst; !more;) {
      // One row more than asked tells whether there is more.
      if (op.limit > 0) rows = Math.min(rows, op.limit + 1 - offset);
      const piece = this.#tables.all<Row>(sql, ...params, rows, offset);
      for (const row of piece) {
        bytes += row.key.length + (row.value?.length ?? 0) + kvOverheadBytes;
        more = (op.limit > 0 && kvs.length === op.limit) || (kvs.length > 0 && bytes > bytesMax);
        if (more) break;
        kvs.push(toKv(row));
      }
      if (piece.length < rows) break;
      offset += rows;
      const fitting = Math.floor((bytesMax - bytes) * kvs.length / bytes);
      rows = Math.min(rowsAtOnceMax, 1 + Math.max(0, fitting));
    }
    const count = more || filtered ? this.#count(source) : kvs.length;
    return { kind: "range", revision: now, kvs, more, count };
  }

  #source(op: RangeOp, past: boolean): Source {
    if (!past) {
      const { sql, params } = keyCondition("live.key", op);
      return { from: liveRows, where: sql, params };
    }
    const { sql, params } = keyCondition("key", op);
    return {
      from: `(SELECT MAX(id) AS id FROM history WHERE ${sql} AND revision <= ? GROUP BY key) AS past` +
        " JOIN history h ON h.id = past.id",
      where: "h.value IS NOT NULL",
      params: [...params, op.revision],
    };
  }

  #count(source: Source): number {
    // Live keys are counted without looking at their rows in history.
    const from = source.from === liveRows ? "live" : source.from;
    const sql = `SELECT COUNT(*) AS n FROM ${from} WHERE ${source.where}`;
    return this.#tables.get<{ n: number }>(sql, ...source.params)!.n;
  }

  /**
   * Changes of the range from `from` on, whole revisions only, and the first revision not looked at yet. Reads about
   * `rows` rows of history.
   */
  changes(range: KeyRange, from: number, rows: number, prevKv: boolean): { events: KvEvent[]; next: number } {
    const db = this.#tables;
    const first = this.#firstId(from);
    const last = db.get<{ revision: number }>(
      "SELECT revision FROM history WHERE id >= ? ORDER BY id LIMIT 1 OFFSET ?",
      first,
      rows,
    );
    const end = last === undefined ? this.#counters.revision + 1 : Math.max(last.revision, from + 1);
    const { sql, params } = keyCondition("h.key", range);
    const found = db.all<Row>(
      `SELECT ${columns} FROM history h WHERE h.id >= ? AND h.id < ? AND ${sql} ORDER BY h.id`,
      first,
      this.#firstId(end),
      ...params,
    );
    const events = found.map((row): KvEvent => ({
      type: row.value === null ? "delete" : "put",
      kv: toKv(row),
      prev: prevKv ? this.#before(row) : undefined,
    }));
    return { events, next: end };
  }

  /** The id of the first row at or above a revision: ids and revisions rise together, so halving finds it. */
  #firstId(revision: number): number {
    let low = 1;
    let high = this.fresh.nextId;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const row = this.#db.get<{ id: number; revision: number }>(
        "SELECT id, revision FROM history WHERE id >= ? ORDER BY id LIMIT 1",
        middle,
      );
      if (row === undefined || row.revision >= revision) high = middle;
      else low = row.id + 1;
    }
    return low;
  }

  #before(row: Row): KeyValue | undefined {
    const before = this.#db.get<Row>(
      `SELECT ${columns} FROM history h WHERE h.key = ? AND h.revision < ? ORDER BY h.revision DESC LIMIT 1`,
      row.key,
      row.revision,
    );
    return before === undefined || before.value === null ? undefined : toKv(before);
  }
}
