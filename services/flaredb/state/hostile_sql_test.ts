import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { create } from "@bufbuild/protobuf";
import { StatementSchema } from "@ultracloud/proto/flaredb/v1";
import { LoggedMachine } from "./_machine_fixture.ts";

/** What a caller might try, and the code that refuses it. */
const hostile: readonly (readonly [string, string])[] = [
  ["", "sql_refused"],
  ["-- nothing", "sql_refused"],
  ["SELECT 1; DROP TABLE t", "sql_refused"],
  ["SELECT 1;;; SELECT 2", "sql_refused"],
  ["ATTACH ':memory:' AS other", "sql_refused"],
  ["/* x */ ATTACH 'file' AS other", "sql_refused"],
  ["DETACH main", "sql_refused"],
  ["VACUUM", "sql_refused"],
  ["VACUUM INTO '/tmp/x'", "sql_refused"],
  ["BEGIN", "sql_refused"],
  ["COMMIT", "sql_refused"],
  ["ROLLBACK", "sql_refused"],
  ["SAVEPOINT a", "sql_refused"],
  ["RELEASE s1", "sql_refused"],
  ["ANALYZE", "sql_refused"],
  ["REINDEX _uc_kv", "sql_refused"],
  ["REINDEX nothing_of_that_name", "sql_error"],
  ["INSERT OR ROLLBACK INTO t VALUES(1)", "sql_refused"],
  ["CREATE TABLE x(a UNIQUE ON CONFLICT ROLLBACK)", "sql_refused"],
  ["CREATE TRIGGER x BEFORE INSERT ON t BEGIN SELECT RAISE(ROLLBACK, 'x'); END", "sql_refused"],
  ["CREATE TABLE x(a REFERENCES t(a) DEFERRABLE INITIALLY DEFERRED)", "sql_refused"],
  ["SELECT load_extension('x')", "sql_refused"],
  ["SELECT sqlite_version()", "sql_refused"],
  ["SELECT total_changes()", "sql_refused"],
  ["SELECT readfile('/etc/passwd')", "sql_error"],
  ["SELECT writefile('/tmp/x', 'y')", "sql_error"],
  ["PRAGMA journal_mode = DELETE", "sql_refused"],
  ["PRAGMA writable_schema = ON", "sql_refused"],
  ["PRAGMA foreign_keys = OFF", "sql_refused"],
  ["PRAGMA table_info(_uc_kv)", "sql_refused"],
  ["SELECT * FROM pragma_database_list", "sql_refused"],
  ["SELECT * FROM _uc_kv", "sql_refused"],
  ["SELECT * FROM [_uc_kv]", "sql_refused"],
  ['SELECT * FROM main."_UC_kv"', "sql_refused"],
  ["SELECT * FROM '_uc_kv'", "sql_refused"],
  ["WITH x AS (SELECT * FROM _uc_kv) SELECT * FROM x", "sql_refused"],
  ["DELETE FROM _uc_change", "sql_refused"],
  ["DROP TABLE _uc_kv", "sql_refused"],
  ["ALTER TABLE _uc_kv RENAME TO mine", "sql_refused"],
  ["ALTER TABLE t RENAME TO _uc_mine", "sql_refused"],
  ["CREATE TABLE _uc_mine(a)", "sql_refused"],
  ["CREATE VIEW v AS SELECT * FROM _uc_kv", "sql_refused"],
  ["CREATE TRIGGER x AFTER INSERT ON _uc_kv BEGIN SELECT 1; END", "sql_refused"],
  ["CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM _uc_kv; END", "sql_refused"],
  ["CREATE TABLE x(a REFERENCES _uc_kv(key))", "sql_refused"],
  ["CREATE INDEX x ON _uc_kv(value)", "sql_refused"],
  ["SELECT _uc_done()", "sql_refused"],
  ["SELECT * FROM sqlite_master", "sql_refused"],
  ["UPDATE sqlite_master SET sql = ''", "sql_error"],
  ["DELETE FROM sqlite_schema", "sql_error"],
  ["CREATE TEMP TABLE x(a)", "sql_refused"],
  ["CREATE TEMP VIEW x AS SELECT 1", "sql_refused"],
  ["CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", "sql_refused"],
  ["CREATE VIRTUAL TABLE x USING fts5(a)", "sql_refused"],
  ["SELECT * FROM temp.uc_rowid", "sql_refused"],
  ["SELECT * FROM dbstat", "sql_refused"],
  ["SELECT datetime('now', 'localtime')", "sql_nondeterministic"],
  ["SELECT datetime('now', ' UTC ')", "sql_nondeterministic"],
  ["WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT sum(x) FROM c", "sql_refused"],
  ["WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c LIMIT 5", "sql_refused"],
  ["WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 1 OFFSET 9999999999) SELECT x FROM c", "sql_refused"],
  ["WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 9999999999, 1) SELECT x FROM c", "sql_refused"],
  ["WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT -1) SELECT x FROM c", "sql_refused"],
  ["WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000000) SELECT x FROM c", "sql_refused"],
  ["SELECT zeroblob(1000000000)", "sql_error"],
  ["SELECT randomblob(1000000000)", "sql_error"],
  ["SELECT printf('%.*c', 1000000000, 'x')", "sql_error"],
  ["SELECT * FROM nowhere", "sql_error"],
  ["SELEC 1", "sql_refused"],
  ["SELECT ?", "sql_parameters"],
  ["SELECT :a", "sql_parameters"],
  ["SELECT :a, ?", "sql_refused"],
  ["SELECT 1\0", "sql_refused"],
];

