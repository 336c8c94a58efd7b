import type { Database } from "@ultracloud/sqlite";
import { leasesCountMax, leasesExpiredPerEntryMax, leaseSlackMs } from "../domain/limits.ts";
import type { LeaseChange, LeaseEvent } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import type { KeyValues } from "./key_values.ts";
import { hashLeaseChange } from "./rolling_hash.ts";
import type { Counters } from "./schema.ts";

export interface Lease {
  readonly id: bigint;
  readonly ttlMs: number;
  /** On the replicated clock. */
  readonly deadlineMs: number;
}

interface Row {
  readonly id: number | bigint;
  readonly ttl_ms: number;
  readonly deadline_ms: number;
}

const toLease = (row: Row): Lease => ({ id: BigInt(row.id), ttlMs: row.ttl_ms, deadlineMs: row.deadline_ms });

/**
 * Leases by deadline on the replicated clock. That clock goes on only in log entries, and never faster than any
 * leader's monotonic clock: so a deadline survives a change of leader, and a lease never ends early.
 */
export class Leases {
  readonly #db: Database;
  readonly #counters: Counters;
  readonly #keys: KeyValues;
  /** Changes since they were last taken, in order. */
  #events: LeaseEvent[] = [];

  constructor(db: Database, counters: Counters, keys: KeyValues) {
    this.#db = db;
    this.#counters = counters;
    this.#keys = keys;
  }

  takeEvents(): LeaseEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** How many changes are noted, to go back to with `dropEvents`. */
  get eventCount(): number {
    return this.#events.length;
  }

  dropEvents(count: number): void {
    this.#events.length = count;
  }

  #note(type: LeaseChange, id: bigint, ttlMs: number): void {
    const event = { type, id, ttlMs };
    this.#counters.stateHash = hashLeaseChange(this.#counters.stateHash, event);
    this.#events.push(event);
  }

  get(id: bigint): Lease | undefined {
    const row = this.#db.get<Row>("SELECT id, ttl_ms, deadline_ms FROM lease WHERE id = ?", id);
    return row && toLease(row);
  }

  has(id: bigint): boolean {
    return this.get(id) !== undefined;
  }

  ids(): bigint[] {
    return this.#db.all<{ id: number | bigint }>("SELECT id FROM lease ORDER BY id").map((row) => BigInt(row.id));
  }

  all(): Lease[] {
    return this.#db.all<Row>("SELECT id, ttl_ms, deadline_ms FROM lease ORDER BY id").map(toLease);
  }

  count(): number {
    return this.#db.get<{ n: number }>("SELECT COUNT(*) AS n FROM lease")!.n;
  }

  /** The earliest deadline; undefined without leases. */
  nextDeadlineMs(): number | undefined {
    return this.#db.get<{ at: number | null }>("SELECT MIN(deadline_ms) AS at FROM lease")?.at ?? undefined;
  }

  grant(id: bigint, ttlMs: number): void {
    if (this.has(id)) throw rejections.leaseExists(id);
    if (this.count() >= leasesCountMax) throw rejections.tooManyLeases(leasesCountMax);
    this.#db.run("INSERT INTO lease(id, ttl_ms, deadline_ms) VALUES(?, ?, ?)", id, ttlMs, this.#deadline(ttlMs));
    this.#note("granted", id, ttlMs);
  }

  /** Starts the lease's time anew; answers its length. */
  keepAlive(id: bigint): number {
    const lease = this.get(id);
    if (!lease) throw rejections.leaseNotFound(id);
    this.#db.run("UPDATE lease SET deadline_ms = ? WHERE id = ?", this.#deadline(lease.ttlMs), id);
    this.#note("renewed", id, lease.ttlMs);
    return lease.ttlMs;
  }

  #deadline(ttlMs: number): number {
    return this.#counters.clockMs + ttlMs + leaseSlackMs;
  }

  /** Ends the lease and deletes its keys as one revision. */
  revoke(id: bigint): void {
    const lease = this.get(id);
    if (!lease) throw rejections.leaseNotFound(id);
    this.#end(lease, "revoked");
  }

  /** Ends leases whose deadline is over, the longest overdue first; the rest waits for the next entry. */
  expire(): number {
    const due = this.#db.all<Row>(
      "SELECT id, ttl_ms, deadline_ms FROM lease WHERE deadline_ms <= ? ORDER BY deadline_ms, id LIMIT ?",
      this.#counters.clockMs,
      leasesExpiredPerEntryMax,
    );
    for (const row of due) this.#end(toLease(row), "expired");
    return due.length;
  }

  #end({ id, ttlMs }: Lease, why: "revoked" | "expired"): void {
    const keys = this.#keys.keysOfLease(id);
    if (keys.length > 0) {
      const revision = ++this.#counters.revision;
      for (const key of keys) this.#keys.delete(this.#keys.get(key)!, revision);
    }
    this.#db.run("DELETE FROM lease WHERE id = ?", id);
    this.#note(why, id, ttlMs);
  }
}
