import { equalBytes, Fault, fault } from "@ultracloud/base";
import type { Database } from "@ultracloud/sqlite";
import type { DedupeKey } from "../domain/log_entry.ts";
import { dedupeBytesMax, dedupeCountMax, dedupeTtlMs } from "../domain/bounds.ts";

/** What the table says about an entry before it is applied. */
export type DedupeVerdict =
  | { readonly kind: "new" }
  /** Applied before: the first answer, encoded. */
  | { readonly kind: "known"; readonly answer: Uint8Array }
  | { readonly kind: "refused"; readonly fault: Fault };

const rowBytes = 128;

/** Answers of calls that sent an idempotency key, kept with the effect they stand for. */
export class DedupeTable {
  readonly #db: Database;
  #count = 0;
  #bytes = 0;

  constructor(db: Database) {
    this.#db = db;
  }

  /** Reads the totals; call it when the tables were opened or replaced. */
  load(): void {
    const row = this.#db.get<{ n: number; b: number }>(
      `SELECT count(*) AS n, coalesce(sum(${rowBytes} + length(answer)), 0) AS b FROM _uc_dedupe`,
    )!;
    this.#count = row.n;
    this.#bytes = row.b;
  }

  /** Forgets what is too old at `nowMs`, then looks the key up. */
  check(key: DedupeKey, nowMs: number): DedupeVerdict {
    this.#expire(nowMs);
    const row = this.#db.get<{ sha256: Uint8Array; answer: Uint8Array }>(
      "SELECT sha256, answer FROM _uc_dedupe WHERE key=?",
      key.key,
    );
    if (row !== undefined) {
      if (equalBytes(row.sha256, key.sha256)) return { kind: "known", answer: row.answer };
      return {
        kind: "refused",
        fault: fault(
          "already_exists",
          "idempotency_mismatch",
          "Cannot use the idempotency key again for another request: wanted a new key",
        ),
      };
    }
    if (this.#count >= dedupeCountMax || this.#bytes >= dedupeBytesMax) {
      return {
        kind: "refused",
        fault: fault(
          "resource_exhausted",
          "idempotency_full",
          `Cannot keep another idempotency key beside ${this.#count} of ${this.#bytes} bytes: wanted fewer within 24 hours`,
        ),
      };
    }
    return { kind: "new" };
  }

  store(key: DedupeKey, answer: Uint8Array, nowMs: number): void {
    this.#db.run("INSERT INTO _uc_dedupe VALUES(?,?,?,?)", key.key, key.sha256, answer, nowMs);
    this.#count++;
    this.#bytes += rowBytes + answer.length;
  }

  #expire(nowMs: number): void {
    const before = nowMs - dedupeTtlMs;
    const old = this.#db.get<{ n: number; b: number | null }>(
      `SELECT count(*) AS n, sum(${rowBytes} + length(answer)) AS b FROM _uc_dedupe WHERE time_ms <= ?`,
      before,
    )!;
    if (old.n === 0) return;
    this.#db.run("DELETE FROM _uc_dedupe WHERE time_ms <= ?", before);
    this.#count -= old.n;
    this.#bytes -= old.b ?? 0;
  }
}
