import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { LoggedMachine, rowsOf } from "./_machine_fixture.ts";

/** Statements that give something else at each run of plain SQLite; each is run for real, then replayed. */
const corpus: readonly (readonly string[])[] = [
  ["INSERT INTO t(v) VALUES(random())"],
  ["INSERT INTO t(v) SELECT random() FROM (SELECT 1 UNION ALL SELECT 2)"],
  ["INSERT INTO t(v) VALUES(hex(randomblob(16)))", "INSERT INTO t(v) VALUES(randomblob(3))"],
  ["INSERT INTO t(v) VALUES(CURRENT_TIMESTAMP), (CURRENT_DATE), (CURRENT_TIME)"],
  ["INSERT INTO t(v) VALUES(datetime()), (datetime('now')), (datetime('NOW', '+1 day'))"],
  ["INSERT INTO t(v) VALUES(date()), (time('now')), (julianday()), (julianday('now'))"],
  ["INSERT INTO t(v) VALUES(unixepoch()), (unixepoch('subsec')), (unixepoch('now', 'subsec'))"],
  ["INSERT INTO t(v) VALUES(strftime('%Y-%m-%d %H:%M:%f')), (strftime('%s', 'now'))"],
  ["INSERT INTO t(v) VALUES(timediff('now', '2000-01-01'))"],
  ["INSERT INTO defaulted(a) VALUES(1), (2), (3)"],
  ["INSERT INTO triggered(a) VALUES(1)", "UPDATE triggered SET a = a + 1"],
  ["UPDATE t SET v = random() WHERE rowid % 2 = 0"],
  ["DELETE FROM t WHERE rowid = (SELECT rowid FROM t ORDER BY random() LIMIT 1)"],
  ["INSERT INTO t(v) VALUES(last_insert_rowid()), (changes())"],
  ["INSERT INTO defaulted(a) VALUES(9)", "INSERT INTO t(v) VALUES(last_insert_rowid())"],
  ["INSERT INTO t(v) SELECT made FROM seen"],
  ["CREATE TABLE copied AS SELECT random() AS r, datetime('now') AS d"],
  ["INSERT INTO t(v) SELECT value || random() FROM json_each('[1, 2, 3]')"],
  [
    "INSERT INTO counted(v) VALUES('a'), ('b')",
    "DELETE FROM counted WHERE v = 'b'",
    "INSERT INTO counted(v) VALUES('c')",
  ],
  ["INSERT INTO counted(v) SELECT v FROM t ORDER BY random() LIMIT 3"],
  ["INSERT INTO counted(v) VALUES(last_insert_rowid()), (changes())"],
  ["UPDATE counted SET v = (SELECT v FROM t ORDER BY random() LIMIT 1)"],
  ["INSERT INTO t(v) SELECT group_concat(v, ',') FROM (SELECT v FROM counted ORDER BY random())"],
  ["INSERT INTO t(v) SELECT row_number() OVER (ORDER BY random()) FROM counted"],
  ["INSERT INTO upserted VALUES(1, random()) ON CONFLICT(id) DO UPDATE SET v = random()"],
  ["INSERT INTO upserted VALUES(1, random()) ON CONFLICT(id) DO UPDATE SET v = random() RETURNING v"],
  ["INSERT OR REPLACE INTO defaulted(a) SELECT a FROM defaulted", "DELETE FROM defaulted WHERE r < 0"],
  ["WITH c(x) AS (SELECT random() UNION ALL SELECT x + random() % 9 FROM c LIMIT 20) INSERT INTO t(v) SELECT x FROM c"],
  ["INSERT INTO t(v) SELECT abs(random() % 7) AS bucket FROM counted GROUP BY bucket HAVING count(*) > 0"],
  ["ALTER TABLE counted ADD COLUMN later DEFAULT 5", "UPDATE counted SET later = random()"],
  ["INSERT INTO t(v) VALUES(strftime('%Y', 'now', '-1 year')), (date('now', 'weekday 0')), (time('12:00', '+1 hour'))"],
];

