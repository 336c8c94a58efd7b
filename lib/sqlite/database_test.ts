import assert from "node:assert/strict";
import { openDatabase } from "./mod.ts";

Deno.test("database answers safe integers as numbers and larger ones as bigint", () => {
  using db = openDatabase(":memory:");
  assert.deepEqual({ ...db.get("SELECT 7 AS a, 9007199254740993 AS b, NULL AS c, 'x' AS d")! }, {
    a: 7,
    b: 9007199254740993n,
    c: null,
    d: "x",
  });
});

Deno.test("transaction rolls back when its function throws, and a nested one only its own part", () => {
  using db = openDatabase(":memory:");
  db.exec("CREATE TABLE t(a INTEGER PRIMARY KEY)");
  db.transaction(() => {
    db.run("INSERT INTO t VALUES(1)");
    assert.throws(() =>
      db.transaction(() => {
        db.run("INSERT INTO t VALUES(2)");
        throw new Error("inner");
      }), /inner/);
    db.run("INSERT INTO t VALUES(3)");
  });
  assert.throws(() =>
    db.transaction(() => {
      db.run("INSERT INTO t VALUES(4)");
      throw new Error("outer");
    }), /outer/);
  assert.deepEqual(db.all<{ a: number }>("SELECT a FROM t").map((row) => row.a), [1, 3]);
});

Deno.test("function() replaces SQLite's own random and the present time, also in defaults", () => {
  using db = openDatabase(":memory:");
  db.function("random", () => 42n);
  db.function("current_timestamp", () => "2000-01-01 00:00:00");
  db.exec("CREATE TABLE t(a, at TEXT DEFAULT CURRENT_TIMESTAMP)");
  db.run("INSERT INTO t(a) VALUES(random())");
  assert.deepEqual({ ...db.get("SELECT * FROM t")! }, { a: 42, at: "2000-01-01 00:00:00" });
});

Deno.test("authorizer refuses what it denies", () => {
  using db = openDatabase(":memory:");
  db.authorizer((action) => action === 24 ? 1 : 0); // SQLITE_ATTACH
  assert.throws(() => db.exec("ATTACH ':memory:' AS other"), /not authorized/);
  db.exec("CREATE TABLE t(a)");
});

Deno.test("a file keeps what was committed, and a checkpoint empties its write-ahead log", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const path = `${dir}/x.db`;
    {
      using db = openDatabase(path);
      db.exec("CREATE TABLE t(a)");
      db.run("INSERT INTO t VALUES(?)", new Uint8Array([1, 2]));
      db.checkpoint();
      assert.deepEqual(db.integrityCheck(), []);
    }
    using again = openDatabase(path, { readOnly: true });
    assert.deepEqual(again.get<{ a: Uint8Array }>("SELECT a FROM t")?.a, new Uint8Array([1, 2]));
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("iterate() throws what fails in the middle instead of ending early", () => {
  using db = openDatabase(":memory:");
  db.exec("CREATE TABLE t(a INTEGER PRIMARY KEY)");
  for (let i = 1; i <= 3; i++) db.run("INSERT INTO t VALUES(?)", i);
  const seen: unknown[] = [];
  assert.throws(() => {
    for (const row of db.iterate("SELECT iif(a = 3, json('{'), a) AS a FROM t ORDER BY a")) seen.push(row);
  }, /malformed JSON/);
  assert.deepEqual([...db.iterate<{ a: number }>("SELECT a FROM t ORDER BY a")].map((row) => row.a), [1, 2, 3]);
});

Deno.test("a checkpoint beside a reader of another connection is refused at once, and works when that is done", () => {
  const dir = Deno.makeTempDirSync();
  try {
    using db = openDatabase(`${dir}/a.db`);
    db.exec("CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    {
      using reader = openDatabase(`${dir}/a.db`, { readOnly: true });
      reader.exec("BEGIN; SELECT * FROM t");
      db.run("INSERT INTO t VALUES(2)");
      assert.throws(() => db.checkpoint(), { code: "checkpoint_busy" });
    }
    db.checkpoint();
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("reading() shares one transaction within a round of the event loop, and what is written ends it", async () => {
  const dir = Deno.makeTempDirSync();
  try {
    using db = openDatabase(`${dir}/a.db`, { autoCheckpointPages: 10 });
    using other = openDatabase(`${dir}/a.db`);
    db.exec("CREATE TABLE t(a)");
    const count = () => db.reading(() => db.get<{ n: number }>("SELECT count(*) AS n FROM t")!.n);
    assert.equal(count(), 0);
    other.run("INSERT INTO t VALUES(1)");
    assert.deepEqual([count(), count()], [0, 0], "still the moment of the first read");
    await new Promise((resolve) => setTimeout(resolve, 0));
    assert.equal(count(), 1);
    db.run("INSERT INTO t VALUES(2)");
    assert.equal(count(), 2);
    db.transaction(() => {
      db.run("INSERT INTO t VALUES(3)");
      assert.equal(count(), 3);
    });
    assert.equal(other.get<{ n: number }>("SELECT count(*) AS n FROM t")!.n, 3);
    assert.equal(count(), 3);
    db.checkpoint();
    assert.equal(count(), 3);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("intact tells that SQLite has undone the open transaction by itself", () => {
  using db = openDatabase(":memory:");
  db.exec("CREATE TABLE t(a)");
  assert.equal(db.intact, true);
  db.begin();
  db.run("INSERT INTO t VALUES(1)");
  assert.equal(db.intact, true);
  const { pages } = db.get<{ pages: number }>("SELECT page_count AS pages FROM pragma_page_count()")!;
  db.get(`PRAGMA max_page_count=${pages}`);
  // As a full disk does: what was written before goes, too.
  assert.throws(() => db.exec("INSERT INTO t VALUES(zeroblob(100000))"), /full/);
  assert.equal(db.intact, false);
  assert.throws(() => db.commit(), /no transaction/);
});
