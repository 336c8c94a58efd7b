import { Fault } from "@ultracloud/base";
import { LeaseEventType } from "@ultracloud/proto/chainfire/v1";
import assert from "node:assert/strict";
import { b, eventually, patiently, quick, rejects, text } from "./_test_support.ts";
import { prepareCluster } from "./test_cluster.ts";

Deno.test("locks are held one at a time in the order of asking, with growing fencing tokens", async () => {
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const { locks, leases, kv } = cluster.clients();
  const name = b("lock/a");
  const first = await locks.lock({ name, ttlMs: 60_000n });
  assert.equal(text(first.key), `lock/a/${first.lease.toString(16)}`);
  const again = await locks.lock({ name, lease: first.lease });
  assert.deepEqual([again.key, again.fencingToken], [first.key, first.fencingToken]);
  await rejects(locks.lock({ name, ttlMs: 60_000n, waitMs: -1n }), "failed_precondition", "lock_held");
  await rejects(locks.lock({ name, ttlMs: 60_000n, waitMs: 50n }), "deadline_exceeded", "lock_wait_over");
  assert.deepEqual((await leases.leaseList({})).ids, [first.lease], "whoever gave up left nothing");

  const order: string[] = [];
  const places = async () => (await kv.range({ key: b("lock/a/"), rangeEnd: b("lock/a0") })).count;
  const waitAs = async (label: string) => {
    const lock = await locks.lock({ name, ttlMs: 60_000n }, { timeoutMs: 30_000 });
    order.push(label);
    return lock;
  };
  const secondComes = waitAs("second");
  await eventually(async () => await places() === 2n);
  const thirdComes = waitAs("third");
  await eventually(async () => await places() === 3n);
  await locks.unlock({ key: first.key });
  const second = await secondComes;
  assert.deepEqual(order, ["second"]);
  // A holder whose lease ends loses it too.
  await leases.leaseRevoke({ id: second.lease });
  const third = await thirdComes;
  assert.ok(first.fencingToken < second.fencingToken && second.fencingToken < third.fencingToken);
  await kv.put({ key: b("plain") });
  await rejects(locks.unlock({ key: b("plain") }), "invalid_argument", "not_a_lock");
  await rejects(locks.lock({ ttlMs: 1_000n }), "invalid_argument", "empty_key");
  await rejects(locks.lock({ name, lease: 77n }), "not_found", "lease_not_found");

  // Someone who waits and loses the place is told so.
  const { id } = await leases.leaseGrant({ ttlMs: 60_000n });
  const fourth = locks.lock({ name, lease: id }, { timeoutMs: 30_000 });
  const ended = rejects(fourth, "failed_precondition", "lease_ended");
  await eventually(async () => await places() === 2n);
  await leases.leaseRevoke({ id });
  await ended;

  // A caller that leaves gives its place up.
  const leaving = new AbortController();
  const left = locks.lock({ name, ttlMs: 60_000n }, { signal: leaving.signal });
  const rejected = assert.rejects(left);
  await eventually(async () => await places() === 2n);
  leaving.abort();
  await rejected;
  await eventually(async () => await places() === 1n);
});

Deno.test("an election has one leader whose word is observed, and a new one with a larger token once it resigns", async () => {
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const { elections } = cluster.clients();
  const name = b("boss");
  assert.equal((await elections.leader({ name })).kv, undefined);
  const seen: string[] = [];
  const stop = new AbortController();
  const observing = (async () => {
    for await (const { kv } of elections.observe({ name }, { signal: stop.signal })) seen.push(text(kv!.value));
  })().catch((error) => {
    if (!stop.signal.aborted) throw error;
  });
  const first = (await elections.campaign({ name, ttlMs: 60_000n, value: b("ann") })).leader!;
  await eventually(() => seen.at(-1) === "ann");
  await elections.proclaim({ leader: first, value: b("ann 2") });
  await eventually(() => seen.at(-1) === "ann 2");
  const next = elections.campaign({ name, ttlMs: 60_000n, value: b("bob") }, { timeoutMs: 30_000 });
  await rejects(
    elections.campaign({ name, ttlMs: 60_000n, value: b("x"), waitMs: -1n }),
    "failed_precondition",
    "lock_held",
  );
  assert.equal(text((await elections.leader({ name })).kv!.value), "ann 2");
  await elections.resign({ leader: first });
  const second = (await next).leader!;
  assert.ok(second.fencingToken > first.fencingToken);
  await eventually(() => seen.at(-1) === "bob");
  await rejects(elections.proclaim({ leader: first, value: b("ann 3") }), "failed_precondition", "election_lost");
  await elections.resign({ leader: first });
  assert.equal(text((await elections.leader({ name })).kv!.value), "bob", "a past leader resigns for nobody");
  stop.abort();
  await observing;
});

