import type { Database } from "@ultracloud/sqlite";
import type { KeyRange } from "../domain/ranges.ts";
import type { ChangeLog } from "./changes.ts";
import type { Quotas } from "./quotas.ts";

/** A key as stored. */
export interface KvRow {
  readonly key: string;
  readonly value: Uint8Array;
  /** Log index of the write that made it. */
  readonly version: number;
  readonly expireMs: number | null;
}

interface StoredRow {
  readonly key: string;
  readonly value: Uint8Array;
  readonly version: number;
  readonly expire_ms: number | null;
}

export interface ScanPage {
  readonly rows: readonly KvRow[];
  /** There may be more after the last row. */
  readonly more: boolean;
}

const itemBytes = 32;
/** Rows read at once in a scan. */
const chunkRows = 128;

/** Buckets of keys in one table. A key whose time has passed at `nowMs` is absent, removed or not. */
export class KvTable {
  readonly #db: Database;
  readonly #changes: ChangeLog;
  readonly #quotas: Quotas;

  constructor(db: Database, changes: ChangeLog, quotas: Quotas) {
    this.#db = db;
    this.#changes = changes;
    this.#quotas = quotas;
  }

  get(bucket: string, key: string, nowMs: number): KvRow | undefined {
    const row = this.#db.get<StoredRow>(
      "SELECT key, value, version, expire_ms FROM _uc_kv WHERE bucket=? AND key=?",
      bucket,
      key,
    );
    return row === undefined || (row.expire_ms !== null && row.expire_ms <= nowMs) ? undefined : fromStored(row);
  }

  /** Log index of the write that made the key; 0 when absent. */
  version(bucket: string, key: string, nowMs: number): number {
    const row = this.#db.get<{ version: number; expire_ms: number | null }>(
      "SELECT version, expire_ms FROM _uc_kv WHERE bucket=? AND key=?",
      bucket,
      key,
    );
    return row === undefined || (row.expire_ms !== null && row.expire_ms <= nowMs) ? 0 : row.version;
  }

  put(bucket: string, key: string, value: Uint8Array, expireMs: number | null, index: number, seq: number): void {
    this.#quotas.count(bucket, key, value.length);
    this.#db.run(
      `INSERT INTO _uc_kv VALUES(?,?,?,?,?) ON CONFLICT(bucket, key)
        DO UPDATE SET value=excluded.value, version=excluded.version, expire_ms=excluded.expire_ms`,
      bucket,
      key,
      value,
      index,
      expireMs,
    );
    this.#changes.add(index, seq, bucket, key, value, expireMs);
  }

  /** True when the key was there. */
  delete(bucket: string, key: string, nowMs: number, index: number, seq: number): boolean {
    const existed = this.version(bucket, key, nowMs) !== 0;
    this.#quotas.count(bucket, key, undefined);
    if (this.#db.run("DELETE FROM _uc_kv WHERE bucket=? AND key=?", bucket, key).changes > 0) {
      this.#changes.add(index, seq, bucket, key, null, null);
    }
    return existed;
  }

  /** Removes up to `countMax` keys whose time has passed, the longest overdue first. */
  sweep(nowMs: number, countMax: number, index: number): number {
    const due = this.#db.all<{ bucket: string; key: string }>(
      "SELECT bucket, key FROM _uc_kv WHERE expire_ms IS NOT NULL AND expire_ms <= ? ORDER BY expire_ms, bucket, key LIMIT ?",
      nowMs,
      countMax,
    );
    due.forEach(({ bucket, key }, seq) => {
      this.#quotas.count(bucket, key, undefined);
      this.#db.run("DELETE FROM _uc_kv WHERE bucket=? AND key=?", bucket, key);
      this.#changes.add(index, seq, bucket, key, null, null);
    });
    return due.length;
  }

  /** When the next key expires; undefined when none does. */
  nextExpireMs(): number | undefined {
    return this.#db.get<{ at: number | null }>(
      "SELECT min(expire_ms) AS at FROM _uc_kv WHERE expire_ms IS NOT NULL",
    )?.at ?? undefined;
  }

  scan(
    bucket: string,
    range: KeyRange,
    options: {
      readonly nowMs: number;
      readonly reverse: boolean;
      readonly limit: number;
      readonly bytesMax: number;
      readonly keysOnly: boolean;
      /** Key after which the page starts, in the direction of the scan. */
      readonly after: string | undefined;
    },
  ): ScanPage {
    const { nowMs, reverse, limit, bytesMax, keysOnly } = options;
    const page: KvRow[] = [];
    let bytes = 0;
    for (let { after } = options;;) {
      const rows = this.#chunk(bucket, range, { nowMs, reverse, keysOnly, after });
      for (const row of rows) {
        bytes += itemBytes + row.key.length + row.value.length;
        // One item always fits: otherwise a page could not get past it.
        if (page.length === limit || (page.length > 0 && bytes > bytesMax)) return { rows: page, more: true };
        page.push(fromStored(row));
      }
      if (rows.length < chunkRows) return { rows: page, more: false };
      after = rows.at(-1)!.key;
    }
  }

  /** The next rows in one go: the iterator of node:sqlite would end in silence when reading fails. */
  #chunk(
    bucket: string,
    range: KeyRange,
    options: {
      readonly nowMs: number;
      readonly reverse: boolean;
      readonly keysOnly: boolean;
      readonly after: string | undefined;
    },
  ): StoredRow[] {
    const { nowMs, reverse, keysOnly, after } = options;
    const conditions = ["bucket = ?", "key >= ?", "(expire_ms IS NULL OR expire_ms > ?)"];
    const params: (string | number)[] = [bucket, range.start, nowMs];
    if (range.end !== undefined) {
      conditions.push("key < ?");
      params.push(range.end);
    }
    if (after !== undefined) {
      conditions.push(reverse ? "key < ?" : "key > ?");
      params.push(after);
    }
    return this.#db.all<StoredRow>(
      `SELECT key, ${keysOnly ? "x'' AS value" : "value"}, version, expire_ms FROM _uc_kv
        WHERE ${conditions.join(" AND ")} ORDER BY key ${reverse ? "DESC" : "ASC"} LIMIT ${chunkRows}`,
      ...params,
    );
  }
}

function fromStored(row: StoredRow): KvRow {
  return { key: row.key, value: row.value, version: row.version, expireMs: row.expire_ms };
}
