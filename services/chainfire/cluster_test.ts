import { Fault, systemClock, utf8 } from "@ultracloud/base";
import { Consistency, KvEventType } from "@ultracloud/proto/chainfire/v1";
import assert from "node:assert/strict";
import { prepareCluster } from "./test_cluster.ts";

const b = utf8.encode;
const all = { key: new Uint8Array([0]), rangeEnd: new Uint8Array([0]) };
/** Quick elections: three processes share the machine with the tests. */
const quick = { tickMs: 20, electionTicks: 15, heartbeatTicks: 3 };

async function eventually(condition: () => Promise<boolean>, timeoutMs = 20_000): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!await condition()) {
    assert.ok(performance.now() < end, "the condition must hold in time");
    await systemClock.sleep(20);
  }
}

/** Tries until a leader answers: what a patient client does while one is elected. */
async function patiently<T>(work: () => Promise<T>, timeoutMs = 20_000): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Fault && error.kind === "unavailable") || performance.now() > end) throw error;
      await systemClock.sleep(20);
    }
  }
}

Deno.test("three members lose no acknowledged write when the leader is killed under load, twice", async () => {
  await using cluster = await prepareCluster(3, quick);
  await cluster.startAll();
  const { kv, leases } = cluster.clients();
  const { id } = await leases.leaseGrant({ ttlMs: 4_000n });
  await kv.put({ key: b("leased"), lease: id });
  const acknowledged: string[] = [];
  let done = false;
  const writer = async (name: number) => {
    for (let i = 0; !done; i++) {
      const key = `w${name}/${i}`;
      try {
        await kv.put({ key: b(key), value: b(key) });
        acknowledged.push(key);
      } catch (error) {
        assert.ok(error instanceof Fault, String(error));
        await systemClock.sleep(20);
      }
    }
  };
  const writers = Array.from({ length: 6 }, (_, i) => writer(i));
  const failovers: number[] = [];
  await using _writing = { [Symbol.asyncDispose]: () => (done = true, Promise.all(writers).then(() => {})) };
  for (let round = 0; round < 2; round++) {
    const before = acknowledged.length;
    await eventually(() => Promise.resolve(acknowledged.length > before + 200));
    const leader = await cluster.leader();
    await cluster.kill(leader);
    const killed = performance.now();
    await patiently(() => leases.leaseKeepAlive({ id }));
    failovers.push(performance.now() - killed);
    const after = acknowledged.length;
    await eventually(() => Promise.resolve(acknowledged.length > after + 100));
    await cluster.start(leader);
  }
  done = true;
  await Promise.all(writers);
  for (const member of [1, 2, 3]) {
    const { kvs } = await cluster.clients(member).kv.range({ ...all, limit: 1_000_000n, keysOnly: true });
    const held = new Set(kvs.map((item) => utf8.decode(item.key)));
    assert.deepEqual(acknowledged.filter((key) => !held.has(key)), [], `member ${member}`);
    assert.ok(held.has("leased"));
  }
  await eventually(async () => (await kv.range({ key: b("leased") })).count === 0n);
  assert.ok(Math.max(...failovers) < 10_000, `failovers took ${failovers.map(Math.round)} ms`);
});

Deno.test("leadership moves on request, a follower says who leads, and the minority refuses", async () => {
  await using cluster = await prepareCluster(3, quick);
  await cluster.startAll();
  const leader = await cluster.leader();
  const target = leader % 3 + 1;
  const { members } = await cluster.clients(target).cluster.memberList({});
  assert.deepEqual(members.map((member) => member.name), ["m1", "m2", "m3"]);
  await cluster.clients(leader).cluster.leaderTransfer({ target: BigInt(target) });
  await eventually(async () => await cluster.leader() === target);

  await assert.rejects(cluster.clients(leader).cluster.leaderTransfer({ target: 1n }), (error) => {
    assert.ok(error instanceof Fault);
    const url = members.find((member) => Number(member.id) === target)!.clientUrl;
    assert.deepEqual([error.code, error.detail.leaderHint], ["not_leader", url]);
    return true;
  });
  await assert.rejects(cluster.clients(target).cluster.leaderTransfer({ target: 9n }), { code: "bad_transferee" });

  const follower = target % 3 + 1;
  await cluster.clients(target).kv.put({ key: b("k"), value: b("1") });
  const read = await cluster.clients(follower).kv.range({ key: b("k") });
  assert.equal(read.count, 1n, "a follower reads what was acknowledged elsewhere");

  await cluster.kill(target);
  await cluster.kill(follower);
  const last = [1, 2, 3].find((id) => id !== target && id !== follower)!;
  await assert.rejects(cluster.clients(last).kv.put({ key: b("k"), value: b("2") }, { timeoutMs: 3_000 }), (error) => {
    assert.ok(error instanceof Fault && ["unavailable", "deadline_exceeded"].includes(error.kind), String(error));
    return true;
  });
  await cluster.start(target);
  await patiently(() => cluster.clients().kv.put({ key: b("k"), value: b("3") }));
});

Deno.test("a member that was away for longer than the log reaches back catches up from a snapshot", async () => {
  await using cluster = await prepareCluster(3, quick);
  await cluster.startAll();
  const leader = await cluster.leader();
  const away = leader % 3 + 1;
  const { kv } = cluster.clients(leader);
  await kv.put({ key: b("before"), value: b("1") });
  await cluster.stop(away);
  // The log is cut at a checkpoint every 20 000 entries, less 4 096 kept for members that were away briefly.
  let next = 0;
  const writer = async () => {
    while (next < 25_000) {
      const i = next++;
      await kv.put({ key: b(`k${i % 500}`), value: b(String(i)) });
    }
  };
  await Promise.all(Array.from({ length: 128 }, writer));
  await kv.deleteRange({ key: b("before") });
  const truth = await kv.range(all);

  await cluster.start(away);
  const target = (await cluster.clients(leader).cluster.status({})).appliedIndex;
  const { cluster: status, kv: local, watches } = cluster.clients(away);
  await eventually(async () => (await status.status({})).appliedIndex >= target);
  assert.match(await cluster.log(away), /restored a snapshot/);
  const copy = await local.range({ ...all, consistency: Consistency.SERIALIZABLE });
  assert.deepEqual(copy.kvs, truth.kvs);
  // Its history came along: a watch can start before the snapshot.
  const told: KvEventType[] = [];
  const deadline = { timeoutMs: 20_000 };
  for await (
    const { events } of watches.watch({ watches: [{ watchId: 1n, key: b("before"), startRevision: 2n }] }, deadline)
  ) {
    told.push(...events.map((event) => event.type));
    if (told.length === 2) break;
  }
  assert.deepEqual(told, [KvEventType.PUT, KvEventType.DELETE]);

  // What it has it has for good.
  await cluster.kill(away);
  await cluster.start(away);
  assert.deepEqual((await cluster.clients(away).kv.range(all)).kvs, truth.kvs);
});
