import { Fault, fault, utf8 } from "@ultracloud/base";
import type { Database } from "@ultracloud/sqlite";
import { quotasMax } from "../domain/bounds.ts";

/** What a bucket holds and may hold; 0 as a bound is none. */
export interface BucketUsage {
  readonly name: string;
  keys: number;
  bytes: number;
  keysMax: number;
  bytesMax: number;
}

/** A write as quotas see it; `bytes` of the value, undefined for a delete. */
export interface CountedWrite {
  readonly bucket: string;
  readonly key: string;
  readonly bytes: number | undefined;
}

/** Bounds of buckets. Only buckets that have one are counted, so that the others cost nothing. */
export class Quotas {
  readonly #db: Database;
  #counted = new Map<string, BucketUsage>();

  constructor(db: Database) {
    this.#db = db;
  }

  /** Counts the bounded buckets; call it when the tables were opened or replaced. */
  load(): void {
    this.#counted = new Map();
    const rows = this.#db.all<{ bucket: string; keys_max: number; bytes_max: number }>("SELECT * FROM _uc_quota");
    for (const row of rows) {
      this.#counted.set(row.bucket, { ...this.#measure(row.bucket), keysMax: row.keys_max, bytesMax: row.bytes_max });
    }
  }

  #measure(bucket: string): BucketUsage {
    const { n, b } = this.#db.get<{ n: number; b: number }>(
      `SELECT count(*) AS n, coalesce(sum(length(CAST(key AS BLOB)) + length(value)), 0) AS b FROM _uc_kv WHERE bucket=?`,
      bucket,
    )!;
    return { name: bucket, keys: n, bytes: b, keysMax: 0, bytesMax: 0 };
  }

  /** Bounds a bucket, or takes its bound away. */
  set(bucket: string, keysMax: number, bytesMax: number): BucketUsage | Fault {
    if (keysMax === 0 && bytesMax === 0) {
      this.#db.run("DELETE FROM _uc_quota WHERE bucket=?", bucket);
      this.#counted.delete(bucket);
      return this.#measure(bucket);
    }
    if (!this.#counted.has(bucket) && this.#counted.size >= quotasMax) {
      return fault("resource_exhausted", "quotas_full", `Cannot bound bucket ${bucket} beside ${quotasMax} others`);
    }
    this.#db.run("INSERT OR REPLACE INTO _uc_quota VALUES(?,?,?)", bucket, keysMax, bytesMax);
    const usage = { ...(this.#counted.get(bucket) ?? this.#measure(bucket)), keysMax, bytesMax };
    this.#counted.set(bucket, usage);
    return { ...usage };
  }

  /** Every bucket with keys or a bound, by name. */
  list(): BucketUsage[] {
    const names = this.#db.all<{ bucket: string }>(
      "SELECT DISTINCT bucket FROM _uc_kv UNION SELECT bucket FROM _uc_quota ORDER BY bucket",
    );
    return names.map(({ bucket }) => this.#counted.get(bucket) ?? this.#measure(bucket));
  }

  /** Bytes of the key as it is stored; undefined when it is not there. Overdue keys count until they are removed. */
  #stored(bucket: string, key: string): number | undefined {
    return this.#db.get<{ n: number }>(
      "SELECT length(CAST(key AS BLOB)) + length(value) AS n FROM _uc_kv WHERE bucket=? AND key=?",
      bucket,
      key,
    )?.n;
  }

  /** The refusal when these writes, each of another key, would take a bucket above its bound. */
  check(writes: readonly CountedWrite[]): Fault | undefined {
    if (this.#counted.size === 0) return undefined;
    const sums = new Map<string, { keys: number; bytes: number }>();
    for (const { bucket, key, bytes } of writes) {
      if (!this.#counted.has(bucket)) continue;
      const sum = sums.get(bucket) ?? { keys: 0, bytes: 0 };
      const held = this.#stored(bucket, key);
      sum.keys += (bytes === undefined ? 0 : 1) - (held === undefined ? 0 : 1);
      sum.bytes += (bytes === undefined ? 0 : bytes + utf8.encode(key).length) - (held ?? 0);
      sums.set(bucket, sum);
    }
    for (const [bucket, sum] of sums) {
      const usage = this.#counted.get(bucket)!;
      const keys = usage.keys + sum.keys, bytes = usage.bytes + sum.bytes;
      // What makes a full bucket smaller is always welcome.
      if (usage.keysMax > 0 && keys > usage.keysMax && sum.keys > 0) {
        return fault(
          "resource_exhausted",
          "bucket_full",
          `Cannot hold ${keys} keys in bucket ${bucket}: wanted at most ${usage.keysMax}`,
        );
      }
      if (usage.bytesMax > 0 && bytes > usage.bytesMax && sum.bytes > 0) {
        return fault(
          "resource_exhausted",
          "bucket_full",
          `Cannot hold ${bytes} bytes in bucket ${bucket}: wanted at most ${usage.bytesMax}`,
        );
      }
    }
    return undefined;
  }

  /** Counts a write that is about to happen; `bytes` undefined for a delete. */
  count(bucket: string, key: string, bytes: number | undefined): void {
    const usage = this.#counted.get(bucket);
    if (usage === undefined) return;
    const held = this.#stored(bucket, key);
    usage.keys += (bytes === undefined ? 0 : 1) - (held === undefined ? 0 : 1);
    usage.bytes += (bytes === undefined ? 0 : bytes + utf8.encode(key).length) - (held ?? 0);
  }
}
