import assert from "node:assert/strict";
import { BackupService, DatabaseService, type DumpPart, KvService, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import { seededRng } from "@ultracloud/base";
import { startReplica } from "./_replicas.ts";

const utf8 = new TextEncoder();

async function withClients(work: (clients: Awaited<ReturnType<typeof open>>) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    await using replica = await startReplica({ dir });
    using stack = new DisposableStack();
    await work(open(replica.url, stack));
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function open(url: string, stack: DisposableStack) {
  const at = { endpoints: [url], authorization: () => "Bearer test" };
  const sql = stack.use(createRpcClient(SqlService, at));
  return {
    databases: stack.use(createRpcClient(DatabaseService, at)),
    kv: stack.use(createRpcClient(KvService, at)),
    backups: stack.use(createRpcClient(BackupService, at)),
    sql,
    rows: async (database: string, text: string) => {
      const { result } = await sql.query({ database, statement: { sql: text } });
      return result!.rows.map(({ values }) => values.map(({ kind }) => kind.case === "null" ? null : kind.value));
    },
  };
}

async function* load(database: string, parts: readonly Partial<DumpPart>[]) {
  yield { part: { case: "target" as const, value: { database } } };
  for (const value of parts) yield { part: { case: "dump" as const, value: value as DumpPart } };
  await Promise.resolve();
}

Deno.test("a dump that is loaded gives the same tables, rows, keys, rules and counters", () =>
  withClients(async ({ databases, kv, sql, backups, rows }) => {
    await databases.createDatabase({ name: "t_from" });
    const run = (text: string, ...values: unknown[]) =>
      sql.execute({
        database: "t_from",
        statement: {
          sql: text,
          positional: values.map((value) => ({
            kind: typeof value === "string"
              ? { case: "text" as const, value }
              : typeof value === "bigint"
              ? { case: "integer" as const, value }
              : typeof value === "number"
              ? { case: "real" as const, value }
              : { case: "blob" as const, value: value as Uint8Array<ArrayBuffer> },
          })),
        },
      });
    // The child first: what it refers to comes later in a dump.
    await run("CREATE TABLE child(p INTEGER REFERENCES parent(id), v)");
    await run("CREATE TABLE parent(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT) ");
    await run("CREATE TABLE plain(a, b DEFAULT CURRENT_TIMESTAMP)");
    await run("CREATE UNIQUE INDEX plain_a ON plain(a)");
    await run("CREATE VIEW both AS SELECT * FROM parent JOIN child ON p = id");
    await run("CREATE TRIGGER t AFTER DELETE ON plain BEGIN DELETE FROM child; END");
    await run("INSERT INTO parent(name) VALUES('one'), ('it''s; -- not a comment'), ('drei\nvier ✓')");
    await run("DELETE FROM parent WHERE id = 3");
    await run("INSERT INTO child VALUES(1, ?)", new Uint8Array([0, 255, 39]));
    await run("INSERT INTO child VALUES(2, ?)", "nul \0 inside");
    for (const value of [2n ** 63n - 1n, -(2n ** 63n), 9007199254740993n]) {
      await run("INSERT INTO plain(a) VALUES(?)", value);
    }
    const rng = seededRng(7);
    const reals = [2, -0.1, 1e21, 1e-300, 5e-324, Number.MAX_VALUE, Infinity, -Infinity];
    for (let i = 0; i < 200; i++) {
      const real = new Float64Array(rng.fill(new Uint8Array(8)).buffer)[0]!;
      if (Number.isFinite(real)) reals.push(real);
    }
    for (const real of reals) await run("INSERT INTO plain(a) VALUES(?)", real);
    await kv.put({ database: "t_from", bucket: "b", key: "k ✓", value: utf8.encode("v"), ttlMs: 3_600_000n });
    await kv.put({ database: "t_from", bucket: "big", key: "k", value: new Uint8Array(3 * 2 ** 20) });
    await kv.setQuota({ database: "t_from", bucket: "b", keysMax: 1n });

    const parts: DumpPart[] = [];
    for await (const part of backups.dump({ database: "t_from" })) parts.push(part);
    const { keys } = await backups.load(load("t_to", parts));
    assert.equal(keys, 2n);
    for (
      const text of [
        "SELECT * FROM child ORDER BY rowid",
        "SELECT * FROM parent",
        "SELECT rowid, a, typeof(a), b FROM plain ORDER BY rowid",
        "SELECT * FROM both",
      ]
    ) assert.deepEqual(await rows("t_to", text), await rows("t_from", text), text);
    const [from, to] = await Promise.all(["t_from", "t_to"].map((database) => sql.listTables({ database })));
    assert.deepEqual(to!.tables, from!.tables);
    const before = await kv.get({ database: "t_from", bucket: "b", key: "k ✓" });
    const after = await kv.get({ database: "t_to", bucket: "b", key: "k ✓" });
    assert.deepEqual([after.item?.value, after.item?.expireTime], [before.item?.value, before.item?.expireTime]);
    await assert.rejects(
      kv.put({ database: "t_to", bucket: "b", key: "second", value: utf8.encode("v") }),
      (error) => toFault(error).code === "bucket_full",
    );
    const statement = { sql: "INSERT INTO parent(name) VALUES('next') RETURNING id" };
    const next = await sql.execute({ database: "t_to", statement });
    assert.equal(next.result!.rows[0]!.values[0]!.kind.value, 4n, "AUTOINCREMENT does not use a number again");
    const dangling = { sql: "INSERT INTO child VALUES(99, 1)" };
    await assert.rejects(sql.execute({ database: "t_to", statement: dangling }), /FOREIGN KEY/);
  }));

Deno.test("a dump that is cut, forged or would do anything but fill is refused and leaves no database", () =>
  withClients(async ({ databases, backups }) => {
    const header = { part: { case: "header", value: { format: 1 } } } as DumpPart;
    const footer = (statements: number, keys = 0) =>
      ({ part: { case: "footer", value: { statements: BigInt(statements), keys: BigInt(keys) } } }) as DumpPart;
    const says = (value: string) => ({ part: { case: "statement", value } }) as DumpPart;
    const table = says("CREATE TABLE t(a INTEGER PRIMARY KEY, b REFERENCES t(a))");
    const rowsOf = (name: string) =>
      ({ part: { case: "rows", value: { table: name, columns: [], rows: [] } } }) as unknown as DumpPart;
    const hostile: readonly (readonly [string, readonly DumpPart[]])[] = [
      ["invalid_field", []],
      ["dump_damaged", [table]],
      ["dump_damaged", [header, table]],
      ["dump_damaged", [header, table, footer(2)]],
      ["dump_damaged", [header, table, footer(1), table]],
      ["dump_damaged", [{ part: { case: "header", value: { format: 2 } } } as DumpPart]],
      ["dump_damaged", [header, rowsOf("_uc_dedupe"), footer(0)]],
      ["dump_damaged", [header, table, says("INSERT INTO t VALUES(1, 77)"), footer(2)]],
      ["dump_statement", [header, table, says("DELETE FROM t"), footer(2)]],
      ["dump_statement", [header, table, says("INSERT INTO t SELECT 1, 1"), footer(2)]],
      ["dump_statement", [header, says("CREATE TABLE x AS SELECT 1"), footer(1)]],
      ["dump_statement", [header, says("PRAGMA table_info(t)"), footer(1)]],
      ["sql_refused", [header, says("ATTACH 'x' AS y"), footer(1)]],
      ["sql_refused", [header, says("CREATE TABLE _uc_mine(a)"), footer(1)]],
      ["sql_error", [header, table, says("INSERT INTO t VALUES(1, 1), (1, 1)"), footer(2)]],
    ];
    for (const [i, [code, parts]] of hostile.entries()) {
      await assert.rejects(backups.load(load("t_bad", parts)), (error) => {
        assert.equal(toFault(error).code, code, `dump ${i}: ${error}`);
        return true;
      });
      assert.deepEqual((await databases.listDatabases({})).databases, [], `dump ${i}`);
    }
  }));
