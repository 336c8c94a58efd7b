import assert from "node:assert/strict";
import { DatabaseService, KvService, Level, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import { startReplica } from "./_replicas.ts";

const refusedAs = (code: string) => (error: unknown) => {
  assert.equal(toFault(error).code, code);
  return true;
};
const database = "t_bank";

/** A database with one account, and its clients. */
async function withBank(
  work: (
    clients: { sql: SqlClient; kv: KvClient; count: (sql: string) => Promise<bigint>; url: string },
  ) => Promise<void>,
): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    await using replica = await startReplica({ dir });
    using stack = new DisposableStack();
    const at = { endpoints: [replica.url], authorization: () => "Bearer test" };
    await stack.use(createRpcClient(DatabaseService, at)).createDatabase({ name: database });
    const sql = stack.use(createRpcClient(SqlService, at));
    const kv = stack.use(createRpcClient(KvService, at));
    await sql.execute({ database, statement: { sql: "CREATE TABLE account(id INTEGER PRIMARY KEY, amount INTEGER)" } });
    await sql.execute({ database, statement: { sql: "CREATE TABLE other(a)" } });
    await sql.execute({ database, statement: { sql: "INSERT INTO account VALUES(1, 100)" } });
    const count = async (text: string) => {
      const { result } = await sql.query({ database, statement: { sql: text } });
      return result!.rows[0]!.values[0]!.kind.value as bigint;
    };
    await work({ sql, kv, count, url: replica.url });
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}
type SqlClient = ReturnType<typeof createRpcClient<typeof SqlService>>;
type KvClient = ReturnType<typeof createRpcClient<typeof KvService>>;

Deno.test("a batch is refused as aborted when a table it rests on has changed, and leaves nothing", () =>
  withBank(async ({ sql, count }) => {
    const read = await sql.query({ database, statement: { sql: "SELECT amount FROM account WHERE id = 1" } });
    assert.ok(read.reads.some(({ table, index }) => table === "account" && index > 0n));
    const spend = {
      database,
      statements: [{ sql: "INSERT INTO other VALUES(1)" }, { sql: "UPDATE account SET amount = amount - 60" }],
      expected: read.reads,
    };
    // A change of another table does not matter.
    await sql.execute({ database, statement: { sql: "INSERT INTO other VALUES(0)" } });
    await sql.batch(spend);
    await assert.rejects(sql.batch(spend), refusedAs("read_changed"));
    assert.deepEqual([await count("SELECT amount FROM account"), await count("SELECT count(*) FROM other")], [40n, 2n]);
    const again = await sql.query({ database, statement: { sql: "SELECT amount FROM account" } });
    await sql.execute({ database, statement: { sql: "ALTER TABLE account ADD COLUMN note" } });
    await assert.rejects(sql.batch({ ...spend, expected: again.reads }), refusedAs("read_changed"));
  }));

Deno.test("changes through triggers and cascades count as changes of the tables they reach", () =>
  withBank(async ({ sql }) => {
    await sql.batch({
      database,
      statements: [
        { sql: "CREATE TABLE log(what)" },
        { sql: "CREATE TRIGGER noted AFTER UPDATE ON account BEGIN INSERT INTO log VALUES('up'); END" },
        { sql: "CREATE TABLE child(a REFERENCES account(id) ON DELETE CASCADE)" },
      ],
    });
    const logged = await sql.query({ database, statement: { sql: "SELECT * FROM log" } });
    const children = await sql.query({ database, statement: { sql: "SELECT * FROM child" } });
    await sql.execute({ database, statement: { sql: "UPDATE account SET amount = 1" } });
    const statements = [{ sql: "INSERT INTO other VALUES(9)" }];
    await assert.rejects(sql.batch({ database, statements, expected: logged.reads }), refusedAs("read_changed"));
    await sql.batch({ database, statements, expected: children.reads });
    await sql.execute({ database, statement: { sql: "DELETE FROM account" } });
    await assert.rejects(sql.batch({ database, statements, expected: children.reads }), refusedAs("read_changed"));
  }));

Deno.test("an interactive transaction sees its own writes, nobody else does before commit, and chance stays the same", () =>
  withBank(async ({ sql, count }) => {
    const { transaction } = await sql.begin({ database });
    const run = (text: string) => sql.execute({ database, transaction, statement: { sql: text } });
    await run("INSERT INTO account VALUES(2, 5)");
    const seen = await sql.query({ database, transaction, statement: { sql: "SELECT sum(amount) FROM account" } });
    assert.equal(seen.result!.rows[0]!.values[0]!.kind.value, 105n);
    const drawn = await run("INSERT INTO other VALUES(random()) RETURNING a");
    await assert.rejects(run("INSERT INTO account VALUES(2, 5)"), refusedAs("sql_error"));
    assert.equal(await count("SELECT count(*) FROM account"), 1n);
    const { results } = await sql.commit({ database, transaction });
    assert.equal(results.length, 3);
    assert.equal(await count("SELECT count(*) FROM account"), 2n);
    assert.equal(await count("SELECT a FROM other"), drawn.result!.rows[0]!.values[0]!.kind.value as bigint);
    await assert.rejects(sql.commit({ database, transaction }), refusedAs("transaction_over"));
  }));

