import assert from "node:assert/strict";
import { FileMachine, ListMachine, ReplicaCluster, until } from "./_cluster_test_support.ts";

const votersOf = (cluster: ReplicaCluster, id: number) => cluster.get(id).group.status().configuration.voters;

Deno.test("a group grows from one to three by learners that catch up and are promoted", async () => {
  await using cluster = await ReplicaCluster.create();
  await cluster.found([1]);
  for (let i = 0; i < 10; i++) await cluster.propose(`a${i}`);
  const { group } = cluster.get(1);
  for (const id of [2, 3]) {
    await cluster.start(id, { join: true });
    await group.changeConfiguration({ steps: [{ type: "add_learner", id }] });
    await until("the learner", () => cluster.get(id).machine.items.length === 10);
    await until("its progress", () => group.status().progress!.get(id)!.match === group.status().lastIndex);
    const { configuration } = await group.changeConfiguration({ steps: [{ type: "add_voter", id }] });
    assert.ok(configuration.voters.includes(id));
  }
  const { progress } = group.status();
  assert.deepEqual([...progress!.keys()], [2, 3]);
  for (const peer of progress!.values()) assert.ok(peer.recentlyActive && peer.match < peer.next);
  await cluster.propose("b");
  await until("everybody", () => cluster.live.every(({ machine }) => machine.items.length === 11));
  assert.equal(cluster.get(2).group.status().progress, undefined);
});

Deno.test("the leader is removed and another one leads without it", async () => {
  await using cluster = await ReplicaCluster.create();
  await cluster.found([1, 2, 3]);
  await cluster.propose("a");
  const { id, group } = await cluster.settledLeader();
  const told: number[][] = [];
  group.onConfigurationChange(({ voters }) => told.push([...voters]));
  const { configuration } = await group.changeConfiguration({ steps: [{ type: "remove", id }] });
  assert.ok(!configuration.voters.includes(id));
  assert.deepEqual(told, [configuration.voters]);
  await until("its step down", () => group.status().role === "follower");
  await assert.rejects(group.changeConfiguration({ steps: [] }), { code: "not_leader" });
  await cluster.stop(id);
  await cluster.propose("b");
  await until("both", () => cluster.live.every(({ machine }) => machine.items.join() === "a,b"));
});

Deno.test("a dead member is replaced in one joint step", async () => {
  await using cluster = await ReplicaCluster.create();
  await cluster.found([1, 2, 3]);
  await cluster.propose("a");
  const leader = await cluster.settledLeader();
  const gone = [1, 2, 3].find((id) => id !== leader.id)!;
  await cluster.stop(gone);
  leader.transport.removePeer(gone);
  await cluster.start(4, { join: true });
  const { configuration } = await leader.group.changeConfiguration({
    steps: [{ type: "remove", id: gone }, { type: "add_voter", id: 4 }],
  });
  assert.deepEqual([configuration.votersOutgoing, configuration.voters.includes(4)], [[], true]);
  await cluster.propose("b");
  await until("the newcomer", () => cluster.get(4).machine.items.join() === "a,b");
  await until("its vote", () => votersOf(cluster, 4).includes(4));
});

Deno.test("a change is refused where it may not be made, with the reason", async () => {
  await using cluster = await ReplicaCluster.create();
  await cluster.found([1, 2, 3]);
  await cluster.propose("a");
  const leader = await cluster.settledLeader();
  const [follower, other] = cluster.live.filter(({ id }) => id !== leader.id);
  const change = { steps: [{ type: "remove", id: follower!.id }] } as const;
  await assert.rejects(follower!.group.changeConfiguration(change), { code: "not_leader" });
  await assert.rejects(leader.group.changeConfiguration({ leave: true }), {
    kind: "failed_precondition",
    code: "not_joint",
  });
  await cluster.stop(other!.id);
  await until("its silence", () => !leader.group.status().progress!.get(other!.id)!.recentlyActive);
  await assert.rejects(leader.group.changeConfiguration(change), {
    kind: "failed_precondition",
    code: "unsafe_change",
    message: /only 1 of the 2 voters it leaves are in touch: wanted 2/,
  });
});

Deno.test("a replica that was stopped finds the configuration of its log again", async () => {
  await using cluster = await ReplicaCluster.create();
  await cluster.found([1, 2, 3]);
  await cluster.propose("first");
  const leader = await cluster.settledLeader();
  const gone = leader.id === 3 ? 2 : 3;
  await leader.group.changeConfiguration({ steps: [{ type: "remove", id: gone }] });
  const stays = [1, 2, 3].filter((id) => id !== gone);
  await cluster.propose("a");
  for (const id of stays) await cluster.stop(id);
  for (const id of stays) await cluster.start(id, { voters: [1, 2, 3] });
  await cluster.propose("b");
  for (const id of stays) await until("the voters", () => votersOf(cluster, id).join() === stays.join());
});

for (const [how, make] of [["bytes", () => new ListMachine()], ["a file", () => new FileMachine()]] as const) {
  Deno.test(`a learner behind the cut of the log catches up by a snapshot through ${how} while writes go on`, async () => {
    await using cluster = await ReplicaCluster.create({ retainedEntries: 0 }, make);
    await cluster.found([1]);
    const { group, machine } = cluster.get(1);
    for (let i = 0; i < 50; i++) await cluster.propose(`a${i}`);
    machine.checkpoint = () => machine.applied;
    group.checkpoint();
    await until("the cut", () => group.driver.status().firstIndex > 50);
    let writing = true, written = 50;
    const writer = (async () => {
      while (writing) {
        await cluster.propose(`b${written++}`);
        if (written % 10 === 0) group.checkpoint();
      }
    })();
    const learner = await cluster.start(2, { join: true });
    await group.changeConfiguration({ steps: [{ type: "add_learner", id: 2 }] });
    await until("the learner's progress", () => group.status().progress!.get(2)!.state === "replicate");
    await until("the learner", () => learner.machine.items.length >= 60);
    writing = false;
    await writer;
    await cluster.settledLeader();
    await group.changeConfiguration({ steps: [{ type: "add_voter", id: 2 }] });
    await until("the same state", () => learner.machine.items.length === written);
    assert.deepEqual(learner.machine.items, machine.items);
    assert.ok(learner.machine.restores >= 1);
    await until("its vote", () => votersOf(cluster, 2).join() === "1,2");
  });
}

Deno.test("a learner that keeps up is promoted by itself where the option says so", async () => {
  await using cluster = await ReplicaCluster.create({ promotionLagMax: 10 });
  await cluster.found([1]);
  await cluster.propose("a");
  await cluster.start(2, { join: true });
  await cluster.get(1).group.changeConfiguration({ steps: [{ type: "add_learner", id: 2 }] });
  await until("its vote", () => votersOf(cluster, 2).join() === "1,2");
});
