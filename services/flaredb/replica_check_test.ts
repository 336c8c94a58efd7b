import assert from "node:assert/strict";
import { DatabaseService, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import { openDatabase } from "@ultracloud/sqlite";
import { makeMembers, startReplica, until } from "./_replicas.ts";

Deno.test("replicas compare their content at one index; the one that differs stops serving the database", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await using all = new AsyncDisposableStack();
    const members = makeMembers(3);
    const start = async (id: number) => all.use(await startReplica({ dir: `${dir}/${id}`, memberId: id, members }));
    const replicas = await Promise.all(members.map(({ id }) => start(id)));
    using stack = new DisposableStack();
    const at = (urls: string[]) => ({ endpoints: urls, authorization: () => "Bearer test", timeoutMs: 20_000 });
    const urls = members.map((member) => member.clientUrl);
    const databases = stack.use(createRpcClient(DatabaseService, at(urls)));
    const sql = stack.use(createRpcClient(SqlService, at(urls)));
    const name = "t_checked";
    const settles = (work: () => Promise<unknown>) => () => work().then(() => true, () => false);
    await until("the database", settles(() => databases.createDatabase({ name, ifNotExists: true })));
    const run = (text: string) => sql.execute({ database: name, statement: { sql: text } });
    await until(
      "a table",
      settles(() => run("CREATE TABLE IF NOT EXISTS t(a DEFAULT (random()), b DEFAULT CURRENT_TIMESTAMP)")),
    );
    await until("rows", settles(() => run("INSERT INTO t DEFAULT VALUES")));
    let check = { index: 0n, sha256: "" };
    const checked = async () => check = await databases.checkReplicas({ name });
    await until("a check", settles(checked));
    const statuses = () =>
      Promise.all(replicas.map(async ({ url }) => {
        using own = createRpcClient(DatabaseService, { ...at([url]), retries: 0 });
        return (await own.status({})).groups.find((group) => group.database === name)!;
      }));
    await until(
      "all replicas to have checked",
      async () => (await statuses()).every((s) => s.checkedIndex === check.index),
    );
    assert.deepEqual(
      (await statuses()).map((s) => [s.checkedSha256, s.diverged]),
      Array(3).fill([check.sha256, false]),
    );

    // Somebody's hand, or a broken disk, on one follower.
    const leader = (await statuses())[0]!.leader;
    const victim = members.find(({ id }) => BigInt(id) !== leader)!.id;
    const files = [...Deno.readDirSync(`${dir}/${victim}/databases`)].map((entry) => entry.name);
    {
      using db = openDatabase(`${dir}/${victim}/databases/${files.find((file) => file.endsWith(".db"))}`);
      db.run("UPDATE t SET a = 0");
    }
    await until("another check", settles(checked));
    await until("the victim to know", async () => (await statuses())[victim - 1]!.diverged);
    using own = createRpcClient(SqlService, { ...at([replicas[victim - 1]!.url]), retries: 0 });
    await assert.rejects(own.query({ database: name, statement: { sql: "SELECT * FROM t" } }), (error) => {
      assert.equal(toFault(error).code, "database_diverged");
      return true;
    });
    assert.deepEqual((await statuses()).filter((s) => s.diverged).length, 1);
    await until("a write of the others", settles(() => run("INSERT INTO t DEFAULT VALUES")));
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
