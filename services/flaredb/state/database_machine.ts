import { create, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import { assert, Fault, fault } from "@ultracloud/base";
import type { AppliedEntry, GroupStateMachine } from "@ultracloud/replica";
import {
  BatchRequestSchema,
  BatchResponseSchema,
  BatchWriteRequestSchema,
  BatchWriteResponseSchema,
  CompareAndSwapRequestSchema,
  CompareAndSwapResponseSchema,
  DeleteRequestSchema,
  DeleteResponseSchema,
  ExecuteRequestSchema,
  ExecuteResponseSchema,
  PutRequestSchema,
  PutResponseSchema,
  type Statement,
} from "@ultracloud/proto/flaredb/v1";
import { type Database, openDatabase } from "@ultracloud/sqlite";
import { createHash } from "node:crypto";
import { decodeEntry, type Entry, entryKinds } from "../domain/log_entry.ts";
import { answerBytesMax, entryRowsMax, sweepKeysMax } from "../domain/bounds.ts";
import { ChangeLog } from "./changes.ts";
import { DedupeTable } from "./dedupe.ts";
import { FrozenInputs, installFrozenFunctions } from "./frozen_functions.ts";
import { KvTable } from "./kv_table.ts";
import { createTables, limitConnection, Meta } from "./schema.ts";
import { type ResultSet, SqlRunner } from "./sql_runner.ts";
import { contentOf, replaceContent } from "./store.ts";

// deno-lint-ignore no-explicit-any -- any message type; the kind decides which
type AnyMessage = GenMessage<any>;

/** What an entry answers with, by its kind; sweeps answer to nobody. */
const answers: Readonly<Record<number, AnyMessage>> = {
  [entryKinds.put]: PutResponseSchema,
  [entryKinds.delete]: DeleteResponseSchema,
  [entryKinds.compareAndSwap]: CompareAndSwapResponseSchema,
  [entryKinds.batchWrite]: BatchWriteResponseSchema,
  [entryKinds.execute]: ExecuteResponseSchema,
  [entryKinds.batch]: BatchResponseSchema,
};

/**
 * The replicated state of one database: KV buckets, SQL tables, recent changes and stored answers in one SQLite file,
 * with the index of the last applied entry in the same transaction.
 */
export class DatabaseMachine implements GroupStateMachine, Disposable {
  readonly #path: string;
  readonly #inputs = new FrozenInputs();
  readonly #listeners = new Set<() => void>();
  #db!: Database;
  #meta!: Meta;
  #kv!: KvTable;
  #changes!: ChangeLog;
  #dedupe!: DedupeTable;
  #sql!: SqlRunner;
  #applied = 0;
  #closed = false;
  /** Time of the newest entry; entries never go back in time. */
  #timeMs = 0;

  constructor(options: { /** A file, or ":memory:". */ readonly path: string }) {
    this.#path = options.path;
    this.#open(openDatabase(options.path));
  }

  #open(db: Database): void {
    this.#db = db;
    limitConnection(db);
    createTables(db);
    installFrozenFunctions(db, this.#inputs);
    this.#meta = new Meta(db);
    this.#changes = new ChangeLog(db, this.#meta);
    this.#kv = new KvTable(db, this.#changes);
    this.#dedupe = new DedupeTable(db);
    this.#sql = new SqlRunner(db, this.#inputs);
    this.#applied = this.#meta.get("applied_index");
    this.#timeMs = this.#meta.get("time_ms");
    this.#changes.load(this.#applied);
    this.#dedupe.load();
  }

  get kv(): KvTable {
    return this.#kv;
  }
  get changes(): ChangeLog {
    return this.#changes;
  }
  get sql(): SqlRunner {
    return this.#sql;
  }
  /** Connection for the store's own reads. */
  get db(): Database {
    return this.#db;
  }
  /** Replicated time: that of the newest entry. */
  get timeMs(): number {
    return this.#timeMs;
  }

  appliedIndex(): number {
    return this.#applied;
  }

  applyBatch(entries: readonly AppliedEntry[]): unknown[] {
    const results = this.#db.transaction(() => {
      const results = entries.map((entry) => {
        assert(entry.index > this.#applied, "Entries are applied once and in order");
        const result = this.#apply(entry.index, decodeEntry(entry.data));
        this.#applied = entry.index;
        return result;
      });
      this.#storePosition();
      return results;
    });
    this.#notify();
    return results;
  }

  skipTo(index: number): void {
    this.#applied = Math.max(this.#applied, index);
    this.#notify();
  }

  checkpoint(): number {
    this.#storePosition();
    this.#db.checkpoint();
    return this.#applied;
  }

  snapshot(): Uint8Array {
    this.#storePosition();
    return contentOf(this.#db);
  }

  restore(index: number, bytes: Uint8Array): void {
    this.#sql.forget();
    this.#db.close();
    this.#open(replaceContent(this.#path, bytes));
    assert(this.#applied <= index, "A snapshot holds nothing beyond its index");
    this.#applied = index;
    this.#changes.load(index);
    this.#notify();
  }

  /** Calls back after state has changed; answers how to stop. */
  onApplied(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Runs one read-only statement at the present time of this replica. */
  query(
    statement: Statement,
    frozen: { readonly timeMs: number; readonly seed: Uint8Array },
    limits: { readonly rowsMax: number; readonly costRowsMax: number; readonly tick: () => void },
  ): ResultSet {
    const text = this.#sql.check(statement, "read", "statement");
    this.#sql.checkCost(text, "read", limits.costRowsMax, "statement");
    this.#inputs.freeze(frozen.timeMs, frozen.seed);
    return this.#sql.run(statement, "read", { ...limits, bytesMax: answerBytesMax }, "statement");
  }

  /** Digest of the whole state; equal on replicas that applied the same entries. */
  hash(): string {
    const hash = createHash("sha256");
    const tables = this.#db.all<{ name: string; sql: string }>(
      "SELECT name, sql FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_stat%' ORDER BY name",
    );
    const sorted = this.#db.all<{ sql: string }>(
      "SELECT coalesce(sql, '') AS sql FROM sqlite_schema ORDER BY type, name",
    );
    hash.update(JSON.stringify(sorted.map((row) => row.sql)));
    for (const { name } of tables) {
      // The position moves with entries that have no effect.
      if (name === "_uc_meta") continue;
      const columns = this.#db.all<{ name: string }>("SELECT name FROM pragma_table_xinfo(?)", name);
      const quoted = columns.map((column) => `quote("${column.name.replaceAll('"', '""')}")`);
      const order = quoted.map((_, i) => i + 1).join(",");
      for (
        const row of this.#db.iterate(
          `SELECT ${quoted.join(",")} FROM "${name.replaceAll('"', '""')}" ORDER BY ${order}`,
        )
      ) hash.update(JSON.stringify(Object.values(row)));
    }
    return hash.digest("hex");
  }

  bytes(): number {
    return this.#db.get<{ n: number }>(
      "SELECT page_count * page_size AS n FROM pragma_page_count(), pragma_page_size()",
    )!.n;
  }

  /** Ends those who wait for changes, too. */
  close(): void {
    this.#closed = true;
    this.#db.close();
    this.#notify();
  }

  get closed(): boolean {
    return this.#closed;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #storePosition(): void {
    this.#meta.set("applied_index", this.#applied);
    this.#meta.set("time_ms", this.#timeMs);
  }

  #notify(): void {
    for (const listener of this.#listeners) listener();
  }

  #apply(index: number, entry: Entry): unknown {
    this.#timeMs = Math.max(this.#timeMs, entry.timeMs);
    const { dedupe } = entry;
    if (dedupe === undefined) return this.#effect(index, entry);
    const answer = answers[entry.kind]!;
    const verdict = this.#dedupe.check(dedupe, this.#timeMs);
    if (verdict.kind === "known") return fromBinary(answer, verdict.answer);
    if (verdict.kind === "refused") return verdict.fault;
    const result = this.#effect(index, entry);
    // Refusals have no effect: trying again may well succeed.
    if (!(result instanceof Fault)) {
      this.#dedupe.store(dedupe, toBinary(answer, create(answer, result as MessageShape<AnyMessage>)), this.#timeMs);
    }
    return result;
  }

  #effect(index: number, entry: Entry): unknown {
    const result = this.#write(index, entry);
    this.#changes.prune();
    return result;
  }

  #write(index: number, entry: Entry): unknown {
    const { payload } = entry;
    switch (entry.kind) {
      case entryKinds.put: {
        const { bucket, key, value, ttlMs } = fromBinary(PutRequestSchema, payload);
        this.#kv.put(bucket, key, value, this.#expireMs(ttlMs), index, 0);
        return { version: BigInt(index) };
      }
      case entryKinds.delete: {
        const { bucket, key } = fromBinary(DeleteRequestSchema, payload);
        return { existed: this.#kv.delete(bucket, key, this.#timeMs, index, 0), index: BigInt(index) };
      }
      case entryKinds.compareAndSwap: {
        const request = fromBinary(CompareAndSwapRequestSchema, payload);
        const version = this.#kv.version(request.bucket, request.key, this.#timeMs);
        if (BigInt(version) !== request.expectedVersion) return { swapped: false, version: BigInt(version) };
        this.#kv.put(request.bucket, request.key, request.value, this.#expireMs(request.ttlMs), index, 0);
        return { swapped: true, version: BigInt(index) };
      }
      case entryKinds.batchWrite:
        return this.#batchWrite(index, payload);
      case entryKinds.execute: {
        const { statement } = fromBinary(ExecuteRequestSchema, payload);
        const result = this.#statements(entry, [statement!], () => "statement");
        return result instanceof Fault ? result : { result: result[0]!, index: BigInt(index) };
      }
      case entryKinds.batch: {
        const { statements } = fromBinary(BatchRequestSchema, payload);
        const results = this.#statements(entry, statements, (i) => `statements[${i}]`);
        return results instanceof Fault ? results : { results, index: BigInt(index) };
      }
      case entryKinds.sweep:
        return this.#kv.sweep(this.#timeMs, sweepKeysMax, index);
      default:
        throw fault("data_loss", "entry_misplaced", `Cannot apply an entry of kind ${entry.kind} to a database`);
    }
  }

  #expireMs(ttlMs: bigint): number | null {
    return ttlMs === 0n ? null : this.#timeMs + Number(ttlMs);
  }

  #batchWrite(index: number, payload: Uint8Array): unknown {
    const { conditions, writes } = fromBinary(BatchWriteRequestSchema, payload);
    const failedConditions: number[] = [];
    conditions.forEach(({ bucket, key, version }, i) => {
      if (BigInt(this.#kv.version(bucket, key, this.#timeMs)) !== version) failedConditions.push(i);
    });
    if (failedConditions.length > 0) return { committed: false, failedConditions };
    writes.forEach(({ bucket, key, action, ttlMs }, seq) => {
      if (action.case === "put") this.#kv.put(bucket, key, action.value, this.#expireMs(ttlMs), index, seq);
      else this.#kv.delete(bucket, key, this.#timeMs, index, seq);
    });
    return { committed: true, version: BigInt(index) };
  }

  /** All statements, or none and the fault of the one that failed. */
  #statements(entry: Entry, statements: readonly Statement[], field: (i: number) => string): ResultSet[] | Fault {
    this.#inputs.freeze(this.#timeMs, entry.seed);
    this.#sql.forgetLastInsert();
    try {
      return this.#db.transaction(() => {
        let bytesMax = answerBytesMax;
        return statements.map((statement, i) => {
          const result = this.#sql.run(statement, "write", { rowsMax: entryRowsMax, bytesMax }, field(i));
          bytesMax = Math.max(0, bytesMax - sizeOf(result));
          return result;
        });
      });
    } catch (error) {
      this.#sql.forget();
      if (error instanceof Fault) return error;
      throw fault("internal", "apply_failed", "Cannot apply a log entry: the database failed", { cause: error });
    }
  }
}

function sizeOf(result: ResultSet): number {
  let bytes = 0;
  for (const row of result.rows ?? []) {
    for (const { kind } of row.values ?? []) {
      bytes += kind?.case === "text" || kind?.case === "blob" ? kind.value.length + 16 : 16;
    }
  }
  return bytes;
}
