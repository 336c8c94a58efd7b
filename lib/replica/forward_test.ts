import assert from "node:assert/strict";
import { Fault, utf8 } from "@ultracloud/base";
import { ReplicaCluster, until } from "./_cluster_test_support.ts";

Deno.test("a follower forwards to its leader and answers with the result the entry has here", async () => {
  await using cluster = await ReplicaCluster.create();
  await cluster.found([1, 2, 3]);
  const leader = await cluster.settledLeader();
  const follower = cluster.live.find(({ id }) => id !== leader.id)!;
  const results = await Promise.all(
    Array.from({ length: 200 }, (_, i) => follower.group.propose(utf8.encode(`x${i}`), { forward: true })),
  );
  // The machine answers with its length after the entry.
  assert.deepEqual(
    results.map((n) => follower.machine.items[(n as number) - 1]).sort(),
    [...follower.machine.items].sort(),
  );
  assert.equal(new Set(follower.machine.items).size, 200);
  await until("the leader", () => leader.machine.items.length === 200);
  await assert.rejects(follower.group.propose(utf8.encode("no")), { code: "not_leader" });
});

Deno.test("a learner forwards, and reads what was acknowledged before", async () => {
  await using cluster = await ReplicaCluster.create();
  await cluster.found([1]);
  await cluster.propose("a");
  const learner = await cluster.start(2, { join: true });
  await cluster.get(1).group.changeConfiguration({ steps: [{ type: "add_learner", id: 2 }] });
  await until("the learner", () => learner.group.status().leader === 1);
  for (let i = 0; i < 20; i++) {
    await cluster.propose(`b${i}`);
    await learner.group.readBarrier();
    assert.equal(learner.machine.items.length, 2 * i + 2);
    assert.equal(await learner.group.propose(utf8.encode(`c${i}`), { forward: true }), 2 * i + 3);
  }
});

Deno.test("proposals that are forwarded while leaders fall take effect once, never, or say that nobody knows", async () => {
  await using cluster = await ReplicaCluster.create();
  await cluster.found([1, 2, 3]);
  const outcomes = new Map<string, "done" | "refused" | "unknown">();
  let writing = true;
  const writer = async (id: number) => {
    for (let i = 0; writing; i++) {
      const text = `${id}-${i}`;
      try {
        await cluster.get(id).group.propose(utf8.encode(text), { forward: true });
        outcomes.set(text, "done");
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        outcomes.set(text, error.code === "outcome_unknown" || error.code === "stopping" ? "unknown" : "refused");
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
  };
  const writers = [1, 2, 3].map(writer);
  for (let i = 0; i < 4; i++) {
    const leader = await cluster.leader();
    const { term } = leader.group.status();
    const before = outcomes.size;
    const heir = cluster.live.find(({ id }) => id !== leader.id)!;
    leader.group.transferLeader(heir.id);
    await until("another leader", () => cluster.live.some(({ group }) => group.status().term > term));
    await until("more writes", () => outcomes.size > before + 50);
  }
  writing = false;
  await Promise.all(writers);
  await cluster.propose("end");
  await until("everybody", () => cluster.live.every(({ machine }) => machine.items.at(-1) === "end"));
  const { items } = cluster.get(1).machine;
  assert.equal(new Set(items).size, items.length, "nothing twice");
  const count = { done: 0, refused: 0, unknown: 0 };
  for (const [text, outcome] of outcomes) {
    count[outcome]++;
    if (outcome !== "unknown") assert.equal(items.includes(text), outcome === "done", `${text} was ${outcome}`);
  }
  assert.ok(count.done > 0, JSON.stringify(count));
});
