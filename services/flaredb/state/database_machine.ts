import { create, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import { assert, Fault, fault } from "@ultracloud/base";
import type { AppliedEntry, GroupStateMachine } from "@ultracloud/replica";
import {
  BatchRequestSchema,
  BatchResponseSchema,
  BatchWriteResponseSchema,
  BucketSchema,
  CompareAndSwapResponseSchema,
  DeleteResponseSchema,
  ExecuteRequestSchema,
  ExecuteResponseSchema,
  LoggedTransactionSchema,
  PutResponseSchema,
  type Statement,
  type TableVersion,
} from "@ultracloud/proto/flaredb/v1";
import { type Database, openDatabase } from "@ultracloud/sqlite";
import { createHash } from "node:crypto";
import { decodeEntry, type Entry, entryKinds } from "../domain/log_entry.ts";
import { answerBytesMax, entryRowsMax } from "../domain/bounds.ts";
import { ChangeLog } from "./changes.ts";
import { DedupeTable } from "./dedupe.ts";
import { FrozenInputs, installFrozenFunctions } from "./frozen_functions.ts";
import { kvEffect } from "./kv_effects.ts";
import { KvTable } from "./kv_table.ts";
import { Quotas } from "./quotas.ts";
import { createTables, limitConnection, Meta } from "./schema.ts";
import { type ResultSet, SqlRunner } from "./sql_runner.ts";
import { contentOf, replaceContent } from "./store.ts";
import { type TableVersionInit, TableVersions } from "./table_versions.ts";

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
  [entryKinds.setQuota]: BucketSchema,
  [entryKinds.transaction]: BatchResponseSchema,
};

/** Time and chance that a statement sees. */
export interface Frozen {
  readonly timeMs: number;
  readonly seed: Uint8Array;
}

/** What a read-only statement answered, and the versions of the tables it read. */
export interface QueryResult {
  readonly result: ResultSet;
  readonly reads: TableVersionInit[];
}

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
  #quotas!: Quotas;
  #versions!: TableVersions;
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
    this.#quotas = new Quotas(db);
    this.#kv = new KvTable(db, this.#changes, this.#quotas);
    this.#versions = new TableVersions(db);
    this.#dedupe = new DedupeTable(db);
    this.#sql = new SqlRunner(db, this.#inputs);
    this.#applied = this.#meta.get("applied_index");
    this.#timeMs = this.#meta.get("time_ms");
    this.#changes.load(this.#applied);
    this.#dedupe.load();
    this.#quotas.load();
    this.#versions.load();
  }

  get kv(): KvTable {
    return this.#kv;
  }
  get changes(): ChangeLog {
    return this.#changes;
  }
  get quotas(): Quotas {
    return this.#quotas;
  }
  get versions(): TableVersions {
    return this.#versions;
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
    frozen: Frozen,
    limits: { readonly rowsMax: number; readonly costRowsMax: number; readonly tick: () => void },
  ): QueryResult {
    const text = this.#sql.check(statement, "read", "statement");
    this.#sql.checkCost(text, "read", limits.costRowsMax, "statement");
    this.#inputs.freeze(frozen.timeMs, frozen.seed);
    this.#sql.watchTables();
    const result = this.#sql.run(statement, "read", { ...limits, bytesMax: answerBytesMax }, "statement");
    return { result, reads: this.#versions.of(this.#sql.touched.reads) };
  }

  /**
   * Runs statements and undoes them: what the last one answers, and the tables that all of them read or wrote with
   * their versions. Nothing is left, not even when one fails.
   */
  rehearse(statements: readonly Statement[], frozen: Frozen, tick: () => void): QueryResult {
    const undo = new Error("undo");
    let answer: QueryResult | undefined;
    this.#inputs.freeze(frozen.timeMs, frozen.seed);
    this.#sql.forgetLastInsert();
    this.#sql.watchTables();
    try {
      this.#db.transaction(() => {
        const limits = { rowsMax: entryRowsMax, bytesMax: answerBytesMax, tick };
        const results = statements.map((statement) => this.#sql.run(statement, "write", limits, "statement"));
        const { reads, writes } = this.#sql.touched;
        answer = { result: results.at(-1)!, reads: this.#versions.of(new Set([...reads, ...writes])) };
        throw undo;
      });
    } catch (error) {
      this.#sql.forget();
      if (error !== undo) throw error;
    }
    return answer!;
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
    this.#versions.flush();
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
      case entryKinds.execute: {
        const { statement } = fromBinary(ExecuteRequestSchema, payload);
        const frozen = { timeMs: this.#timeMs, seed: entry.seed };
        const result = this.#statements(index, frozen, [statement!], [], () => "statement");
        return result instanceof Fault ? result : { result: result[0]!, index: BigInt(index) };
      }
      case entryKinds.batch: {
        const { statements, expected } = fromBinary(BatchRequestSchema, payload);
        const frozen = { timeMs: this.#timeMs, seed: entry.seed };
        const results = this.#statements(index, frozen, statements, expected, (i) => `statements[${i}]`);
        return results instanceof Fault ? results : { results, index: BigInt(index) };
      }
      case entryKinds.transaction: {
        const { statements, expected, timeMs, seed } = fromBinary(LoggedTransactionSchema, payload);
        const frozen = { timeMs: Number(timeMs), seed };
        const results = this.#statements(index, frozen, statements, expected, (i) => `statements[${i}]`);
        return results instanceof Fault ? results : { results, index: BigInt(index) };
      }
      case entryKinds.barrier:
        return { index: BigInt(index) };
      default:
        return kvEffect(entry.kind, payload, { kv: this.#kv, quotas: this.#quotas, timeMs: this.#timeMs, index });
    }
  }

  /** All statements, or none and the fault of the one that failed. */
  #statements(
    index: number,
    frozen: Frozen,
    statements: readonly Statement[],
    expected: readonly TableVersion[],
    field: (i: number) => string,
  ): ResultSet[] | Fault {
    const changed = this.#versions.firstChanged(expected);
    if (changed !== undefined) return changed;
    this.#inputs.freeze(frozen.timeMs, frozen.seed);
    this.#sql.forgetLastInsert();
    this.#sql.watchTables();
    try {
      const results = this.#db.transaction(() => {
        let bytesMax = answerBytesMax;
        return statements.map((statement, i) => {
          const result = this.#sql.run(statement, "write", { rowsMax: entryRowsMax, bytesMax }, field(i));
          bytesMax = Math.max(0, bytesMax - sizeOf(result));
          return result;
        });
      });
      this.#versions.mark(this.#sql.touched, index);
      return results;
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
