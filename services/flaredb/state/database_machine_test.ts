import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { LoggedMachine, rowsOf } from "./_machine_fixture.ts";
import { DatabaseMachine } from "./database_machine.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const code = (expected: string) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error));
  assert.equal(error.code, expected);
  return true;
};

Deno.test("a key has the index of its last write as version, and compare and swap goes by it", () => {
  using m = new LoggedMachine();
  const { version } = m.put({ bucket: "b", key: "k", value: bytes("1") });
  assert.equal(version, 1n);
  assert.deepEqual(m.cas({ bucket: "b", key: "k", expectedVersion: 7n }), { swapped: false, version: 1n });
  assert.deepEqual(m.cas({ bucket: "b", key: "k", expectedVersion: 1n, value: bytes("2") }), {
    swapped: true,
    version: 3n,
  });
  assert.deepEqual(m.cas({ bucket: "b", key: "new", expectedVersion: 0n }), { swapped: true, version: 4n });
});

Deno.test("a batch writes everything or nothing, and says which conditions failed", () => {
  using m = new LoggedMachine();
  m.put({ bucket: "b", key: "a", value: bytes("1") });
  const writes = [
    { bucket: "b", key: "x", action: { case: "put" as const, value: bytes("x") } },
    { bucket: "b", key: "a", action: { case: "delete" as const, value: true } },
  ];
  const refused = m.batchWrite({
    conditions: [{ bucket: "b", key: "a", version: 1n }, { bucket: "b", key: "x", version: 5n }],
    writes,
  });
  assert.deepEqual(refused, { committed: false, failedConditions: [1] });
  assert.equal(m.machine.parts.kv.get("b", "x", 0), undefined);
  assert.equal(m.batchWrite({ conditions: [{ bucket: "b", key: "a", version: 1n }], writes }).committed, true);
  assert.equal(m.machine.parts.kv.get("b", "a", 0), undefined);
  assert.equal(m.machine.parts.kv.get("b", "x", 0)?.version, 3);
});

Deno.test("a key with a time to live is gone for conditions at that time, and a sweep tells watches", () => {
  using m = new LoggedMachine();
  m.put({ bucket: "b", key: "k", value: bytes("1"), ttlMs: 1_000n });
  m.nowMs += 999;
  assert.equal(m.cas({ bucket: "b", key: "k", expectedVersion: 0n }).swapped, false);
  m.nowMs += 1;
  assert.equal(m.sweep(), 1);
  assert.equal(m.machine.parts.kv.get("b", "k", m.machine.timeMs), undefined);
  const { changes } = m.machine.parts.changes.read("b", "", 1, m.machine.appliedIndex(), 1 << 20);
  assert.deepEqual(changes.map(({ key, value }) => [key, value]), [["k", null]]);
});

Deno.test("replicated time never goes back, whatever the clocks of leaders say", () => {
  using m = new LoggedMachine();
  m.put({ bucket: "b", key: "k", value: bytes("1"), ttlMs: 1_000n });
  const before = m.machine.timeMs;
  m.nowMs -= 3_600_000;
  m.put({ bucket: "b", key: "other", value: bytes("1") });
  assert.equal(m.machine.timeMs, before);
});

Deno.test("a single statement that fails leaves nothing, whatever would keep half of it", () => {
  const halves: readonly (readonly [schema: string[], statement: string])[] = [
    [["CREATE TABLE t(a INTEGER PRIMARY KEY, b)"], "INSERT OR FAIL INTO t VALUES(1, 1), (2, 2), (1, 3)"],
    [["CREATE TABLE t(a INTEGER, b UNIQUE ON CONFLICT FAIL)"], "INSERT INTO t VALUES(1, 1), (2, 2), (3, 1)"],
    [
      [
        "CREATE TABLE t(a INTEGER, b)",
        "CREATE TRIGGER no AFTER INSERT ON t WHEN new.a = 3 BEGIN SELECT RAISE(FAIL, 'no'); END",
      ],
      "INSERT INTO t VALUES(1, 1), (2, 2), (3, 3)",
    ],
    [["CREATE TABLE t(a INTEGER PRIMARY KEY, b)"], "INSERT INTO t VALUES(1, 1), (2, 2), (1, 3)"],
    [
      ["CREATE TABLE t(a, b)"],
      "INSERT INTO t(a) WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000) SELECT x FROM n RETURNING a",
    ],
  ];
  for (const [schema, statement] of halves) {
    using m = new LoggedMachine();
    for (const sql of schema) m.execute(sql);
    const before = m.machine.hash();
    // Twice: how a statement is run is remembered with its text.
    for (let i = 0; i < 2; i++) {
      assert.throws(() => m.execute(statement), Fault, statement);
      assert.equal(m.machine.hash(), before, statement);
    }
    m.execute("INSERT INTO t VALUES(7, 7)");
    assert.deepEqual(m.query("SELECT a, b FROM t"), [[7n, 7n]]);
    using replayed = m.replay(100);
    assert.equal(replayed.hash(), m.machine.hash());
  }
});

