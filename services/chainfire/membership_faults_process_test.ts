import { Fault } from "@ultracloud/base";
import assert from "node:assert/strict";
import { b, eventually, patiently, text } from "./_test_support.ts";
import { prepareCluster, type TestCluster } from "./test_cluster.ts";

/** Elections quick enough for a test, slow enough that a refused change is tried for two seconds. */
const slow = { tickMs: 20, electionTicks: 50, heartbeatTicks: 5 };

async function members(cluster: TestCluster, id: number) {
  return (await cluster.clients(id).cluster.memberList({})).members.map((member) => ({
    ...member,
    id: Number(member.id),
  }));
}

/** Who leads once the members that run have noticed that the leader is gone. */
async function otherLeader(cluster: TestCluster, gone: number): Promise<number> {
  await eventually(async () => await cluster.leader(60_000) !== gone, "the others must elect a leader", 60_000);
  return await cluster.leader(60_000);
}

/** As a configuration names them. */
async function join(cluster: TestCluster, id: number, leader: number): Promise<void> {
  const all = await members(cluster, leader);
  await cluster.join(id, all.map(({ id, name, peerUrl, clientUrl }) => ({ id, name, peerUrl, clientUrl })));
}

Deno.test("a leader killed between writing a new member down and changing the configuration leaves nothing behind", async () => {
  await using cluster = await prepareCluster(3, slow, { spares: 1 });
  await cluster.startAll();
  const leader = await cluster.leader(30_000);
  const [down, other] = cluster.running().filter((id) => id !== leader);
  const at = cluster.clients(leader);
  // The first entries: the founding one, the leader's own, three founders. A fourth voter will leave two of four in touch.
  await eventually(async () => (await at.cluster.status({})).appliedIndex >= 5n);
  await patiently(() => at.kv.put({ key: b("k"), value: b("before") }));
  await cluster.kill(down!);
  await eventually(async () =>
    (await at.cluster.status({})).progress.some((peer) => peer.memberId === BigInt(down!) && !peer.recentlyActive)
  );
  const spare = cluster.spare();
  const { appliedIndex } = await at.cluster.status({});
  const adding = at.cluster.memberAdd(spare, { timeoutMs: 20_000 }).then(() => "added", (error) => error);
  // The row is in the log and applied, the configuration waits for the third voter: that is the moment.
  await eventually(async () => (await at.cluster.status({})).appliedIndex > appliedIndex);
  assert.deepEqual((await members(cluster, other!).catch(() => [])).length, 3);
  await cluster.kill(leader);
  const outcome = await adding;
  assert.ok(outcome instanceof Fault && outcome.kind === "unavailable", String(outcome));
  await cluster.start(down!);
  const next = await otherLeader(cluster, leader);
  // The same again goes through at once: neither name nor address is taken. The id is another one.
  await cluster.start(leader);
  const { member } = await patiently(() => cluster.clients(next).cluster.memberAdd(spare, { timeoutMs: 20_000 }));
  assert.deepEqual([member!.name, Number(member!.id)], [spare.name, 5]);
  assert.deepEqual((await members(cluster, next)).map(({ id }) => id), [1, 2, 3, 5]);
  await join(cluster, 5, next);
  const { kv } = cluster.clients(5);
  assert.equal(text((await patiently(() => kv.range({ key: b("k") }))).kvs[0]!.value), "before");
});

Deno.test("a learner that was added so gets its vote by itself, also under a leader that came later", async () => {
  await using cluster = await prepareCluster(3, slow, { spares: 2 });
  await cluster.startAll();
  const first = await cluster.leader(30_000);
  const { member } = await patiently(() =>
    cluster.clients(first).cluster.memberAdd({ ...cluster.spare(), autoPromote: true })
  );
  const id = Number(member!.id);
  assert.deepEqual([member!.isLearner, member!.autoPromote], [true, true]);
  assert.deepEqual((await members(cluster, first)).filter(({ autoPromote }) => autoPromote).map((one) => one.id), [id]);
  await cluster.kill(first);
  const second = await otherLeader(cluster, first);
  await join(cluster, id, second);
  await eventually(
    async () => (await members(cluster, second)).some((one) => one.id === id && !one.isLearner && !one.autoPromote),
    "the next leader must promote it",
    60_000,
  );
  await cluster.start(first);
  const plain = await patiently(async () =>
    cluster.clients(await cluster.leader(30_000)).cluster.memberAdd({ ...cluster.spare(), isLearner: true })
  );
  // Nobody wished it for this one: it has everything, many ticks long, and stays what it is.
  const stays = Number(plain.member!.id);
  await join(cluster, stays, await cluster.leader(30_000));
  for (let i = 0; i < 50; i++) {
    const { kv, cluster: leader } = cluster.clients(await cluster.leader(30_000));
    await patiently(() => kv.put({ key: b("x") }));
    const { appliedIndex } = await leader.status({});
    await eventually(async () => (await cluster.clients(stays).cluster.status({})).appliedIndex >= appliedIndex);
  }
  assert.equal((await cluster.clients(stays).cluster.status({})).isLearner, true);
});
