import assert from "node:assert/strict";
import { toFault } from "@ultracloud/rpc";
import { database, found, judge, leaderOf, Load, until } from "./test_load.ts";
import { startMembers } from "./test_members.ts";

Deno.test("partitions while replicas move and leaders are handed over lose no answered write and double none", async () => {
  await using members = await startMembers(4);
  using stack = new DisposableStack();
  const clients = members.clients(stack);
  await found(clients);
  const load = new Load(clients, 6);
  await load.more(50);

  // The leader on the smaller side: the others elect another, and what it is asked alone cannot be answered.
  const leader = await leaderOf(members);
  members.relays.isolate([leader]);
  await load.more(100);
  {
    using own = new DisposableStack();
    const alone = members.clients(own, [members.urls[leader - 1]!]);
    await assert.rejects(
      alone.sql.query({ database, statement: { sql: "SELECT count(*) FROM entry" } }, { timeoutMs: 2_000 }),
      (error) => ["unavailable", "deadline_exceeded"].includes(toFault(error).kind),
    );
  }
  // Meanwhile it is to go, and the member that is new is to come.
  const wanted = [1, 2, 3, 4].filter((id) => id !== leader);
  const databases = members.clients(stack, wanted.map((id) => members.urls[id - 1]!)).databases;
  await until("the request to move", async () => {
    await databases.placeDatabase({ name: database, replicas: wanted.map(BigInt) });
    return true;
  });
  await load.more(50);
  members.relays.heal();
  await until("the move", async () => {
    const { replicas, placed } = await clients.databases.getDatabase({ name: database });
    return placed && replicas.map(Number).sort().join() === wanted.join();
  });

  // Leadership goes round, and each time the new leader is cut off at once.
  for (const to of wanted) {
    await until(`leader ${to}`, async () => {
      await databases.transferLeader({ name: database, member: BigInt(to) }).catch(() => {});
      return await leaderOf(members) === to;
    });
    members.relays.isolate([to]);
    await load.more(30);
    members.relays.heal();
    await load.more(30);
  }
  await load.stop();
  assert.ok(load.retried > 0, "no request was ever repeated");
  await judge(members, clients, load);
});
