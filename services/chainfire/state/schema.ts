import type { Database } from "@ultracloud/sqlite";

/**
 * Every change is a row of `history`, in the order of its id; `live` names the newest row of each key that exists.
 * Values are kept once. A deletion is a row of its own without value.
 */
const schema = `
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history(
  id INTEGER PRIMARY KEY,
  revision INTEGER NOT NULL,
  key BLOB NOT NULL,
  value BLOB,
  create_revision INTEGER NOT NULL,
  version INTEGER NOT NULL,
  lease INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS history_key ON history(key, revision);
CREATE TABLE IF NOT EXISTS live(key BLOB PRIMARY KEY, id INTEGER NOT NULL, lease INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS live_lease ON live(lease) WHERE lease <> 0;
CREATE TABLE IF NOT EXISTS lease(id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL, deadline_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS lease_deadline ON lease(deadline_ms);
CREATE TABLE IF NOT EXISTS call(
  caller TEXT NOT NULL,
  key TEXT NOT NULL,
  body_hash TEXT NOT NULL,
  answer BLOB NOT NULL,
  clock_ms INTEGER NOT NULL,
  PRIMARY KEY(caller, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS call_clock ON call(clock_ms);
`;

/** Numbers of the state that are not rows. They are held in memory and written with each batch. */
export interface Counters {
  applied: number;
  /** 1 for the empty store, as in etcd. */
  revision: number;
  /** Reads below it are refused. */
  compactRevision: number;
  /** Replicated time for leases; it goes on only while a leader says so. */
  clockMs: number;
  /** Rows of history up to this id hold nothing that compaction would remove. */
  sweptId: number;
}

const names = ["applied", "revision", "compactRevision", "clockMs", "sweptId"] as const;

export function openSchema(db: Database): Counters {
  db.exec(schema);
  return readCounters(db);
}

export function readCounters(db: Database): Counters {
  const counters: Counters = { applied: 0, revision: 1, compactRevision: 0, clockMs: 0, sweptId: 0 };
  for (const row of db.all<{ name: keyof Counters; value: number }>("SELECT name, value FROM meta")) {
    if (names.includes(row.name)) counters[row.name] = row.value;
  }
  return counters;
}

/** Writes the counters that differ from `written`, which becomes equal. */
export function writeCounters(db: Database, counters: Counters, written: Counters): void {
  for (const name of names) {
    if (counters[name] === written[name]) continue;
    db.run("INSERT OR REPLACE INTO meta(name, value) VALUES(?, ?)", name, counters[name]);
    written[name] = counters[name];
  }
}