Deno.test("hostile SQL is refused by its code, leaves nothing and the machine goes on", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(a)");
  m.put({ bucket: "b", key: "k", value: new Uint8Array([1]) });
  const hash = m.machine.hash();
  for (const [sql, code] of hostile) {
    for (const run of [() => m.execute(sql), () => m.query(sql)]) {
      assert.throws(run, (error) => {
        assert.ok(error instanceof Fault, `${sql}: ${error}`);
        const allowed = [code, "sql_read_only"];
        assert.ok(allowed.includes(error.code), `${JSON.stringify(sql)} is refused as ${error.code}: ${error.message}`);
        return true;
      }, sql);
    }
    assert.equal(m.machine.hash(), hash, sql);
  }
  using replayed = m.replay(7);
  assert.equal(replayed.hash(), hash);
});

Deno.test("a query changes nothing, however it is dressed", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(a)");
  const attempts = [
    "INSERT INTO t VALUES(1)",
    "INSERT INTO t VALUES(1) RETURNING a",
    "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
    "WITH x AS (SELECT 1) DELETE FROM t",
    "DROP TABLE t",
    "REPLACE INTO t VALUES(1)",
  ];
  for (const sql of attempts) {
    assert.throws(() => m.query(sql), (error) => error instanceof Fault && /wanted Execute/.test(error.message), sql);
    // The same text prepared for a write must not open a way for the query.
    if (!sql.startsWith("DROP")) m.execute(sql);
    assert.throws(() => m.query(sql), (error) => error instanceof Fault && /wanted Execute/.test(error.message), sql);
  }
});

