import assert from "node:assert/strict";
import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import { DatabaseService, KvService, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import { startTestStack } from "@ultracloud/testing";

const utf8 = new TextEncoder();

/** Clients of the running component as the operator. */
async function connect(url: string, keyFile: string, stack: DisposableStack) {
  const signer = await createWorkloadSigner({ clusterId: "test", name: "operator", keyFile }, { clock: systemClock });
  const at = { endpoints: [url], authorization: signer.authorization("flaredb"), timeoutMs: 10_000 };
  return {
    databases: stack.use(createRpcClient(DatabaseService, at)),
    kv: stack.use(createRpcClient(KvService, at)),
    sql: stack.use(createRpcClient(SqlService, at)),
    authorization: signer.authorization("flaredb"),
  };
}

Deno.test("flaredb under its own permissions loses no acknowledged write when it is killed", async () => {
  await using test = await startTestStack({ components: ["flaredb"] });
  const { stack } = test;
  const url = stack.endpoint("flaredb");
  using clients = new DisposableStack();
  const { databases, kv, sql } = await connect(url, stack.operatorKeyFile, clients);
  const database = "t_bank";
  await databases.createDatabase({ name: database });
  await sql.execute({ database, statement: { sql: "CREATE TABLE entry(id INTEGER PRIMARY KEY, text TEXT)" } });

  const acknowledged: number[] = [];
  const rows: number[] = [];
  let next = 0;
  const writer = async () => {
    for (;;) {
      const i = next++;
      try {
        if (i % 4 === 0) {
          await sql.execute({
            database,
            statement: {
              sql: "INSERT INTO entry(id, text) VALUES(?, 'x')",
              positional: [{ kind: { case: "integer", value: BigInt(i) } }],
            },
          });
          rows.push(i);
        } else {
          await kv.put({ database, bucket: "b", key: `k${i}`, value: utf8.encode(String(i)) });
          acknowledged.push(i);
        }
      } catch {
        return;
      }
    }
  };
  const writers = Array.from({ length: 8 }, writer);
  while (acknowledged.length < 300) await systemClock.sleep(5);
  await stack.process("flaredb")!.kill();
  await Promise.all(writers);

  await stack.startAll({ timeoutMs: 60_000 });
  const { items } = await kv.scan({ database, bucket: "b", limit: 10_000 });
  const held = new Set(items.map((item) => item.key));
  assert.deepEqual(acknowledged.filter((i) => !held.has(`k${i}`)), []);
  const { result } = await sql.query({ database, statement: { sql: "SELECT id FROM entry" } });
  const ids = new Set(result!.rows.map((row) => Number(row.values[0]!.kind.value)));
  assert.deepEqual(rows.filter((i) => !ids.has(i)), []);
  assert.ok(rows.length > 0);
});

Deno.test("a database whose creation was answered is there after a kill, and one cut off half way can be created", async () => {
  await using test = await startTestStack({ components: ["flaredb"] });
  const { stack } = test;
  using clients = new DisposableStack();
  const { databases, kv } = await connect(stack.endpoint("flaredb"), stack.operatorKeyFile, clients);
  const answered: string[] = [];
  const creating = Array.from({ length: 20 }, (_, i) => {
    const name = `t_db${i}`;
    return databases.createDatabase({ name }).then(() => answered.push(name), () => {});
  });
  await Promise.any(creating);
  await stack.process("flaredb")!.kill();
  await Promise.all(creating);
  await stack.startAll({ timeoutMs: 60_000 });
  const { databases: listed } = await databases.listDatabases({});
  const names = new Set(listed.map((database) => database.name));
  assert.deepEqual(answered.filter((name) => !names.has(name)), []);
  for (let i = 0; i < 20; i++) {
    const database = `t_db${i}`;
    await databases.createDatabase({ name: database, ifNotExists: true });
    await kv.put({ database, bucket: "b", key: "k", value: utf8.encode("v") });
  }
});

Deno.test("flaredb refuses callers without a token, on RPC and on REST alike", async () => {
  await using test = await startTestStack({ components: ["flaredb"] });
  const { stack } = test;
  const url = stack.endpoint("flaredb");
  using clients = new DisposableStack();
  const { databases, authorization } = await connect(url, stack.operatorKeyFile, clients);
  await databases.createDatabase({ name: "t_a" });
  using nobody = createRpcClient(KvService, { endpoints: [url] });
  await assert.rejects(nobody.get({ database: "t_a", bucket: "b", key: "k" }), (error) => {
    assert.equal(toFault(error).kind, "unauthenticated");
    return true;
  });
  const refused = await fetch(`${url}/api/v1/kv/b/k?database=t_a`);
  assert.equal(refused.status, 401);
  assert.equal((await refused.json()).code, "unauthenticated");

  const headers = { authorization: await authorization() };
  const put = await fetch(`${url}/api/v1/kv/b/a/key?database=t_a`, { method: "PUT", headers, body: "value" });
  assert.equal(put.status, 200);
  await put.body?.cancel();
  const got = await fetch(`${url}/api/v1/kv/b/a/key?database=t_a`, { headers });
  assert.equal(await got.text(), "value");
  const sql = await fetch(`${url}/api/v1/sql`, {
    method: "POST",
    headers,
    body: JSON.stringify({
      database: "t_a",
      sql: "SELECT ? AS n, 2.0 AS r",
      params: [{ integer: "9007199254740993" }],
    }),
  });
  const answer = await sql.json();
  assert.deepEqual(answer.results[0].rows, [[{ integer: "9007199254740993" }, { real: 2 }]]);
});