Deno.test("a waiting lock survives the leader and is served by the member that waits", async () => {
  await using cluster = await prepareCluster(3, quick);
  await cluster.startAll();
  const { locks } = cluster.clients();
  const name = b("survivor");
  const held = await patiently(() => locks.lock({ name, ttlMs: 120_000n }));
  const old = await cluster.leader();
  // The call waits at the leader, which then only follows.
  const waiting = cluster.clients(old).locks.lock({ name, ttlMs: 120_000n }, { timeoutMs: 60_000 });
  const places = async () =>
    (await patiently(() => cluster.clients().kv.range({ key: b("survivor/"), rangeEnd: b("survivor0") }))).count;
  await eventually(async () => await places() === 2n);
  await cluster.clients(old).cluster.leaderTransfer({ target: BigInt(old % 3 + 1) });
  await patiently(() => locks.unlock({ key: held.key }));
  const next = await waiting;
  assert.ok(next.fencingToken > held.fencingToken);
  assert.equal(await places(), 1n);
});

Deno.test("a write repeated under its session runs once, also over a failover; an unknown session runs nothing", async () => {
  await using cluster = await prepareCluster(3, quick);
  await cluster.startAll();
  const { kv, sessions } = cluster.clients();
  const { sessionId } = await patiently(() => sessions.openSession({}));
  const session = { sessionId, sequence: 1n, answeredBelow: 0n };
  const first = await kv.put({ key: b("n"), value: b("1"), prevKv: true, session });
  const leader = await cluster.leader();
  await cluster.kill(leader);
  const again = await patiently(() => kv.put({ key: b("n"), value: b("1"), prevKv: true, session }));
  assert.deepEqual([again.header!.revision, again.prevKv], [first.header!.revision, undefined]);
  const later = await kv.put({ key: b("n"), value: b("2"), session: { sessionId, sequence: 2n, answeredBelow: 2n } });
  assert.equal(later.header!.revision, first.header!.revision + 1n);
  await rejects(kv.put({ key: b("n"), value: b("1"), session }), "failed_precondition", "sequence_answered");
  await rejects(
    kv.put({ key: b("n"), value: b("3"), session: { sessionId, sequence: 2n } }),
    "already_exists",
    "sequence_mismatch",
  );
  await sessions.closeSession({ sessionId });
  await rejects(
    kv.put({ key: b("n"), value: b("4"), session: { sessionId, sequence: 3n } }),
    "failed_precondition",
    "session_expired",
  );
  assert.equal(text((await kv.range({ key: b("n") })).kvs[0]!.value), "2");
  await assert.rejects(
    kv.put({ key: b("n"), session: { sessionId, sequence: 1n } }, { headers: { "idempotency-key": "k" } }),
    (error) => error instanceof Fault && error.code === "invalid_field",
  );
});

Deno.test("a lease watch tells what is present and then every change, renewals only when asked", async () => {
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const { leases } = cluster.clients();
  const { id: before } = await leases.leaseGrant({ ttlMs: 60_000n });
  const stop = new AbortController();
  const seen: Record<string, string[]> = { all: [], renewals: [] };
  const watch = async (label: string, renewals: boolean) => {
    try {
      for await (const { events, reset } of leases.leaseWatch({ renewals }, { signal: stop.signal })) {
        if (reset) seen[label]!.push("reset");
        for (const { type, id } of events) seen[label]!.push(`${LeaseEventType[type]} ${id}`);
      }
    } catch (error) {
      if (!stop.signal.aborted) throw error;
    }
  };
  const watching = [watch("all", false), watch("renewals", true)];
  await eventually(() => seen.all!.length === 2 && seen.renewals!.length === 2);
  await leases.leaseGrant({ id: 7n, ttlMs: 300n });
  await leases.leaseKeepAlive({ id: before });
  await leases.leaseRevoke({ id: before });
  await eventually(() => seen.all!.at(-1) === "EXPIRED 7" && seen.renewals!.at(-1) === "EXPIRED 7");
  const told = ["reset", `PRESENT ${before}`, "GRANTED 7", `RENEWED ${before}`, `REVOKED ${before}`, "EXPIRED 7"];
  assert.deepEqual(seen.renewals, told);
  assert.deepEqual(seen.all, told.filter((line) => !line.startsWith("RENEWED")));
  stop.abort();
  await Promise.all(watching);
});