Deno.test("a batch goes by the rows that its queries answered: others of the same table may change", () =>
  withBank(async ({ sql, count }) => {
    await sql.execute({ database, statement: { sql: "INSERT INTO account VALUES(2, 7)" } });
    const mine = { sql: "SELECT amount FROM account WHERE id = 1" };
    const { digest, reads } = await sql.query({ database, statement: mine, digest: true });
    assert.equal(digest.length, 32);
    assert.equal((await sql.query({ database, statement: mine })).digest.length, 0);
    const statements = [{ sql: "UPDATE account SET amount = amount - 60 WHERE id = 1" }];
    const spend = { database, statements, expectedResults: [{ statement: mine, digest }] };
    await sql.execute({ database, statement: { sql: "UPDATE account SET amount = 8 WHERE id = 2" } });
    await sql.execute({ database, statement: { sql: "INSERT INTO account VALUES(3, 1)" } });
    // By tables it counts as changed, by rows it does not.
    await assert.rejects(sql.batch({ database, statements, expected: reads }), refusedAs("read_changed"));
    await sql.batch(spend);
    await assert.rejects(sql.batch(spend), refusedAs("read_changed"));
    assert.equal(await count("SELECT amount FROM account WHERE id = 1"), 40n);
    // Rows that come into a range count, as do columns.
    const range = {
      sql: "SELECT * FROM account WHERE amount > ?",
      positional: [{ kind: { case: "integer", value: 30n } }],
    };
    const seen = await sql.query({ database, statement: range as never, digest: true });
    const rests = { database, statements, expectedResults: [{ statement: range as never, digest: seen.digest }] };
    await sql.execute({ database, statement: { sql: "INSERT INTO account VALUES(4, 31)" } });
    await assert.rejects(sql.batch(rests), refusedAs("read_changed"));
    await sql.execute({ database, statement: { sql: "DELETE FROM account WHERE id = 4" } });
    await sql.execute({ database, statement: { sql: "ALTER TABLE account ADD COLUMN note" } });
    await assert.rejects(sql.batch(rests), refusedAs("read_changed"));
    assert.equal(await count("SELECT amount FROM account WHERE id = 1"), 40n);
    // Everything but a query with its digest is refused before it is in the log.
    const bad: readonly (readonly [string, unknown])[] = [
      ["invalid_field", { statement: mine, digest: new Uint8Array(31) }],
      ["invalid_field", { digest }],
      ["sql_read_only", { statement: { sql: "DELETE FROM account" }, digest }],
      ["sql_too_costly", {
        statement: {
          sql: `SELECT 1 FROM ${Array(8).fill("account").map((t, i) => `${t} a${i}`)}, ${
            Array(4).fill("json_each('[1]')").map((t, i) => `${t} j${i}`)
          }`,
        },
        digest,
      }],
    ];
    for (const [code, expected] of bad) {
      await assert.rejects(
        sql.batch({ database, statements, expectedResults: [expected as never] }),
        refusedAs(code),
        code,
      );
    }
    const many = Array.from({ length: 101 }, () => ({ statement: mine, digest }));
    await assert.rejects(sql.batch({ database, statements, expectedResults: many }), refusedAs("invalid_field"));
  }));

Deno.test("of two transactions one is aborted when it was shown what the other changed; rollback leaves nothing", () =>
  withBank(async ({ sql, count }) => {
    await sql.execute({ database, statement: { sql: "INSERT INTO account VALUES(2, 7)" } });
    const begin = async () => (await sql.begin({ database })).transaction;
    const [a, b, c, other] = [await begin(), await begin(), await begin(), await begin()];
    const run = (transaction: string, text: string) => sql.execute({ database, transaction, statement: { sql: text } });
    for (const each of [a, b]) await run(each, "SELECT amount FROM account WHERE id = 1");
    await run(a, "UPDATE account SET amount = amount - 10 WHERE id = 1");
    await run(b, "UPDATE account SET amount = amount - 20 WHERE id = 1");
    await run(c, "UPDATE account SET amount = 0");
    await run(other, "SELECT amount FROM account WHERE id = 2");
    await run(other, "UPDATE account SET amount = 8 WHERE id = 2");
    await sql.rollback({ database, transaction: c });
    await sql.commit({ database, transaction: a });
    await assert.rejects(sql.commit({ database, transaction: b }), refusedAs("read_changed"));
    // Another row of the same table: nothing it was shown has changed.
    await sql.commit({ database, transaction: other });
    assert.equal(await count("SELECT sum(amount) FROM account"), 98n);
    const d = await begin();
    await run(d, "SELECT * FROM account");
    await sql.execute({ database, statement: { sql: "UPDATE account SET amount = 1" } });
    await assert.rejects(run(d, "UPDATE account SET amount = 2"), refusedAs("read_changed"));
    await assert.rejects(run(d, "SELECT 1"), refusedAs("transaction_over"));
    // What went in on the way and does not any more is a change, too, and nothing of it stays.
    const e = await begin();
    await run(e, "INSERT INTO other VALUES(1)");
    await run(e, "INSERT INTO account VALUES(9, 1)");
    await sql.execute({ database, statement: { sql: "INSERT INTO account VALUES(9, 2)" } });
    await assert.rejects(sql.commit({ database, transaction: e }), refusedAs("read_changed"));
    assert.equal(await count("SELECT count(*) FROM other"), 0n);
  }));

