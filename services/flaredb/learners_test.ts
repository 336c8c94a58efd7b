import assert from "node:assert/strict";
import { DatabaseService, KvService, Level, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import { makeMembers, startReplica, until } from "./_replicas.ts";

const utf8 = new TextEncoder();

Deno.test("a learner serves reads and never votes; it can be made a voter, and a voter a learner", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await using all = new AsyncDisposableStack();
    const members = makeMembers(4);
    await Promise.all(
      members.map(async ({ id }) => all.use(await startReplica({ dir: `${dir}/${id}`, memberId: id, members }))),
    );
    using clients = new DisposableStack();
    const at = (...ids: number[]) => {
      const endpoints = ids.map((id) => members[id - 1]!.clientUrl);
      const options = { endpoints, authorization: () => "Bearer test", timeoutMs: 5_000 };
      return {
        databases: clients.use(createRpcClient(DatabaseService, options)),
        kv: clients.use(createRpcClient(KvService, options)),
        sql: clients.use(createRpcClient(SqlService, options)),
        alone: clients.use(createRpcClient(KvService, { ...options, retries: 0 })),
      };
    };
    const database = "t_read";
    const everyone = at(1, 2, 3, 4), fourth = at(4);
    const holders = async () => {
      const found = await everyone.databases.getDatabase({ name: database });
      return found.placed ? `${found.replicas} ${found.learners}` : "moving";
    };
    const voters = [1n, 2n, 3n];
    await until(
      "the database",
      () =>
        everyone.databases.createDatabase({ name: database, ifNotExists: true, replicas: voters, learners: [4n] })
          .then(() => true, () => false),
    );
    await until("the learner", async () => await holders().catch(() => "") === "1,2,3 4");
    const put = (key: string, to = everyone) =>
      until(
        key,
        () => to.kv.put({ database, bucket: "b", key, value: utf8.encode(key) }).then(() => true, () => false),
      );
    await put("k1");
    const eachMember = [1, 2, 3, 4].map((id) => at(id).databases);
    const group = async (id: number) => {
      const { groups } = await eachMember[id - 1]!.status({});
      return groups.find((each) => each.database === database);
    };
    await until("all to know the learner", async () => (await group(1))?.learners.join() === "4");
    // Linearizable by itself, and as of what it has.
    const read = { level: Level.STALE, maxAgeMs: 5_000n };
    await until("a linearizable read", async () => {
      const { item } = await fourth.alone.get({ database, bucket: "b", key: "k1" }).catch(() => ({ item: undefined }));
      return item !== undefined;
    });
    await until(
      "a stale read",
      () =>
        fourth.alone.get({ database, bucket: "b", key: "k1", read }).then(
          ({ item }) => item !== undefined,
          () => false,
        ),
    );
    // What is written there is forwarded to the leader.
    await put("k2", fourth);
    await until("lasting", async () => (await group(4))?.leader !== 4n);

    const wrong = [{ replicas: [1n, 2n], learners: [2n] }, { replicas: [1n], learners: [9n] }, {
      replicas: [1n],
      learners: [3n, 3n],
    }];
    for (const place of wrong) {
      await assert.rejects(everyone.databases.placeDatabase({ name: database, ...place }), (error) => {
        assert.equal(toFault(error).code, "invalid_field", String(error));
        return true;
      });
    }
    await until("the place to be the same", async () => await holders().catch(() => "") === "1,2,3 4");

    const place = (replicas: bigint[], learners: bigint[]) =>
      until(
        "the request",
        () => everyone.databases.placeDatabase({ name: database, replicas, learners }).then(() => true, () => false),
      );
    await place([2n, 3n, 4n], [1n]);
    await until("the exchange", async () => await holders().catch(() => "") === "2,3,4 1");
    await put("k3");
    await until("the new voter", async () => (await group(4))?.voters.includes(4n) ?? false);
    await until("the new learner", async () => (await group(1))?.learners.join() === "1");
    await place([2n, 3n, 4n], []);
    await until("the learner to go", async () => await group(1) === undefined);
    await put("k4");
    let keys: string[] = [];
    await until("all keys", async () => {
      const page = await everyone.kv.scan({ database, bucket: "b" }).catch(() => undefined);
      keys = page?.items.map(({ key }) => key) ?? [];
      return page !== undefined;
    });
    assert.deepEqual(keys, ["k1", "k2", "k3", "k4"]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
