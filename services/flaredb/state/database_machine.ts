import { create, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { assert, Fault, fault } from "@ultracloud/base";
import type { AppliedEntry, GroupStateMachine } from "@ultracloud/replica";
import {
  BackupRecordSchema,
  DatabaseSettingsSchema,
  LoggedCheckSchema,
  LoggedImportSchema,
  LoggedReportSchema,
} from "@ultracloud/proto/flaredb/v1";
import { backupDatabase, type Database } from "@ultracloud/sqlite";
import { decodeEntry, type Entry, type EntryKind, entryKinds } from "../domain/log_entry.ts";
import { answers, type AnyMessage } from "./answers.ts";
import { contentHash } from "./content_hash.ts";
import { kvEffect } from "./kv_effects.ts";
import { openParts, type Parts } from "./parts.ts";
import type { ContentDigest } from "./replica_check.ts";
import type { Rehearsed, SqlEffects } from "./sql_effects.ts";
import { sqlEffect } from "./sql_entries.ts";
import { SharedTransaction, type SharedTransactionOptions } from "./shared_transaction.ts";
import { contentOf, copyContent, openContent, replaceByStaged, replaceContent, stageContent } from "./store.ts";

/** Kinds that say nothing about the content, and so have no place in an archive of it. */
const unarchived: ReadonlySet<EntryKind> = new Set<EntryKind>([
  entryKinds.barrier,
  entryKinds.hash,
  entryKinds.report,
  entryKinds.recordBackup,
  entryKinds.settings,
  entryKinds.import,
]);

export interface DatabaseMachineOptions extends SharedTransactionOptions {
  /** A file, or ":memory:". */
  readonly path: string;
  /** What was applied is lost, or cannot be written: end the process at once, the log brings it back. */
  readonly onLost?: (error: Error) => void;
}

/**
 * The replicated state of one database: KV buckets, SQL tables, recent changes and stored answers in one SQLite file,
 * with the index of the last applied entry in the same transaction. Batches share a transaction: the file lags behind
 * what is read here, and who looks at the file is to come through here.
 *
 * Callers count in `index`, which a restored database takes over from the one it was; Raft counts in `appliedIndex()`.
 */
export class DatabaseMachine implements GroupStateMachine, Disposable {
  readonly #options: DatabaseMachineOptions;
  readonly #path: string;
  readonly #listeners = new Set<() => void>();
  /** What entries that are on their way were read from, by their data. */
  readonly #requests = new Map<Uint8Array, object>();
  #db!: Database;
  #parts!: Parts;
  #transaction!: SharedTransaction;
  #applied = 0;
  #offset = 0;
  #closed = false;
  /** Time of the newest entry; entries never go back in time. */
  #timeMs = 0;

  constructor(options: DatabaseMachineOptions) {
    this.#options = options;
    this.#path = options.path;
    this.#open(openContent(options.path));
  }

  #open(db: Database): void {
    this.#db = db;
    this.#parts = openParts(db);
    this.#transaction = new SharedTransaction(db, this.#options, {
      store: () => this.#storePosition(),
      onLost: (error) => this.#options.onLost?.(error),
    });
    this.#applied = this.#parts.meta.get("applied_index");
    this.#timeMs = this.#parts.meta.get("time_ms");
    this.#load();
  }

  #load(): void {
    this.#offset = this.#parts.meta.get("index_offset");
    this.#parts.load(this.index);
  }

  /** What the state is made of; for reading. Ask again after anything was awaited. */
  get parts(): Parts {
    this.#transaction.check();
    return this.#parts;
  }
  /** Connection for the store's own reads. Ask again after anything was awaited. */
  get db(): Database {
    this.#transaction.check();
    return this.#db;
  }
  /** Replicated time: that of the newest entry. */
  get timeMs(): number {
    return this.#timeMs;
  }
  /** Index of the newest entry as callers count. */
  get index(): number {
    return this.#applied + this.#offset;
  }
  /** By how much callers' count is ahead of Raft's. */
  get offset(): number {
    return this.#offset;
  }
  /** The newest digest that was asked for, as this replica has it. */
  get noted(): ContentDigest | undefined {
    return this.#parts.check.newest;
  }
  /** This replica's content was found to differ from that of most; so it stays until it is replaced by another's. */
  get diverged(): boolean {
    return this.#parts.check.diverged;
  }
  /** Data that was proposed here holds the bytes that `request` was read from: applying need not read them again. */
  expect(data: Uint8Array, request: object): void {
    this.#requests.set(data, request);
  }

  /** Whoever proposed the data knows what became of it. */
  forget(data: Uint8Array): void {
    this.#requests.delete(data);
  }

  appliedIndex(): number {
    return this.#applied;
  }

  applyBatch(entries: readonly AppliedEntry[]): unknown[] {
    const decoded = entries.map((entry) => ({ raw: entry, entry: decodeEntry(entry.data) }));
    const results: unknown[] = [];
    for (let at = 0; at < decoded.length;) {
      const rows = bringsRows(decoded[at]!.entry);
      let end = at + 1;
      while (end < decoded.length && bringsRows(decoded[end]!.entry) === rows) end++;
      const piece = decoded.slice(at, end);
      at = end;
      // Rows of a backup come in any order: foreign keys are off for them, which only holds between transactions.
      if (rows) {
        this.#transaction.end();
        this.#db.exec("PRAGMA foreign_keys=OFF");
      }
      const bytes = piece.reduce((sum, { raw }) => sum + raw.data.length, 0);
      this.#transaction.apply(piece.length, bytes, () => {
        for (const { raw, entry } of piece) {
          assert(raw.index > this.#applied, "Entries are applied once and in order");
          results.push(this.#apply(raw.index + this.#offset, entry, raw.data));
          this.#applied = raw.index;
        }
      });
      // What making an index or dropping a table wrote, no count of rows tells.
      if (rows || this.#transaction.full || this.#parts.versions.schemaChanged) this.#transaction.end();
      if (rows) this.#db.exec("PRAGMA foreign_keys=ON");
    }
    this.#notify();
    return results;
  }

  skipTo(index: number): void {
    this.#applied = Math.max(this.#applied, index);
    this.#notify();
  }

  checkpoint(): number {
    this.#transaction.end();
    this.#db.checkpoint();
    return this.#applied;
  }

  snapshot(): Uint8Array {
    this.#refuseDiverged();
    this.#transaction.end();
    return contentOf(this.#db);
  }

  restore(index: number, bytes: Uint8Array): void {
    this.#replace(index, () => replaceContent(this.#path, bytes));
  }

  async snapshotTo(path: string): Promise<number> {
    this.#refuseDiverged();
    this.#transaction.end();
    return await copyContent(this.#db, this.#path, path);
  }

  /** Copies the file as of one moment that is not before the call, while entries are applied. */
  async copyTo(path: string): Promise<void> {
    this.#transaction.end();
    await backupDatabase(this.#path, path);
  }

  /** As `SqlEffects.rehearse`, on a transaction of its own: what fails in it takes nothing that was applied along. */
  rehearse(...asked: Parameters<SqlEffects["rehearse"]>): Rehearsed {
    this.#transaction.end();
    return this.#parts.effects.rehearse(...asked);
  }

  async restoreFrom(index: number, path: string): Promise<void> {
    await stageContent(this.#path, path);
    if (!this.#closed) this.#replace(index, () => replaceByStaged(this.#path, path));
  }

  /** Content that is not what the others have is not to spread. */
  #refuseDiverged(): void {
    if (!this.diverged) return;
    throw fault("failed_precondition", "database_diverged", "Cannot copy content that differs from that of most");
  }

  #replace(index: number, open: () => Database): void {
    this.#transaction.end();
    this.#parts.sql.forget();
    this.#db.close();
    this.#open(open());
    assert(this.#applied <= index, "A snapshot holds nothing beyond its index");
    this.#applied = index;
    this.#load();
    this.#parts.check.forget();
    this.#notify();
  }

  /** Calls back after state has changed; answers how to stop. */
  onApplied(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Digest of the whole state; equal on replicas that applied the same entries. */
  hash(): string {
    this.#parts.versions.flush();
    return contentHash(this.#db);
  }

  bytes(): number {
    return this.#db.get<{ n: number }>(
      "SELECT page_count * page_size AS n FROM pragma_page_count(), pragma_page_size()",
    )!.n;
  }

  /** Ends those who wait for changes, too. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#transaction.sound) this.#transaction.end();
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
    this.#parts.versions.flush();
    this.#parts.meta.set("applied_index", this.#applied);
    this.#parts.meta.set("time_ms", this.#timeMs);
  }

  #notify(): void {
    for (const listener of this.#listeners) listener();
  }

  #apply(index: number, entry: Entry, data: Uint8Array): unknown {
    const { importer, archive, dedupe: table } = this.#parts;
    if (entry.kind === entryKinds.import) return this.#import(index, entry.payload);
    if (importer.restoring) {
      return fault("failed_precondition", "database_restoring", "Cannot use the database while it is being restored");
    }
    this.#timeMs = Math.max(this.#timeMs, entry.timeMs);
    if (archive.on && !unarchived.has(entry.kind)) archive.add(index, this.#timeMs, data);
    const { dedupe } = entry;
    if (dedupe === undefined) return this.#effect(index, entry, this.#requests.get(data));
    const answer = answers[entry.kind]!;
    const verdict = table.check(dedupe, this.#timeMs);
    if (verdict.kind === "known") return fromBinary(answer, verdict.answer);
    if (verdict.kind === "refused") return verdict.fault;
    const result = this.#effect(index, entry);
    // Refusals have no effect: trying again may well succeed.
    if (!(result instanceof Fault)) {
      table.store(dedupe, toBinary(answer, create(answer, result as MessageShape<AnyMessage>)), this.#timeMs);
    }
    return result;
  }

  #effect(index: number, entry: Entry, request?: object): unknown {
    const result = this.#write(index, entry, request);
    this.#parts.changes.prune();
    return result;
  }

  #write(index: number, entry: Entry, request: object | undefined): unknown {
    const { kind, payload } = entry;
    const parts = this.#parts;
    switch (kind) {
      case entryKinds.execute:
      case entryKinds.batch:
      case entryKinds.checkedBatch:
      case entryKinds.transaction:
      case entryKinds.checkedTransaction:
      case entryKinds.migrate:
        return sqlEffect(entry, { ...parts, timeMs: this.#timeMs, index }, request);
      case entryKinds.barrier:
        return { index: BigInt(index) };
      case entryKinds.settings: {
        const settings = fromBinary(DatabaseSettingsSchema, payload);
        parts.rowChanges.setCapture(settings.capture, index);
        parts.archive.switch(settings.archive, index);
        return settings;
      }
      case entryKinds.hash: {
        const { voters, learners } = fromBinary(LoggedCheckSchema, payload);
        const digest: ContentDigest = { index, sha256: this.hash() };
        parts.check.begin(digest, { voters: voters.map(Number), learners: learners.map(Number) });
        return digest;
      }
      case entryKinds.report: {
        const { index: at, sha256, member } = fromBinary(LoggedReportSchema, payload);
        parts.check.report({ index: Number(at), sha256 }, Number(member));
        return {};
      }
      case entryKinds.recordBackup:
        parts.backups.add(fromBinary(BackupRecordSchema, payload), this.#timeMs);
        return {};
      default:
        return kvEffect(kind, payload, { kv: parts.kv, quotas: parts.quotas, timeMs: this.#timeMs, index }, request);
    }
  }

  /** A piece of a backup; time and versions are those of the database it was taken of. */
  #import(index: number, payload: Uint8Array): unknown {
    const { importer, versions } = this.#parts;
    // It looks at the table to see whether the database was used, wherever batches and transactions begin.
    versions.flush();
    const { part } = fromBinary(LoggedImportSchema, payload);
    const refused = importer.begin();
    if (refused !== undefined) return refused;
    switch (part.case) {
      case "schema": {
        const failed = importer.schema(part.value, index);
        if (part.value.timeMs > 0n) this.#timeMs = Number(part.value.timeMs);
        return failed ?? {};
      }
      case "rows":
        return importer.rows(part.value) ?? {};
      case "statements":
        return importer.schema(part.value, index) ?? {};
      case "keys":
        part.value.keys.forEach(({ bucket, key, value, expireMs }, seq) => {
          this.#parts.kv.put(bucket, key, value, expireMs === 0n ? null : Number(expireMs), index, seq);
        });
        return {};
      case "entry": {
        const entry = decodeEntry(part.value.data);
        this.#timeMs = Math.max(this.#timeMs, entry.timeMs);
        this.#replay(Number(part.value.index), entry);
        return {};
      }
      case "finish":
        this.#timeMs = Number(part.value.timeMs);
        importer.finish(Number(part.value.index), index);
        this.#storePosition();
        this.#load();
        return {};
      default:
        throw fault("data_loss", "entry_unknown", "Cannot apply a piece of a backup that has no content");
    }
  }

  /** An entry of the database that is being restored, as it was applied there. */
  #replay(index: number, entry: Entry): void {
    const { dedupe } = entry;
    const table = this.#parts.dedupe;
    if (dedupe !== undefined && table.check(dedupe, this.#timeMs).kind !== "new") return;
    const result = this.#effect(index, entry);
    if (dedupe === undefined || result instanceof Fault) return;
    const answer = answers[entry.kind]!;
    table.store(dedupe, toBinary(answer, create(answer, result as MessageShape<AnyMessage>)), this.#timeMs);
  }
}

function bringsRows(entry: Entry): boolean {
  if (entry.kind !== entryKinds.import) return false;
  const { part } = fromBinary(LoggedImportSchema, entry.payload);
  return part.case === "rows" || part.case === "statements";
}
