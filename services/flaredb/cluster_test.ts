import assert from "node:assert/strict";
import { DatabaseService, KvService, Level } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { makeMembers, type Replica, startReplica, until } from "./_replicas.ts";

const utf8 = new TextEncoder();

Deno.test("three replicas hold the same databases, and go on when one of them is gone", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await using all = new AsyncDisposableStack();
    const members = makeMembers(3);
    const replicas = await Promise.all(
      members.map(async ({ id }) => all.use(await startReplica({ dir: `${dir}/${id}`, memberId: id, members }))),
    );
    const endpoints = members.map((member) => member.clientUrl);
    using clients = new DisposableStack();
    const at = (urls: readonly string[]) => ({
      endpoints: urls,
      authorization: () => "Bearer test",
      timeoutMs: 10_000,
    });
    const databases = clients.use(createRpcClient(DatabaseService, at(endpoints)));
    const kv = clients.use(createRpcClient(KvService, at(endpoints)));
    const database = "t_shared";
    await until(
      "the database",
      () => databases.createDatabase({ name: database, ifNotExists: true }).then(() => true, () => false),
    );
    const put = (key: string) =>
      kv.put({ database, bucket: "b", key, value: utf8.encode(key) }).then(() => true, () => false);
    for (let i = 0; i < 20; i++) await until("a write", () => put(`k${i}`));
    const stale = { level: Level.STALE, maxAgeMs: 5_000n };
    for (const { url } of replicas) {
      const local = clients.use(createRpcClient(KvService, { ...at([url]), retries: 0 }));
      await until("the replica to catch up", async () => {
        const answer = await local.scan({ database, bucket: "b", read: stale }).catch(() => undefined);
        return answer?.items.length === 20;
      });
    }
    // Whoever is asked to hand the leader over, and wherever it is.
    for (const { id } of members) {
      const asked = clients.use(createRpcClient(DatabaseService, at([members[id % 3]!.clientUrl, ...endpoints])));
      await until(`leader ${id}`, async () => {
        await asked.transferLeader({ name: database, member: BigInt(id) }).catch(() => {});
        return await leaderOf(replicas, database) === id;
      });
    }
    const leader = await leaderOf(replicas, database);
    await replicas[leader - 1]![Symbol.asyncDispose]();
    await until("a write after the failure", () => put("after"));
    let count = 0;
    await until("a read after the failure", async () => {
      count = (await kv.scan({ database, bucket: "b" }).catch(() => undefined))?.items.length ?? 0;
      return count > 0;
    });
    assert.equal(count, 21);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

/** Id of the member that leads the database. */
async function leaderOf(replicas: readonly Replica[], database: string): Promise<number> {
  let leader = 0;
  await until("a leader", async () => {
    using client = createRpcClient(DatabaseService, {
      endpoints: [replicas[0]!.url],
      authorization: () => "Bearer test",
    });
    const { groups } = await client.status({});
    leader = Number(groups.find((group) => group.database === database)?.leader ?? 0n);
    return leader !== 0;
  });
  return leader;
}
