import type { Database } from "@ultracloud/sqlite";
import { answerBytesMax, likePatternMax, sqlCharsMax } from "../domain/bounds.ts";

/** Tables of every replicated state: its position, and stored answers. */
export function createBaseTables(db: Database): void {
  db.exec(`
    CREATE TABLE IF NOT EXISTS _uc_meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS _uc_dedupe(
      key TEXT PRIMARY KEY, sha256 BLOB NOT NULL, answer BLOB NOT NULL, time_ms INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS _uc_dedupe_time ON _uc_dedupe(time_ms);
  `);
}

/** Makes the store's own tables. All start with the reserved prefix, which SQL cannot touch. */
export function createTables(db: Database): void {
  createBaseTables(db);
  db.exec(`
    CREATE TABLE IF NOT EXISTS _uc_kv(
      bucket TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL, expire_ms INTEGER,
      PRIMARY KEY(bucket, key)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS _uc_kv_expire ON _uc_kv(expire_ms) WHERE expire_ms IS NOT NULL;
    CREATE TABLE IF NOT EXISTS _uc_change(
      idx INTEGER NOT NULL, seq INTEGER NOT NULL, bucket TEXT NOT NULL, key TEXT NOT NULL,
      value BLOB, expire_ms INTEGER, PRIMARY KEY(idx, seq)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS _uc_quota(
      bucket TEXT PRIMARY KEY, keys_max INTEGER NOT NULL, bytes_max INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS _uc_row_change(
      idx INTEGER NOT NULL, seq INTEGER NOT NULL, tbl TEXT NOT NULL, data BLOB NOT NULL,
      PRIMARY KEY(idx, seq)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS _uc_archive(idx INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS _uc_migration(
      version INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, time_ms INTEGER NOT NULL,
      idx INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS _uc_backup(
      idx INTEGER NOT NULL, kind INTEGER NOT NULL, time_ms INTEGER NOT NULL, bytes INTEGER NOT NULL,
      sha256 BLOB NOT NULL, PRIMARY KEY(time_ms, idx, kind)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS _uc_check(
      idx INTEGER NOT NULL, member INTEGER NOT NULL, votes INTEGER NOT NULL, sha256 TEXT,
      PRIMARY KEY(idx, member)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS _uc_table(name TEXT PRIMARY KEY, idx INTEGER NOT NULL) WITHOUT ROWID;
  `);
}

/** Bounds what one statement can build in memory, and takes other files out of reach. */
export function limitConnection(db: Database): void {
  const { limits } = db.raw as unknown as { limits: Record<string, number> };
  limits.length = answerBytesMax + 1024 * 1024;
  limits.sqlLength = sqlCharsMax * 4;
  limits.attach = 0;
  limits.exprDepth = 200;
  limits.compoundSelect = 100;
  limits.likePatternLength = likePatternMax;
  limits.triggerDepth = 32;
}

/** Single numbers of the state machine. */
export class Meta {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  get(key: string): number {
    return this.#db.get<{ value: number }>("SELECT value FROM _uc_meta WHERE key=?", key)?.value ?? 0;
  }

  set(key: string, value: number): void {
    this.#db.run("INSERT INTO _uc_meta VALUES(?,?) ON CONFLICT(key) DO UPDATE SET value=excluded.value", key, value);
  }
}
