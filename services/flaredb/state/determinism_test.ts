import assert from "node:assert/strict";
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
