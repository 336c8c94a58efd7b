import { Fault, systemClock } from "@ultracloud/base";
import assert from "node:assert/strict";
import { b, eventually, patiently, quick, rejects, text } from "./_test_support.ts";
import { prepareCluster } from "./test_cluster.ts";

Deno.test("a member that follows takes writes of every kind, and leases from it do not end early", async () => {
  await using cluster = await prepareCluster(3, quick);
  await cluster.startAll();
  const leader = await cluster.leader();
  const follower = cluster.running().find((id) => id !== leader)!;
  // Nobody else is asked: what succeeds did so here.
  const at = cluster.clients(follower);
  await patiently(() => at.kv.put({ key: b("a"), value: b("1") }));
  // The replicated clock stands still while nothing is logged. A lease must count from now all the same.
  const quietMs = 3_000;
  await systemClock.sleep(quietMs);
  const ttlMs = 2_000n;
  const granted = performance.now();
  const { id } = await at.leases.leaseGrant({ ttlMs });
  await at.kv.put({ key: b("leased"), lease: id });
  const left = await at.leases.leaseTimeToLive({ id, keys: true });
  assert.ok(left.remainingTtlMs > 0n && left.keys.length === 1, String(left.remainingTtlMs));
  await eventually(async () => (await at.kv.range({ key: b("leased") })).count === 0n);
  const livedMs = performance.now() - granted;
  assert.ok(livedMs >= Number(ttlMs), `The lease of ${ttlMs} ms ended after ${livedMs} ms`);

  assert.equal((await at.kv.deleteRange({ key: b("a"), prevKv: true })).prevKvs.length, 1);
  const txn = await at.kv.txn({
    success: [{ request: { case: "put", value: { key: b("t") } } }, {
      request: { case: "range", value: { key: b("t") } },
    }],
  });
  assert.equal(txn.responses.length, 2);
  const lock = await at.locks.lock({ name: b("lock"), ttlMs: 60_000n });
  await rejects(
    cluster.clients(leader).locks.lock({ name: b("lock"), ttlMs: 60_000n, waitMs: -1n }),
    "failed_precondition",
    "lock_held",
  );
  await at.locks.unlock({ key: lock.key });
  await at.quotas.setQuota({ quota: { namespace: b("q/"), writesPerSecondMax: 1n, keysMax: 2n } });
  // A rejection is that of the entry, a rate that of the leader: several members do not add up to a higher one.
  const others = cluster.running().filter((id) => id !== leader).map((id) => cluster.clients(id).kv);
  const outcomes = await Promise.all(
    [0, 1, 2, 3].map((i) =>
      others[i % 2]!.put({ key: b(`q/${i}`) }, { timeoutMs: 900 }).then(() => "done", (error) => (error as Fault).code)
    ),
  );
  assert.ok(outcomes.includes("done"));
  assert.ok(outcomes.filter((outcome) => outcome === "done").length <= 2, outcomes.join());
  await rejects(at.kv.put({ key: b("x"), lease: 77n }), "not_found", "lease_not_found");
  await rejects(at.cluster.memberRemove({ id: BigInt(leader) }), "unavailable", "not_leader");
});

Deno.test("writes through members that follow are done once under a session, and are otherwise done, not done or unknown", async () => {
  await using cluster = await prepareCluster(3, quick);
  await cluster.startAll();
  await cluster.leader();
  const { sessionId } = await patiently(() => cluster.clients(1).sessions.openSession({}));
  let writing = true;
  /** Each write once, at whichever member, again and again until it is answered. */
  const once = new Map<string, bigint>();
  const exact = (async () => {
    for (let i = 1; writing; i++) {
      const key = `s/${i}`;
      const session = { sessionId, sequence: BigInt(i), answeredBelow: BigInt(i) };
      for (let turn = i;; turn++) {
        const running = cluster.running();
        const { kv } = cluster.clients(running[turn % running.length]!);
        try {
          const { header } = await kv.put({ key: b(key), value: b(key), session }, { timeoutMs: 2_000 });
          once.set(key, header!.revision);
          break;
        } catch (error) {
          assert.ok(
            error instanceof Fault && ["unavailable", "deadline_exceeded"].includes(error.kind),
            `${key}: ${error}`,
          );
          await systemClock.sleep(10);
        }
      }
    }
  })();
  const outcomes = new Map<string, "done" | "not done" | "unknown">();
  const codes = new Map<string, string>();
  const plainly = [1, 2, 3].map(async (id) => {
    for (let i = 0; writing; i++) {
      if (!cluster.isRunning(id)) {
        await systemClock.sleep(10);
        continue;
      }
      const key = `p/${id}-${i}`;
      try {
        await cluster.clients(id).kv.put({ key: b(key) }, { timeoutMs: 2_000 });
        outcomes.set(key, "done");
      } catch (error) {
        assert.ok(error instanceof Fault, String(error));
        const certain = ["not_leader", "connect_failed", "superseded", "leader_changing"].includes(error.code);
        outcomes.set(key, certain ? "not done" : "unknown");
        codes.set(key, `${error.code} ${error.message} ${error.cause}`);
        await systemClock.sleep(5);
      }
    }
  });
  for (let round = 0; round < 3; round++) {
    const before = once.size;
    await eventually(() => once.size >= before + 30, "writes must go on");
    const leader = await patiently(() => cluster.leader(30_000));
    await cluster.kill(leader);
    const between = once.size;
    await eventually(() => once.size >= between + 30, "writes must go on without that leader");
    await cluster.start(leader);
  }
  writing = false;
  await Promise.all([exact, ...plainly]);
  const { kv } = cluster.clients();
  const sessions = await patiently(() => kv.range({ key: b("s/"), rangeEnd: b("s0"), limit: 1_000_000n }));
  // Once: a second effect would have raised version and modification.
  assert.deepEqual(
    new Map(sessions.kvs.map((pair) => [text(pair.key), pair.modRevision])),
    once,
  );
  assert.ok(sessions.kvs.every(({ version }) => version === 1n));
  const { kvs } = await patiently(() =>
    kv.range({ key: b("p/"), rangeEnd: b("p0"), limit: 1_000_000n, keysOnly: true })
  );
  const there = new Set(kvs.map(({ key }) => text(key)));
  const count = { done: 0, "not done": 0, unknown: 0 };
  for (const [key, outcome] of outcomes) {
    count[outcome]++;
    if (outcome !== "unknown") {
      assert.equal(there.has(key), outcome === "done", `${key} was ${outcome}: ${codes.get(key)}`);
    }
  }
  assert.ok(count.done > 100, JSON.stringify(count));
  console.log(`${once.size} writes under a session, each once; others: ${JSON.stringify(count)}`);
});