Deno.test("a failing statement undoes its entry alone and the index goes on", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
  assert.throws(
    () => m.batch("INSERT INTO t VALUES(1, 'x')", "CREATE TABLE u(a)", "INSERT INTO t VALUES(1, 'y')"),
    (error) => {
      assert.ok(code("sql_error")(error));
      const { detail, message } = error as Fault;
      assert.equal(detail.field, "statements[2].sql");
      assert.equal(detail.metadata?.sqlite_code, "1555");
      assert.match(message, /UNIQUE constraint failed: t\.a/);
      return true;
    },
  );
  assert.equal(m.machine.appliedIndex(), 2);
  m.execute("INSERT INTO t VALUES(1, 'z')");
  assert.deepEqual(m.query("SELECT a, b FROM t"), [[1n, "z"]]);
  assert.throws(() => m.query("SELECT * FROM u"), code("sql_error"));
});

Deno.test("entries of one batch stand and fall alone", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(a INTEGER PRIMARY KEY)");
  m.execute("INSERT INTO t VALUES(1)");
  assert.throws(() => m.execute("INSERT INTO t VALUES(2), (1)"), code("sql_error"));
  m.execute("INSERT INTO t VALUES(3)");
  using replayed = m.replay(100);
  assert.equal(replayed.hash(), m.machine.hash());
  assert.deepEqual(m.query("SELECT a FROM t"), [[1n], [3n]]);
});

Deno.test("values keep their type, and integers all 64 bits", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(i, r, s, x, n)");
  const { rowsAffected } = m.execute("INSERT INTO t VALUES(:i, $r, @s, :x, :n)", {
    named: {
      i: { kind: { case: "integer", value: 9223372036854775807n } },
      $r: { kind: { case: "real", value: 2 } },
      s: { kind: { case: "text", value: "ü" } },
      x: { kind: { case: "blob", value: bytes("raw") } },
      n: { kind: { case: "null", value: {} } },
    },
  });
  assert.equal(rowsAffected, 1n);
  assert.deepEqual(m.query("SELECT *, typeof(r) FROM t"), [[9223372036854775807n, 2, "ü", bytes("raw"), null, "real"]]);
});

Deno.test("RETURNING answers rows, the count and the last id; a constraint still fails it", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
  const result = m.execute("INSERT INTO t(b) VALUES('x'), ('y') RETURNING a, b");
  assert.deepEqual(rowsOf(result), [[1n, "x"], [2n, "y"]]);
  assert.equal(result.rowsAffected, 2n);
  assert.equal(result.lastInsertId, 2n);
  assert.throws(() => m.execute("INSERT INTO t(a) VALUES(1) RETURNING a"), code("sql_error"));
});

Deno.test("a query that fails half way is an error and not a short answer", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(a)");
  m.execute("INSERT INTO t VALUES(1), (-9223372036854775807 - 1)");
  assert.throws(() => m.query("SELECT abs(a) FROM t"), code("sql_error"));
});

Deno.test("an altered table shows its new columns to a statement that ran before", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(a)");
  m.execute("INSERT INTO t VALUES(1)");
  assert.deepEqual(m.query("SELECT * FROM t"), [[1n]]);
  m.execute("ALTER TABLE t ADD COLUMN b DEFAULT 'new'");
  assert.deepEqual(m.query("SELECT * FROM t"), [[1n, "new"]]);
  m.execute("ALTER TABLE t RENAME COLUMN b TO c");
  m.execute("ALTER TABLE t DROP COLUMN c");
  assert.deepEqual(m.query("SELECT * FROM t"), [[1n]]);
});