/** What would differ from one replica to the next, or cannot be known not to: each is refused with its code. */
const refused: readonly (readonly [sql: string, code: string])[] = [
  ["INSERT INTO t(v) VALUES(datetime('now', 'localtime'))", "sql_nondeterministic"],
  ["INSERT INTO t(v) VALUES(strftime('%s', '2024-01-01', 'utc'))", "sql_nondeterministic"],
  ["INSERT INTO t(v) VALUES(sqlite_version())", "sql_refused"],
  ["INSERT INTO t(v) VALUES(sqlite_source_id())", "sql_refused"],
  ["INSERT INTO t(v) VALUES(total_changes())", "sql_refused"],
  ["INSERT INTO t(v) VALUES(sqlite_compileoption_get(1))", "sql_refused"],
  ["INSERT INTO t(v) SELECT * FROM pragma_compile_options", "sql_refused"],
  ["INSERT INTO t(v) SELECT path FROM dbstat", "sql_refused"],
  ["CREATE TABLE x(a DEFAULT (sqlite_version()))", "sql_refused"],
  ['CREATE TABLE x(a DEFAULT ("total_changes"()))', "sql_refused"],
  ["ALTER TABLE t ADD COLUMN a DEFAULT (total_changes /* */ ())", "sql_refused"],
  ["CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO log(at) VALUES(datetime('now', 'localtime')); END", "later"],
  ["CREATE INDEX x ON t(random())", "sql_error"],
  ["CREATE INDEX x ON t(datetime('now'))", "sql_error"],
  ["CREATE TABLE x(a, b AS (random()))", "sql_error"],
  ["CREATE TEMP TABLE x(a)", "sql_refused"],
  ["ANALYZE", "sql_refused"],
  ["PRAGMA case_sensitive_like = ON", "sql_refused"],
  ["PRAGMA reverse_unordered_selects = ON", "sql_refused"],
  ["CREATE VIRTUAL TABLE x USING fts5(a)", "sql_refused"],
];

const schema = [
  "CREATE TABLE t(v)",
  `CREATE TABLE defaulted(a, r DEFAULT (random()), b DEFAULT (randomblob(8)), c DEFAULT CURRENT_TIMESTAMP,
    d DEFAULT (strftime('%f', 'now')))`,
  "CREATE TABLE triggered(a)",
  "CREATE TABLE log(a, r, at)",
  "CREATE TRIGGER noted AFTER INSERT ON triggered BEGIN INSERT INTO log VALUES(new.a, random(), datetime('now')); END",
  "CREATE TRIGGER changed AFTER UPDATE ON triggered BEGIN INSERT INTO log VALUES(new.a, randomblob(4), julianday()); END",
  "CREATE VIEW seen AS SELECT random() AS made",
  "CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, v)",
  "CREATE TABLE upserted(id INTEGER PRIMARY KEY, v)",
];

Deno.test("replicas that apply the same entries at other times and in other batches have equal state", () => {
  using m = new LoggedMachine();
  for (const sql of schema) m.execute(sql);
  for (const statements of corpus) {
    m.nowMs += 1_234;
    m.batch(...statements);
  }
  const hash = m.machine.hash();
  for (const size of [1, 3, 1_000]) {
    using replayed = m.replay(size);
    assert.equal(replayed.hash(), hash, `batches of ${size}`);
  }
});

Deno.test("what is not known to be the same everywhere is refused by its code, at the latest when it would run", () => {
  for (const [sql, code] of refused) {
    using m = new LoggedMachine();
    for (const each of schema) m.execute(each);
    const hash = m.machine.hash();
    const refusal = (error: unknown, codes: readonly string[]) => {
      assert.ok(error instanceof Fault && codes.includes(error.code), `${sql}: ${error}`);
      return true;
    };
    if (code !== "later") {
      assert.throws(() => m.execute(sql), (error) => refusal(error, [code]));
      assert.equal(m.machine.hash(), hash, sql);
      continue;
    }
    // An argument of a trigger's body is judged when a statement fires it.
    const use = "INSERT INTO t(v) VALUES(1)";
    assert.throws(() => {
      m.execute(sql);
      m.execute(use);
    }, (error) => refusal(error, ["sql_refused", "sql_nondeterministic", "sql_error"]));
    using replayed = m.replay(2);
    assert.equal(replayed.hash(), m.machine.hash(), sql);
  }
});

Deno.test("random values differ within an entry and between entries", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(v)");
  m.execute("INSERT INTO t VALUES(random()), (random())");
  m.execute("INSERT INTO t VALUES(random()), (hex(randomblob(8)))");
  assert.equal(new Set(m.query("SELECT v FROM t").map(String)).size, 4);
});

Deno.test("the present time of a statement is the entry's, the same throughout", () => {
  using m = new LoggedMachine();
  m.nowMs = Date.UTC(2026, 0, 31, 10, 20, 30, 456);
  const [row] = rowsOf(m.execute(
    `SELECT datetime(), CURRENT_TIMESTAMP, date('now'), time('now', 'subsec'), unixepoch(), CURRENT_DATE,
      strftime('%J', 'now') = strftime('%J', julianday('now')), date('2024-02-30', '+1 day')`,
  ));
  assert.deepEqual(row, [
    "2026-01-31 10:20:30",
    "2026-01-31 10:20:30",
    "2026-01-31",
    "10:20:30.456",
    1769854830n,
    "2026-01-31",
    1n,
    "2024-03-02",
  ]);
});