Deno.test("a join without a condition is refused before it runs, a join by key is not", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
  m.execute(
    "WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 1000) INSERT INTO t SELECT x, x % 7 FROM c",
  );
  const tooCostly = (error: unknown) => error instanceof Fault && error.code === "sql_too_costly";
  const cost = 1e6;
  assert.throws(() => m.query("SELECT count(*) FROM t x, t y, t z", {}, cost), tooCostly);
  assert.throws(() => m.query("SELECT (SELECT count(*) FROM t y, t z WHERE y.b = x.b) FROM t x", {}, cost), tooCostly);
  assert.deepEqual(m.query("SELECT count(*) FROM t x JOIN t y ON x.a = y.a", {}, cost), [[1000n]]);
  assert.deepEqual(m.query("SELECT count(*) FROM t x, t y", {}, cost), [[1_000_000n]]);
  const explosive = [
    "SELECT count(*) FROM t x, t y, t z WHERE x.a > 0 AND y.a > 0 AND z.a > 0",
    "SELECT count(*) FROM t x JOIN t y ON x.b = y.b JOIN t z ON z.b = y.b JOIN t w ON w.b = z.b",
    "SELECT count(*) FROM json_each('[1,2]') x, json_each('[1,2]') y, json_each('[1,2]') z",
    "SELECT count(*) FROM t x WHERE EXISTS (SELECT 1 FROM t y, t z WHERE y.b = x.b AND z.b <> y.b)",
  ];
  m.execute("CREATE INDEX t_b ON t(b)");
  for (const sql of explosive) assert.throws(() => m.query(sql, {}, cost), tooCostly, sql);
  assert.throws(() => {
    const statement = create(StatementSchema, { sql: "CREATE TABLE u AS SELECT x.a FROM t x, t y, t z" });
    m.machine.parts.sql.admit(statement, "write", cost, "statement");
  }, tooCostly);
  assert.deepEqual(m.query("SELECT count(*) FROM t x JOIN t y ON x.b = y.b WHERE x.a < 3", {}, cost), [[286n]]);
  assert.deepEqual(m.query("SELECT count(*) FROM t x, json_each('[1,2]')", {}, cost), [[2000n]]);
  // A high row id alone does not make a table large.
  m.execute("INSERT INTO t(a) VALUES(4000000000000)");
  assert.deepEqual(m.query("SELECT count(*) FROM t", {}, cost), [[1001n]]);
});

Deno.test("what triggers and foreign keys run for each row counts into the cost of a statement", () => {
  using m = new LoggedMachine();
  const many = (n: number) => `WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT ${n}) SELECT x`;
  const setUp = [
    "CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
    `INSERT INTO t ${many(1000)}, x FROM c`,
    "CREATE TABLE join_each(a)",
    "CREATE TRIGGER j AFTER INSERT ON join_each BEGIN SELECT count(*) FROM t x, t y WHERE x.b <> new.a; END",
    "CREATE TABLE asks(a)",
    "CREATE TRIGGER w AFTER INSERT ON asks WHEN (SELECT count(*) FROM t x, t y, t z WHERE x.b > new.a) > 0 " +
    "BEGIN SELECT RAISE(ABORT, 'no'); END",
    "CREATE TABLE passes_on(a)",
    "CREATE TRIGGER p AFTER DELETE ON passes_on BEGIN INSERT INTO join_each VALUES(old.a); END",
    "CREATE TABLE counted(a)",
    "CREATE TRIGGER n AFTER INSERT ON counted BEGIN UPDATE t SET b = b + 1 WHERE a = new.a; END",
    "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
    `INSERT INTO parent ${many(1000)} FROM c`,
    "CREATE TABLE child(p INTEGER REFERENCES parent ON DELETE CASCADE)",
    `INSERT INTO child ${many(1000)} FROM c`,
  ];
  for (const sql of setUp) m.execute(sql);
  const check = (sql: string, rowsMax: number) => {
    m.machine.parts.sql.admit(create(StatementSchema, { sql }), "write", rowsMax, "statement");
  };
  const tooCostly = (error: unknown) => error instanceof Fault && error.code === "sql_too_costly";
  const refused = [
    "INSERT INTO join_each VALUES(1)",
    "INSERT INTO asks VALUES(1)",
    "DELETE FROM passes_on WHERE a = 1",
    "DELETE FROM parent",
    "UPDATE t SET b = (SELECT max(x.b) FROM t x, t y, t z)",
  ];
  for (const sql of refused) assert.throws(() => check(sql, 500_000), tooCostly, sql);
  for (const sql of ["INSERT INTO counted VALUES(1)", "DELETE FROM parent WHERE id = 7", "SELECT max(b) FROM t"]) {
    check(sql, 5_000);
  }
  m.execute("CREATE INDEX child_p ON child(p)");
  check("DELETE FROM parent", 5_000);
});

Deno.test("more rows than the limit are resource_exhausted", () => {
  using m = new LoggedMachine();
  const sql = "WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 2000) SELECT x FROM c";
  assert.throws(() => m.query(sql), (error) => error instanceof Fault && error.code === "rows_too_many");
});
