import type { Database } from "@ultracloud/sqlite";
import { quotasCountMax } from "../domain/limits.ts";
import { namespaceName, namespacesOf, prefixRange } from "../domain/namespaces.ts";
import type { KeyValue, Quota, QuotaUsage } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import { keyCondition } from "./key_values.ts";

interface Bounded {
  readonly quota: Quota;
  bytes: number;
  keys: number;
  /** Keys of the namespace by the lease they hold. */
  readonly leases: Map<bigint, number>;
}

interface Row {
  readonly namespace: Uint8Array;
  readonly bytes_max: number;
  readonly keys_max: number;
  readonly leases_max: number;
  readonly watches_max: number;
  readonly writes_max: number;
}

const sizeOf = (kv: KeyValue | undefined) => kv ? kv.key.length + kv.value.length : 0;

/**
 * Bounds on namespaces, and what their keys use. Usage is counted in memory from the keys that exist: a store without
 * quotas pays nothing, one with them no statement.
 */
export class Quotas {
  readonly #db: Database;
  /** By namespace, one character a byte. */
  readonly #bounded = new Map<string, Bounded>();
  /** Different lengths of namespaces, ascending. */
  #lengths: readonly number[] = [];

  constructor(db: Database) {
    this.#db = db;
    this.reload();
  }

  /** Counts anew; needed after the rows were replaced. */
  reload(): void {
    this.#bounded.clear();
    for (const row of this.#db.all<Row>("SELECT * FROM quota ORDER BY namespace")) {
      this.#count({
        namespace: row.namespace,
        bytesMax: row.bytes_max,
        keysMax: row.keys_max,
        leasesMax: row.leases_max,
        watchesMax: row.watches_max,
        writesPerSecondMax: row.writes_max,
      });
    }
  }

  set(quota: Quota): void {
    const known = this.#bounded.has(namespaceName(quota.namespace));
    if (!known && this.#bounded.size >= quotasCountMax) throw rejections.tooManyQuotas(quotasCountMax);
    this.#db.run(
      "INSERT OR REPLACE INTO quota(namespace, bytes_max, keys_max, leases_max, watches_max, writes_max)" +
        " VALUES(?, ?, ?, ?, ?, ?)",
      quota.namespace,
      quota.bytesMax,
      quota.keysMax,
      quota.leasesMax,
      quota.watchesMax,
      quota.writesPerSecondMax,
    );
    this.#count(quota);
  }

  delete(namespace: Uint8Array): void {
    const name = namespaceName(namespace);
    if (!this.#bounded.delete(name)) throw rejections.quotaNotFound(JSON.stringify(name));
    this.#db.run("DELETE FROM quota WHERE namespace = ?", namespace);
    this.#sortLengths();
  }

  #count(quota: Quota): void {
    const { sql, params } = keyCondition("live.key", prefixRange(quota.namespace));
    const from = `FROM live JOIN history h ON h.id = live.id WHERE ${sql}`;
    const sum = this.#db.get<{ keys: number; bytes: number }>(
      `SELECT COUNT(*) AS keys, COALESCE(SUM(LENGTH(live.key) + LENGTH(h.value)), 0) AS bytes ${from}`,
      ...params,
    )!;
    const leases = this.#db.all<{ lease: number | bigint; keys: number }>(
      `SELECT lease, COUNT(*) AS keys FROM live WHERE ${sql} AND lease <> 0 GROUP BY lease`,
      ...params,
    );
    this.#bounded.set(namespaceName(quota.namespace), {
      quota,
      ...sum,
      leases: new Map(leases.map((row) => [BigInt(row.lease), row.keys])),
    });
    this.#sortLengths();
  }

  #sortLengths(): void {
    this.#lengths = [...new Set([...this.#bounded.keys()].map((name) => name.length))].sort((a, b) => a - b);
  }

  get count(): number {
    return this.#bounded.size;
  }

  list(): { readonly quota: Quota; readonly usage: QuotaUsage }[] {
    return [...this.#bounded.keys()].sort().map((name) => this.get(name)!);
  }

  /** By `namespaceName`. */
  get(name: string): { readonly quota: Quota; readonly usage: QuotaUsage } | undefined {
    const found = this.#bounded.get(name);
    if (!found) return undefined;
    return { quota: found.quota, usage: { bytes: found.bytes, keys: found.keys, leases: found.leases.size } };
  }

  /** Quotas of every namespace that holds the key. */
  of(key: Uint8Array): Quota[] {
    if (this.#bounded.size === 0) return [];
    return this.#holding(key).map(({ quota }) => quota);
  }

  #holding(key: Uint8Array): Bounded[] {
    return namespacesOf(key, this.#lengths).flatMap((name) => this.#bounded.get(name) ?? []);
  }

  /** Rejects a write that would take a namespace above a bound. One that shrinks is always let through. */
  check(before: KeyValue | undefined, after: KeyValue): void {
    if (this.#bounded.size === 0) return;
    const growth = sizeOf(after) - sizeOf(before);
    for (const { quota, bytes, keys, leases } of this.#holding(after.key)) {
      const over = (what: string, actual: number, max: number) => {
        if (max > 0 && actual > max) {
          throw rejections.quotaExceeded(what, JSON.stringify(namespaceName(quota.namespace)), actual, max);
        }
      };
      if (growth > 0) over("bytes", bytes + growth, quota.bytesMax);
      if (!before) over("keys", keys + 1, quota.keysMax);
      if (after.lease !== 0n && !leases.has(after.lease)) over("leases", leases.size + 1, quota.leasesMax);
    }
  }

  /** Notes that a key went from one value to another; undefined: it did not or does not exist. */
  changed(before: KeyValue | undefined, after: KeyValue | undefined): void {
    if (this.#bounded.size === 0) return;
    for (const bounded of this.#holding((before ?? after)!.key)) {
      bounded.bytes += sizeOf(after) - sizeOf(before);
      bounded.keys += (after ? 1 : 0) - (before ? 1 : 0);
      hold(bounded.leases, before?.lease, -1);
      hold(bounded.leases, after?.lease, 1);
    }
  }
}

function hold(leases: Map<bigint, number>, lease: bigint | undefined, change: number): void {
  if (lease === undefined || lease === 0n) return;
  const keys = (leases.get(lease) ?? 0) + change;
  if (keys === 0) leases.delete(lease);
  else leases.set(lease, keys);
}