Deno.test("a transaction that was idle for too long is over, and REST speaks of transactions too", () =>
  withBank(async ({ sql, count, url }) => {
    const { transaction } = await sql.begin({ database, idleTimeoutMs: 1n });
    while (true) {
      const failure = await sql.query({ database, transaction, statement: { sql: "SELECT 1" } }).then(
        () => undefined,
        toFault,
      );
      if (failure === undefined) continue;
      assert.equal(failure.code, "transaction_over");
      break;
    }
    const headers = { authorization: "Bearer test" };
    const call = async (method: string, path: string, body?: unknown) => {
      const response = await fetch(`${url}/api/v1/${path}`, { method, headers, body: JSON.stringify(body) ?? null });
      return await response.json();
    };
    const begun = await call("POST", `transactions?database=${database}`);
    await call("POST", "sql", { database, transaction: begun.transaction, sql: "UPDATE account SET amount = 7" });
    assert.equal(await count("SELECT amount FROM account"), 100n);
    await call("POST", `transactions/${begun.transaction}/commit?database=${database}`);
    assert.equal(await count("SELECT amount FROM account"), 7n);
    const read = await call("POST", "sql", { database, sql: "SELECT amount FROM account", level: "strong" });
    assert.deepEqual(read.results[0].rows, [[7]]);
    const batch = { database, statements: ["UPDATE account SET amount = 8"], expected: read.reads };
    await call("POST", "sql", batch);
    assert.equal((await call("POST", "sql", batch)).code, "read_changed");
    const asked = { sql: "SELECT amount FROM account WHERE id = ?", params: [1] };
    const { digest } = await call("POST", "sql", { database, ...asked, digest: true });
    const rests = { database, sql: "UPDATE account SET amount = 9", expectedResults: [{ ...asked, digest }] };
    await call("POST", "sql", rests);
    assert.equal((await call("POST", "sql", rests)).code, "read_changed");
    assert.equal((await call("DELETE", `transactions/tx_none?database=${database}`)).code, "transaction_over");
    const { tables } = await call("GET", `tables?database=${database}&level=strong`);
    assert.deepEqual(tables.map((table: { name: string; rowCount: number }) => [table.name, table.rowCount]), [
      ["account", 1],
      ["other", 0],
    ]);
  }));

Deno.test("a bucket's quota bounds keys and bytes of every kind of write, and counts what goes", () =>
  withBank(async ({ kv, sql }) => {
    const value = new Uint8Array(10);
    await kv.put({ database, bucket: "b", key: "old", value });
    const made = await kv.setQuota({ database, bucket: "b", keysMax: 3n, bytesMax: 40n });
    assert.deepEqual([made.keys, made.bytes, made.keysMax, made.bytesMax], [1n, 13n, 3n, 40n]);
    await kv.put({ database, bucket: "b", key: "k2", value });
    await assert.rejects(
      kv.put({ database, bucket: "b", key: "k3", value: new Uint8Array(20) }),
      refusedAs("bucket_full"),
    );
    await kv.put({ database, bucket: "b", key: "k3", value: new Uint8Array(1) });
    const write = (key: string) => ({ bucket: "b", key, action: { case: "put" as const, value: new Uint8Array(0) } });
    await assert.rejects(kv.batchWrite({ database, writes: [write("k4")] }), refusedAs("bucket_full"));
    const gone = { bucket: "b", key: "old", action: { case: "delete" as const, value: true } };
    await kv.batchWrite({ database, writes: [gone, write("k4")] });
    const { buckets } = await kv.listBuckets({ database, read: { level: Level.STRONG } });
    assert.deepEqual(buckets.map(({ name, keys, bytes }) => [name, keys, bytes]), [["b", 3n, 17n]]);
    await kv.put({ database, bucket: "free", key: "k", value: new Uint8Array(1_000) });
    await kv.setQuota({ database, bucket: "b" });
    await kv.put({ database, bucket: "b", key: "k5", value: new Uint8Array(100) });
    await assert.rejects(kv.setQuota({ database, bucket: "b", keysMax: -1n }), /keys_max/);
    assert.ok(sql);
  }));
