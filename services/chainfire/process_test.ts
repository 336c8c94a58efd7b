import { Code, ConnectError } from "@connectrpc/connect";
import { Fault, systemClock, utf8 } from "@ultracloud/base";
import { CompareResult, Consistency, KvEventType, SortOrder, SortTarget } from "@ultracloud/proto/chainfire/v1";
import assert from "node:assert/strict";
import { prepareCluster, type TestCluster } from "./test_cluster.ts";

const b = utf8.encode;
const all = { key: new Uint8Array([0]), rangeEnd: new Uint8Array([0]) };

async function single(): Promise<TestCluster> {
  const cluster = await prepareCluster(1);
  try {
    await cluster.startAll();
    return cluster;
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}

async function rejects(work: Promise<unknown>, kind: string, code: string): Promise<void> {
  await assert.rejects(work, (error) => {
    assert.ok(error instanceof Fault, String(error));
    assert.deepEqual({ kind: error.kind, code: error.code }, { kind, code });
    return true;
  });
}

/** Waits for a condition, with a deadline. */
async function eventually(condition: () => Promise<boolean>, timeoutMs = 15_000): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!await condition()) {
    assert.ok(performance.now() < end, "the condition must hold in time");
    await systemClock.sleep(20);
  }
}

Deno.test("chainfire under its own permissions serves keys, transactions and their errors", async () => {
  await using cluster = await single();
  const { kv } = cluster.clients();
  const first = await kv.put({ key: b("a"), value: b("1") });
  assert.equal(first.header?.revision, 2n);
  await kv.put({ key: b("b"), value: b("2") });
  const second = await kv.put({ key: b("a"), value: b("3"), prevKv: true });
  assert.equal(utf8.decode(second.prevKv!.value), "1");

  const { kvs, count, more } = await kv.range({
    ...all,
    limit: 1n,
    sortOrder: SortOrder.DESCEND,
    sortTarget: SortTarget.KEY,
  });
  assert.deepEqual([kvs.map((item) => utf8.decode(item.key)), count, more], [["b"], 2n, true]);
  const past = await kv.range({ key: b("a"), revision: 2n, consistency: Consistency.SERIALIZABLE });
  assert.equal(utf8.decode(past.kvs[0]!.value), "1");

  const swap = {
    compare: [{ key: b("a"), result: CompareResult.EQUAL, target: { case: "version", value: 2n } as const }],
    success: [{ request: { case: "put", value: { key: b("a"), value: b("4") } } as const }],
    failure: [{ request: { case: "range", value: { key: b("a") } } as const }],
  };
  assert.equal((await kv.txn(swap)).succeeded, true);
  const lost = await kv.txn(swap);
  assert.equal(lost.succeeded, false);
  const [answer] = lost.responses;
  assert.equal(answer?.response.case === "range" && utf8.decode(answer.response.value.kvs[0]!.value), "4");

  await rejects(kv.put({ value: b("x") }), "invalid_argument", "empty_key");
  await rejects(kv.put({ key: b("a"), lease: 77n }), "not_found", "lease_not_found");
  await rejects(kv.range({ key: b("a"), revision: 99n }), "out_of_range", "future_revision");
  const twice = { request: { case: "put", value: { key: b("a") } } as const };
  await rejects(kv.txn({ success: [twice, twice] }), "invalid_argument", "duplicate_key");
  await rejects(kv.txn({ success: Array(129).fill(twice) }), "invalid_argument", "too_many_ops");
  await rejects(kv.put({ key: b("a"), value: new Uint8Array(1_600_000) }), "invalid_argument", "request_too_large");
  await kv.compact({ revision: 4n });
  await rejects(kv.range({ key: b("a"), revision: 2n }), "out_of_range", "compacted");
  await rejects(kv.compact({ revision: 4n }), "out_of_range", "compacted");

  const headers = { "idempotency-key": "once" };
  const deleted = await kv.deleteRange({ key: b("a"), prevKv: true }, { headers });
  assert.deepEqual(await kv.deleteRange({ key: b("a"), prevKv: true }, { headers }), deleted);
  await rejects(kv.deleteRange({ key: b("b") }, { headers }), "already_exists", "idempotency_mismatch");
});

Deno.test("a killed member has every acknowledged write when it is back, and leases go on where they were", async () => {
  await using cluster = await single();
  const { kv, leases } = cluster.clients();
  const { id } = await leases.leaseGrant({ ttlMs: 3_000n });
  await kv.put({ key: b("leased"), lease: id });
  const acknowledged: string[] = [];
  const writer = async (name: number) => {
    for (let i = 0;; i++) {
      const key = `w${name}/${i}`;
      try {
        await kv.put({ key: b(key), value: b(key) });
      } catch {
        return;
      }
      acknowledged.push(key);
    }
  };
  const writers = Array.from({ length: 8 }, (_, i) => writer(i));
  await eventually(() => Promise.resolve(acknowledged.length > 500));
  await cluster.kill(1);
  await Promise.all(writers);
  await cluster.start(1);
  const { kvs } = await kv.range(all);
  const held = new Set(kvs.map((item) => utf8.decode(item.key)));
  assert.deepEqual(acknowledged.filter((key) => !held.has(key)), []);
  assert.ok(held.has("leased"), "a lease that nobody could keep alive is not over");
  assert.ok((await leases.leaseTimeToLive({ id })).remainingTtlMs > 0n);
  await eventually(async () => (await kv.range({ key: b("leased") })).count === 0n);
  await rejects(leases.leaseKeepAlive({ id }), "not_found", "lease_not_found");
});

