import { assert } from "@ultracloud/base";
import type { Database, SqlParameter } from "@ultracloud/sqlite";
import { Buffer } from "node:buffer";
import type { KeyValue } from "../domain/types.ts";

/** Newest values that are kept in memory for reads of one key, as bytes of keys and values. */
const recentBytesMax = 16 * 2 ** 20;
/** Per entry, beside key and value. */
const entryOverheadBytes = 200;
/** Rows of one statement: binding is cheap, stepping and resetting is not. */
const rowsPerStatement = 16;

interface HistoryRow {
  readonly id: number;
  readonly kv: KeyValue;
  readonly deleted: boolean;
}

const insertHistory = (rows: number) =>
  "INSERT INTO history(id, revision, key, value, create_revision, version, lease) VALUES" +
  Array(rows).fill("(?,?,?,?,?,?,?)").join(",");
const replaceLive = (rows: number) =>
  "INSERT OR REPLACE INTO live(key, id, lease) VALUES" + Array(rows).fill("(?,?,?)").join(",");

/** The key as text of one character a byte: a key of a Map. */
function nameOf(key: Uint8Array): string {
  return Buffer.prototype.latin1Slice.call(key, 0, key.length);
}

/**
 * Changes that are not in the tables yet, and the newest value of keys used lately. A put is a step in memory; the
 * rows follow together, each table in one go, before anything reads a table or the transaction commits.
 */
export class FreshRows {
  readonly #db: Database;
  #rows: HistoryRow[] = [];
  /** The newest row of each changed key; a deletion has none. */
  readonly #changed = new Map<string, HistoryRow>();
  /** Newest values; `null` for a key that is deleted in `#rows`. */
  readonly #recent = new Map<string, KeyValue | null>();
  #recentBytes = 0;
  #nextId = 1;
  /** What to restore, while a command may still be undone. */
  #undo:
    | {
      readonly name: string;
      readonly recent: KeyValue | null | undefined;
      readonly changed: HistoryRow | undefined;
    }[]
    | undefined;
  #undoRows = 0;
  #flushedSinceMark = false;

  constructor(db: Database) {
    this.#db = db;
    this.reset();
  }

  /** Forgets everything in memory: the tables were replaced. */
  reset(): void {
    this.#rows = [];
    this.#changed.clear();
    this.#forgetRecent();
    this.#nextId = (this.#db.get<{ id: number | null }>("SELECT MAX(id) AS id FROM history")?.id ?? 0) + 1;
  }

  /** What the tables will grow by, about. */
  get bytes(): number {
    return this.#rows.reduce((sum, { kv }) => sum + entryOverheadBytes + kv.key.length + kv.value.length, 0);
  }

  /** Above the id of every row. */
  get nextId(): number {
    return this.#nextId;
  }

  /** The newest value of a key: null when it is known to be absent, undefined when only the tables know. */
  find(key: Uint8Array): KeyValue | null | undefined {
    return this.#recent.get(nameOf(key));
  }

  /** Remembers what a table said. */
  remember(kv: KeyValue): void {
    this.#keep(nameOf(kv.key), kv);
  }

  /** Adds a change; of a deletion `kv` has no value. */
  add(kv: KeyValue, deleted: boolean): void {
    const name = nameOf(kv.key);
    const row = { id: this.#nextId++, kv, deleted };
    this.#undo?.push({ name, recent: this.#recent.get(name), changed: this.#changed.get(name) });
    this.#rows.push(row);
    this.#changed.set(name, row);
    this.#keep(name, deleted ? null : kv);
  }

  #keep(name: string, kv: KeyValue | null): void {
    const before = this.#recent.get(name);
    if (before !== undefined) this.#recentBytes -= sizeOf(name, before);
    this.#recentBytes += sizeOf(name, kv);
    this.#recent.set(name, kv);
  }

  /** From here on `undo` goes back to this point. Nothing may be pending when the command will read the tables. */
  mark(): void {
    this.#undo = [];
    this.#undoRows = this.#rows.length;
    this.#flushedSinceMark = false;
  }

  /** What was done since `mark` stays. */
  settle(): void {
    this.#undo = undefined;
  }

  /** Takes back what was added since `mark`; the caller takes back what was flushed meanwhile. */
  undo(): void {
    const steps = this.#undo ?? [];
    this.#undo = undefined;
    this.#nextId -= steps.length;
    this.#rows.length = Math.min(this.#rows.length, this.#undoRows);
    for (const { name, recent, changed } of steps.reverse()) {
      if (recent === undefined) this.#drop(name);
      else this.#keep(name, recent);
      if (changed === undefined) this.#changed.delete(name);
      else this.#changed.set(name, changed);
    }
    // Some values may have been read back from rows that are gone again.
    if (this.#flushedSinceMark) this.#forgetRecent();
  }

  #drop(name: string): void {
    const before = this.#recent.get(name);
    if (before === undefined) return;
    this.#recentBytes -= sizeOf(name, before);
    this.#recent.delete(name);
  }

  /** Writes what is pending into the tables, inside the caller's transaction. */
  flush(): void {
    if (this.#rows.length > 0) {
      // Undoing takes back every row written since the mark: none from before may be among them.
      assert(this.#undo === undefined || this.#undoRows === 0, "Changes must be in the tables before this command");
      this.#flushedSinceMark = true;
      this.#inPieces(this.#rows, insertHistory, ({ id, kv, deleted }) => [
        id,
        kv.modRevision,
        kv.key,
        deleted ? null : kv.value,
        kv.createRevision,
        kv.version,
        kv.lease,
      ]);
      this.#rows = [];
      const live: HistoryRow[] = [];
      for (const row of this.#changed.values()) {
        if (row.deleted) this.#db.run("DELETE FROM live WHERE key = ?", row.kv.key);
        else live.push(row);
      }
      this.#inPieces(live, replaceLive, ({ id, kv }) => [kv.key, id, kv.lease]);
      this.#changed.clear();
    }
    if (this.#recentBytes > recentBytesMax) this.#forgetRecent();
  }

  #forgetRecent(): void {
    this.#recent.clear();
    this.#recentBytes = 0;
  }

  #inPieces<T>(all: readonly T[], sql: (rows: number) => string, params: (row: T) => SqlParameter[]): void {
    let at = 0;
    for (; at + rowsPerStatement <= all.length; at += rowsPerStatement) {
      this.#db.run(sql(rowsPerStatement), ...all.slice(at, at + rowsPerStatement).flatMap(params));
    }
    for (; at < all.length; at++) this.#db.run(sql(1), ...params(all[at]!));
  }
}

function sizeOf(name: string, kv: KeyValue | null): number {
  return entryOverheadBytes + 2 * name.length + (kv?.value.length ?? 0);
}