Deno.test("the same idempotency key replays the first answer, and another body is a mismatch", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b DEFAULT (random()))");
  const first = m.execute("INSERT INTO t(a) VALUES(NULL) RETURNING b", {}, "caller\nkey");
  const again = m.execute("INSERT INTO t(a) VALUES(NULL) RETURNING b", {}, "caller\nkey");
  assert.deepEqual(rowsOf(again), rowsOf(first));
  assert.deepEqual(m.query("SELECT count(*) FROM t"), [[1n]]);
  assert.throws(() => m.execute("DELETE FROM t", {}, "caller\nkey"), code("idempotency_mismatch"));
  m.nowMs += 24 * 3_600_000;
  m.execute("DELETE FROM t", {}, "caller\nkey");
  assert.deepEqual(m.query("SELECT count(*) FROM t"), [[0n]]);
});

Deno.test("a snapshot carries everything: a restored machine has the same hash and goes on equally", () => {
  using m = new LoggedMachine();
  m.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b DEFAULT (random()))");
  m.put({ bucket: "b", key: "k", value: bytes("v"), ttlMs: 5_000n }, "c\nk");
  using other = new DatabaseMachine({ path: ":memory:" });
  other.restore(m.machine.appliedIndex(), m.machine.snapshot());
  assert.equal(other.hash(), m.machine.hash());
  m.execute("INSERT INTO t(a) VALUES(NULL)");
  other.applyBatch(m.log.slice(-1));
  assert.equal(other.hash(), m.machine.hash());
});

Deno.test("a file holds what was applied, and can be replaced by a snapshot", async () => {
  const dir = await Deno.makeTempDir();
  try {
    using m = new LoggedMachine();
    m.put({ bucket: "b", key: "k", value: bytes("v") });
    m.execute("CREATE TABLE t(a)");
    const path = `${dir}/x.db`;
    {
      using file = new DatabaseMachine({ path });
      file.applyBatch(m.log);
      assert.equal(file.checkpoint(), 2);
    }
    {
      using file = new DatabaseMachine({ path });
      assert.equal(file.appliedIndex(), 2);
      assert.equal(file.hash(), m.machine.hash());
      m.execute("INSERT INTO t VALUES(1)");
      file.restore(3, m.machine.snapshot());
      assert.equal(file.hash(), m.machine.hash());
    }
    using file = new DatabaseMachine({ path });
    assert.equal(file.appliedIndex(), 3);
    assert.equal(file.hash(), m.machine.hash());
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("a snapshot through a file is the state of one moment, while entries are applied", async () => {
  const dir = await Deno.makeTempDir();
  try {
    using m = new LoggedMachine();
    m.execute("CREATE TABLE t(a)");
    m.execute("INSERT INTO t VALUES(1)");
    using source = new DatabaseMachine({ path: `${dir}/source.db` });
    source.applyBatch(m.log);
    const before = m.machine.hash();
    const taking = source.snapshotTo(`${dir}/state`);
    const count = m.log.length;
    m.execute("INSERT INTO t VALUES(2)");
    source.applyBatch(m.log.slice(count));
    const index = await taking;
    assert.ok(index === count || index === count + 1, `index ${index}`);
    using copy = new DatabaseMachine({ path: `${dir}/copy.db` });
    for (let i = 0; i < 2; i++) await copy.restoreFrom(index, `${dir}/state`);
    assert.equal(copy.appliedIndex(), index);
    assert.equal(copy.hash(), index === count ? before : m.machine.hash());
    copy.applyBatch(m.log.slice(index));
    assert.equal(copy.hash(), source.hash());
    assert.deepEqual([...Deno.readDirSync(dir)].map(({ name }) => name).filter((name) => name.startsWith("state")), [
      "state",
    ]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("changes beyond the bound are dropped oldest first, a little at a time, and the cut is told", () => {
  using m = new LoggedMachine();
  const value = new Uint8Array(1024 * 1024);
  for (let i = 0; i < 70; i++) m.put({ bucket: "b", key: `k${i}`, value });
  const { changes } = m.machine.parts;
  const held = (after: number) => changes.read("b", "", after, m.machine.index, Infinity).changes;
  assert.throws(() => held(5), code("compacted"));
  const told = held(8).map(({ key }) => key);
  assert.deepEqual([told.at(0), told.at(-1)], ["k8", "k69"]);
  using replayed = m.replay(9);
  const cut = (machine: DatabaseMachine) => machine.parts.meta.get("changes_cut");
  assert.equal(cut(replayed), cut(m.machine), "however entries come together");
});
