import assert from "node:assert/strict";
import { svcId } from "@ultracloud/authz";
import { DatabaseService, KvService, Level, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, permissionsAsked, toFault } from "@ultracloud/rpc";
import { type Replica, startReplica, until } from "./_replicas.ts";

const utf8 = new TextEncoder();
const refusedAs = (code: string) => (error: unknown) => {
  assert.equal(toFault(error).code, code);
  return true;
};

async function inTempDir(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    await work(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function clientsOf({ url }: Replica, stack: DisposableStack) {
  const at = { endpoints: [url], authorization: () => "Bearer test" };
  return {
    databases: stack.use(createRpcClient(DatabaseService, at)),
    kv: stack.use(createRpcClient(KvService, at)),
    sql: stack.use(createRpcClient(SqlService, at)),
  };
}

const filesOf = (dir: string) => [...Deno.readDirSync(`${dir}/databases`)].map((entry) => entry.name).sort();

Deno.test("databases are created once, listed, kept over a restart and gone with their files when deleted", () =>
  inTempDir(async (dir) => {
    {
      await using replica = await startReplica({ dir });
      using stack = new DisposableStack();
      const { databases, kv } = clientsOf(replica, stack);
      const made = await databases.createDatabase({ name: "t_one" });
      await assert.rejects(databases.createDatabase({ name: "t_one" }), refusedAs("database_exists"));
      const again = await databases.createDatabase({ name: "t_one", ifNotExists: true });
      assert.deepEqual(again.createTime, made.createTime);
      await databases.createDatabase({ name: "t_two" });
      await kv.put({ database: "t_one", bucket: "b", key: "k", value: utf8.encode("v") });
      await assert.rejects(databases.createDatabase({ name: "other" }), refusedAs("invalid_database"));
      await assert.rejects(kv.get({ database: "t_none", bucket: "b", key: "k" }), refusedAs("database_not_found"));
    }
    await using replica = await startReplica({ dir });
    using stack = new DisposableStack();
    const { databases, kv } = clientsOf(replica, stack);
    await until("a leader", async () => (await databases.status({})).groups.every((group) => group.leader !== 0n));
    const { databases: listed } = await databases.listDatabases({});
    assert.deepEqual(listed.map((database) => database.name), ["t_one", "t_two"]);
    const { item } = await kv.get({ database: "t_one", bucket: "b", key: "k" });
    assert.deepEqual(item?.value, utf8.encode("v"));
    await databases.deleteDatabase({ name: "t_one" });
    await assert.rejects(kv.get({ database: "t_one", bucket: "b", key: "k" }), refusedAs("database_not_found"));
    assert.deepEqual(filesOf(dir).filter((name) => name.startsWith("t_one")), []);
    await databases.createDatabase({ name: "t_one" });
    const fresh = await kv.get({ database: "t_one", bucket: "b", key: "k" });
    assert.equal(fresh.item, undefined);
  }));

Deno.test("what is left of a deleted database after a kill is removed at the next start", () =>
  inTempDir(async (dir) => {
    const path = `${dir}/databases/t_gone.2.db`;
    {
      await using replica = await startReplica({ dir });
      using stack = new DisposableStack();
      const { databases } = clientsOf(replica, stack);
      await databases.createDatabase({ name: "t_gone" });
      assert.deepEqual(filesOf(dir).includes("t_gone.2.db"), true);
      await databases.deleteDatabase({ name: "t_gone" });
    }
    // As if the process had died between the commit and the removal.
    await Deno.writeFile(path, new Uint8Array());
    await using replica = await startReplica({ dir });
    assert.deepEqual(filesOf(dir), []);
    assert.ok(replica);
  }));

Deno.test("a watch tells every change in order, resumes by index and refuses what is not there", () =>
  inTempDir(async (dir) => {
    await using replica = await startReplica({ dir });
    using stack = new DisposableStack();
    const { databases, kv } = clientsOf(replica, stack);
    const database = "t_watch";
    await databases.createDatabase({ name: database });
    const put = (key: string, text: string) => kv.put({ database, bucket: "b", key, value: utf8.encode(text) });
    const { version: first } = await put("a/1", "one");
    const follow = async (afterIndex: bigint, count: number, act?: () => Promise<unknown>) => {
      const stop = new AbortController();
      const seen: string[] = [];
      try {
        for await (
          const { index, changes } of kv.watch({ database, bucket: "b", prefix: "a/", afterIndex }, {
            signal: stop.signal,
            timeoutMs: 0,
          })
        ) {
          if (changes.length === 0) await act?.();
          for (const { key, item } of changes) {
            seen.push(`${key}=${item ? new TextDecoder().decode(item.value) : ""}`);
            if (item) assert.ok(item.version <= index);
          }
          if (seen.length >= count) break;
        }
      } finally {
        stop.abort();
      }
      return seen;
    };
    const live = await follow(0n, 3, async () => {
      await put("a/2", "two");
      await put("b/1", "elsewhere");
      await kv.put({ database, bucket: "other", key: "a/9", value: utf8.encode("elsewhere") });
      await kv.batchWrite({
        database,
        writes: [
          { bucket: "b", key: "a/1", action: { case: "delete", value: true } },
          { bucket: "b", key: "a/3", action: { case: "put", value: utf8.encode("three") } },
        ],
      });
    });
    assert.deepEqual(live, ["a/2=two", "a/1=", "a/3=three"]);
    assert.deepEqual(await follow(first, 3), live);
    await assert.rejects(follow(first + 1_000n, 1), refusedAs("future_index"));
  }));

Deno.test("a key whose time is over goes by itself", () =>
  inTempDir(async (dir) => {
    await using replica = await startReplica({ dir });
    using stack = new DisposableStack();
    const { databases, kv } = clientsOf(replica, stack);
    await databases.createDatabase({ name: "t_ttl" });
    const at = { database: "t_ttl", bucket: "b", key: "k" };
    await kv.put({ ...at, value: utf8.encode("v"), ttlMs: 50n });
    assert.ok((await kv.get(at)).item?.expireTime);
    await until("the key to go", async () => (await kv.get(at)).item === undefined);
  }));

Deno.test("SQL answers typed rows, lists tables, and its failures name SQLite's code", () =>
  inTempDir(async (dir) => {
    await using replica = await startReplica({ dir });
    using stack = new DisposableStack();
    const { databases, sql } = clientsOf(replica, stack);
    const database = "t_sql";
    await databases.createDatabase({ name: database });
    const { results, index } = await sql.batch({
      database,
      statements: [
        { sql: "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT NOT NULL)" },
        { sql: "CREATE INDEX by_name ON t(name)" },
        {
          sql: "INSERT INTO t(name) VALUES(?), (:b)".replace(":b", "?"),
          positional: ["x", "y"].map((value) => ({ kind: { case: "text" as const, value } })),
        },
      ],
    });
    assert.equal(results[2]!.rowsAffected, 2n);
    const read = { level: Level.AT_INDEX, atIndex: index };
    const { result } = await sql.query({ database, statement: { sql: "SELECT id, name FROM t ORDER BY id" }, read });
    assert.deepEqual(result!.columns, ["id", "name"]);
    assert.deepEqual(result!.types, ["INTEGER", "TEXT"]);
    assert.deepEqual(result!.rows.map((row) => row.values.map((value) => value.kind.value)), [[1n, "x"], [2n, "y"]]);
    const { tables } = await sql.listTables({ database });
    assert.deepEqual(tables.map(({ name, indexes, rowCount }) => ({ name, indexes, rowCount })), [
      { name: "t", indexes: ["by_name"], rowCount: 2n },
    ]);
    const headers = { "idempotency-key": "once" };
    const insert = { database, statement: { sql: "INSERT INTO t(name) VALUES('z') RETURNING id" } };
    const once = await sql.execute(insert, { headers });
    assert.deepEqual((await sql.execute(insert, { headers })).result!.rows, once.result!.rows);
    await assert.rejects(
      sql.execute({ database, statement: { sql: "DELETE FROM t" } }, { headers }),
      refusedAs("idempotency_mismatch"),
    );
    await assert.rejects(sql.execute({ database, statement: { sql: "INSERT INTO t VALUES(1, 'again')" } }), (error) => {
      assert.equal(toFault(error).kind, "invalid_argument");
      assert.equal(toFault(error).detail.metadata?.sqlite_code, "1555");
      return true;
    });
    for (
      const [call, offset] of [
        [() => sql.query({ database, statement: { sql: "SELECT 'ü' FRM t" } }), "16"],
        [() => sql.execute({ database, statement: { sql: "UPDATE t SET nonsense = 1" } }), "13"],
      ] as const
    ) {
      await assert.rejects(async () => await call(), (error) => {
        assert.equal(toFault(error).code, "sql_error");
        assert.equal(toFault(error).detail.metadata?.sqlite_offset, offset, toFault(error).message);
        return true;
      });
    }
    const stale = { level: Level.STALE, maxAgeMs: 10_000n };
    const counted = await sql.query({ database, statement: { sql: "SELECT count(*) FROM t" }, read: stale });
    assert.equal(counted.result!.rows[0]!.values[0]!.kind.value, 3n);
  }));

Deno.test("a service may touch its own database and no other, and every call asks for a permission", () =>
  inTempDir(async (dir) => {
    const asked: string[] = [];
    const auth = {
      authenticator: { authenticate: () => ({ kind: "workload" as const, id: svcId("test", "iam") }) },
      authorizer: {
        authorize: (_: unknown, permission: string, scope: string) => {
          asked.push(`${permission}@${scope}`);
          return scope === "sys_iam" ? { allow: true as const } : { allow: false as const, visible: true, reason: "" };
        },
      },
    };
    await using replica = await startReplica({ dir }, auth);
    using stack = new DisposableStack();
    const { databases, kv } = clientsOf(replica, stack);
    await databases.createDatabase({ name: "sys_iam" });
    await kv.put({ database: "sys_iam", bucket: "b", key: "k" });
    await assert.rejects(kv.put({ database: "sys_prismnet", bucket: "b", key: "k" }), refusedAs("permission_denied"));
    const url = `${replica.url}/api/v1`;
    const rest = await fetch(`${url}/scan/b?database=sys_prismnet`);
    assert.equal(rest.status, 403);
    assert.equal((await rest.json()).code, "permission_denied");
    const listed = await fetch(`${url}/scan/b?database=sys_iam`);
    assert.deepEqual((await listed.json()).items.map((item: { key: string }) => item.key), ["k"]);
    assert.ok(asked.includes("flaredb.kv.list@sys_iam"));
    assert.equal(permissionsAsked("flaredb", replica.flaredb.services).includes("flaredb.kv.put"), true);
  }));
