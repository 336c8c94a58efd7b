import assert from "node:assert/strict";
import { Fault, systemClock } from "@ultracloud/base";
import { b, eventually, patiently, quick, text } from "./_test_support.ts";
import { prepareCluster } from "./test_cluster.ts";

Deno.test("wall clocks that jump end no lease early and hand no lock or election on", async () => {
  await using cluster = await prepareCluster(3, quick, { entry: "test_jumping_main.ts" });
  await cluster.startAll();
  const { kv, leases, locks, elections } = cluster.clients();
  await patiently(() => kv.put({ key: b("k") }));
  const held = await patiently(() => leases.leaseGrant({ ttlMs: 1_500n }));
  const stop = new AbortController();
  const keeping = (async () => {
    while (!stop.signal.aborted) {
      await patiently(() => leases.leaseKeepAlive({ id: held.id }, { timeoutMs: 400 })).catch((error) => {
        if (!(error instanceof Fault && error.kind === "deadline_exceeded")) throw error;
      });
      await systemClock.sleep(150, stop.signal).catch(() => {});
    }
  })();
  const lock = await patiently(() => locks.lock({ name: b("lock"), lease: held.id }));
  const won = await patiently(() => elections.campaign({ name: b("boss"), lease: held.id, value: b("first") }));
  const lives: number[] = [];
  const short = Array.from({ length: 4 }, async (_, i) => {
    for (let round = 0; round < 3; round++) {
      const ttlMs = 700 + 200 * i;
      const askedMs = performance.now();
      const { id } = await patiently(() => leases.leaseGrant({ ttlMs: BigInt(ttlMs) }));
      const grantedMs = performance.now();
      const key = b(`short/${i}/${round}`);
      await patiently(() => kv.put({ key, lease: id }));
      await eventually(async () => (await patiently(() => kv.range({ key }))).count === 0n);
      // It began somewhere between asking and the answer: later counts for us.
      assert.ok(performance.now() - askedMs >= ttlMs, `A lease of ${ttlMs} ms lived ${performance.now() - askedMs} ms`);
      lives.push(performance.now() - grantedMs - ttlMs);
    }
  });
  await Promise.all(short);
  for (
    const work of [
      locks.lock({ name: b("lock"), ttlMs: 60_000n, waitMs: -1n }),
      elections.campaign({ name: b("boss"), ttlMs: 60_000n, waitMs: -1n }),
    ]
  ) {
    await assert.rejects(work, (error) => error instanceof Fault && error.code === "lock_held");
  }
  assert.equal(text((await elections.leader({ name: b("boss") })).kv!.value), "first");
  const { kvs } = await kv.range({ key: lock.key });
  assert.equal(kvs[0]!.createRevision, lock.fencingToken);
  assert.ok(won.leader!.fencingToken > lock.fencingToken);
  stop.abort();
  await keeping;
  assert.equal(lives.length, 12);
  // They do end: the clock that counts goes on.
  await eventually(async () => (await patiently(() => kv.range({ key: lock.key }))).count === 0n);
});