Deno.test("a lease ends when it is not kept alive, never before, and takes its keys with it", async () => {
  await using cluster = await single();
  const { kv, leases } = cluster.clients();
  const { id, ttlMs } = await leases.leaseGrant({ ttlMs: 600n });
  assert.equal(ttlMs, 600n);
  await kv.put({ key: b("k"), lease: id });
  assert.deepEqual((await leases.leaseList({})).ids, [id]);
  let aliveMs = performance.now();
  for (let i = 0; i < 4; i++) {
    await systemClock.sleep(300);
    aliveMs = performance.now();
    await leases.leaseKeepAlive({ id });
  }
  const { keys, grantedTtlMs } = await leases.leaseTimeToLive({ id, keys: true });
  assert.deepEqual([keys.map((key) => utf8.decode(key)), grantedTtlMs], [["k"], 600n]);
  await eventually(async () => (await kv.range({ key: b("k") })).count === 0n);
  const livedMs = performance.now() - aliveMs;
  assert.ok(livedMs >= 600, `it lived for ${livedMs} ms`);
  assert.deepEqual((await leases.leaseList({})).ids, []);
});

Deno.test("a watch tells history and changes in order, whole revisions, filtered, until it is cancelled", async () => {
  await using cluster = await single();
  const { kv, watches } = cluster.clients();
  await kv.put({ key: b("p/a"), value: b("1") });
  await kv.put({ key: b("p/a"), value: b("2") });
  await kv.put({ key: b("other"), value: b("x") });
  const seen: string[] = [];
  let streamId = "";
  let created = 0;
  const stop = new AbortController();
  const stream = watches.watch({
    watches: [
      { watchId: 1n, key: b("p/"), rangeEnd: b("p0"), startRevision: 2n, prevKv: true },
      { watchId: 2n, key: b("p/a"), noPut: true },
    ],
    progressIntervalMs: 100,
  }, { signal: stop.signal });
  let progress = 0n;
  const reading = (async () => {
    for await (const message of stream) {
      if (message.streamId) streamId = message.streamId;
      if (message.created) created++;
      if (message.cancelled) seen.push(`${message.watchId} cancelled`);
      if (message.watchId === -1n && !message.streamId && !message.cancelled) progress = message.header!.revision;
      for (const { type, kv: item, prevKv } of message.events) {
        const what = type === KvEventType.PUT ? `put ${utf8.decode(item!.value)}` : "delete";
        const before = prevKv ? ` after ${utf8.decode(prevKv.value)}` : "";
        seen.push(`${message.watchId} ${utf8.decode(item!.key)} ${what} @${item!.modRevision}${before}`);
      }
    }
  })().catch((error) => {
    if (!stop.signal.aborted) throw error;
  });
  await eventually(() => Promise.resolve(created === 2 && progress === 4n));
  await kv.txn({
    success: ["p/b", "p/c"].map((key) => ({
      request: { case: "put", value: { key: b(key), value: b("n") } } as const,
    })),
  });
  await kv.deleteRange({ key: b("p/a") });
  await watches.addWatch({ streamId, watch: { watchId: 3n, key: b("p/a"), startRevision: 3n } });
  await eventually(() => Promise.resolve(created === 3 && progress === 6n));
  await watches.cancelWatch({ streamId, watchId: 1n });
  await eventually(() => Promise.resolve(seen.includes("1 cancelled")));
  assert.deepEqual(seen.filter((line) => line.startsWith("1 ")), [
    "1 p/a put 1 @2",
    "1 p/a put 2 @3 after 1",
    "1 p/b put n @5",
    "1 p/c put n @5",
    "1 p/a delete @6 after 2",
    "1 cancelled",
  ]);
  assert.deepEqual(seen.filter((line) => line.startsWith("2 ")), ["2 p/a delete @6"]);
  assert.deepEqual(seen.filter((line) => line.startsWith("3 ")), ["3 p/a put 2 @3", "3 p/a delete @6"]);
  stop.abort(new ConnectError("enough", Code.Canceled));
  await reading;
  await rejects(watches.cancelWatch({ streamId: "none", watchId: 2n }), "not_found", "watch_stream_not_found");
});

Deno.test("a caller that stops reading its watch is cut off, and nobody waits for it", async () => {
  await using cluster = await single();
  const { kv } = cluster.clients();
  const { url, authorization } = await cluster.address(1);
  const { hostname, port } = new URL(url);
  // A connection of its own: what nobody takes from it stays on the member's side.
  using connection = await Deno.connect({ hostname, port: Number(port) });
  const json = b(JSON.stringify({ watches: [{ watchId: "1", key: btoa("k") }] }));
  const body = new Uint8Array([0, 0, 0, 0, json.length, ...json]);
  const head = `POST /ultracloud.chainfire.v1.WatchService/Watch HTTP/1.1\r\nhost: ${hostname}:${port}\r\n` +
    `authorization: ${authorization}\r\ncontent-type: application/connect+json\r\ncontent-length: ${body.length}\r\n\r\n`;
  await connection.write(new Uint8Array([...b(head), ...body]));
  const watches = async () => {
    const page = await (await fetch(`${url}/metrics`)).text();
    return /^chainfire_watches (\d+)/m.exec(page)?.[1];
  };
  await eventually(async () => await watches() === "1");
  const value = new Uint8Array(1_000_000);
  for (let i = 0; i < 48; i++) await kv.put({ key: b("k"), value });
  await eventually(async () => await watches() === "0");
});
