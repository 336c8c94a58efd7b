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
CREATE TABLE IF NOT EXISTS session(
  id INTEGER PRIMARY KEY,
  caller TEXT NOT NULL,
  answered_below INTEGER NOT NULL,
  used INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS session_answer(
  session INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  body_hash INTEGER NOT NULL,
  answer BLOB NOT NULL,
  PRIMARY KEY(session, sequence)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quota(
  namespace BLOB PRIMARY KEY,
  bytes_max INTEGER NOT NULL,
  keys_max INTEGER NOT NULL,
  leases_max INTEGER NOT NULL,
  watches_max INTEGER NOT NULL,
  writes_max INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alarm(member INTEGER NOT NULL, type TEXT NOT NULL, PRIMARY KEY(member, type)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS member(
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  peer_url TEXT NOT NULL,
  client_url TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS promotion(member INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS hash_report(member INTEGER PRIMARY KEY, hash INTEGER NOT NULL);
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
  /** Hash over every change since the beginning: equal on every member that is at the same entry. */
  stateHash: number;
  /** Checks of the hash begun so far. */
  hashChecks: number;
  /** The newest session's id, and how often sessions were used. */
  sessionLast: number;
  sessionUse: number;
  /** The largest id a member ever had. */
  memberLast: number;
}

const none: Counters = {
  applied: 0,
  revision: 1,
  compactRevision: 0,
  clockMs: 0,
  sweptId: 0,
  stateHash: 0,
  hashChecks: 0,
  sessionLast: 0,
  sessionUse: 0,
  memberLast: 0,
};
const names = Object.keys(none) as (keyof Counters)[];

export function openSchema(db: Database): Counters {
  db.exec(schema);
  return readCounters(db);
}

export function readCounters(db: Database): Counters {
  const counters: Counters = { ...none };
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
