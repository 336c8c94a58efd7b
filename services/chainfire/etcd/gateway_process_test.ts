import { systemClock } from "@ultracloud/base";
import assert from "node:assert/strict";
import { prepareCluster } from "../test_cluster.ts";

type Json = Record<string, unknown>;

async function post(
  at: { readonly url: string; readonly authorization?: string },
  path: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<{ status: number; body: Json; headers: Headers }> {
  const response = await fetch(at.url + path, {
    method: "POST",
    headers: { ...(at.authorization ? { authorization: at.authorization } : {}), ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  const text = await response.text();
  return {
    status: response.status,
    body: text.startsWith("{") ? JSON.parse(text) : { text },
    headers: response.headers,
  };
}

const key = btoa("k");

Deno.test("etcd's paths want a token, keep to the bounds of the RPCs and do a repeated call once", async () => {
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const at = await cluster.address(1);
  for (
    const path of ["kv/put", "kv/range", "kv/txn", "watch", "lease/keepalive", "lock/lock", "maintenance/snapshot"]
  ) {
    const refused = await post({ url: at.url }, `/v3/${path}`, { key });
    assert.deepEqual([refused.status, refused.body.code], [401, 16], path);
  }
  const large = await post(at, "/v3/kv/put", { key, value: "A".repeat(5 * 2 ** 20) });
  assert.deepEqual([large.status, large.body.code], [429, 8]);
  const get = await fetch(`${at.url}/v3/kv/put`);
  assert.deepEqual([get.status, await get.text()], [405, "Method Not Allowed\n"]);

  const once = { "idempotency-key": "one", "x-request-id": "r1" };
  const put = { key, value: btoa("v"), prev_kv: true };
  const first = await post(at, "/v3/kv/put", put, once);
  assert.equal(first.headers.get("x-request-id"), "r1");
  assert.deepEqual((await post(at, "/v3/kv/put", put, once)).body, first.body);
  const other = await post(at, "/v3/kv/put", { ...put, value: btoa("w") }, once);
  assert.deepEqual([other.status, other.body.code], [409, 6]);
  const found = await post(at, "/v3/kv/range", { key });
  assert.deepEqual((found.body.kvs as Json[]).map(({ version }) => version), ["1"]);
  const metrics = await (await fetch(`${at.url}/metrics`)).text();
  assert.match(metrics, /KvService\/Put",code="ok"\} 2/, "calls are counted where the RPC's are");
});

Deno.test("a watch over etcd's path ends with its caller, and with its member", async () => {
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const at = await cluster.address(1);
  const watches = async () =>
    Number(/^chainfire_watches (\d+)/m.exec(await (await fetch(`${at.url}/metrics`)).text())?.[1] ?? NaN);
  const until = async (count: number) => {
    const end = performance.now() + 30_000;
    while (await watches() !== count) {
      assert.ok(performance.now() < end, `Cannot see ${count} watches within 30 s`);
      await systemClock.sleep(50);
    }
  };
  const open = (signal?: AbortSignal) =>
    fetch(`${at.url}/v3/watch`, {
      method: "POST",
      headers: { authorization: at.authorization },
      body: JSON.stringify({ create_request: { key } }),
      ...(signal ? { signal } : {}),
    });
  const stop = new AbortController();
  const left = (await open(stop.signal)).body!.getReader();
  await left.read();
  await until(1);
  stop.abort();
  await left.read().catch(() => {});
  await until(0);
  const response = await open();
  const reading = response.text();
  await until(1);
  await cluster.stop(1);
  const lines = (await reading).trim().split("\n").map((line) => JSON.parse(line) as Json);
  assert.ok((lines[0]!.result as Json).created);
  const last = lines.at(-1)!;
  const told = (last.result as Json | undefined)?.canceled === true || last.error !== undefined;
  assert.ok(told, `the last line says why: ${JSON.stringify(last)}`);
});

Deno.test("every member reads and writes for etcd's paths, whoever leads", async () => {
  await using cluster = await prepareCluster(3);
  await cluster.startAll();
  const leader = await cluster.leader();
  const led = await cluster.address(leader);
  for (const id of [1, 2, 3]) {
    const at = await cluster.address(id);
    const put = { key: btoa(`m${id}`), value: btoa("v") };
    assert.equal((await post(at, "/v3/kv/put", put)).status, 200);
    const granted = await post(at, "/v3/lease/grant", { TTL: "60" });
    assert.equal(granted.status, 200);
    const left = (await post(at, "/v3/lease/timetolive", { ID: granted.body.ID })).body;
    assert.ok(Number(left.TTL) > 50 && Number(left.TTL) <= 61, JSON.stringify(left));
    // Who comes and goes is the leader's to say, and the others say who that is.
    const moved = await post(at, "/v3/maintenance/transfer-leadership", { targetID: String(leader) });
    if (id !== leader) {
      assert.deepEqual([moved.status, moved.body.message], [503, "etcdserver: not leader"]);
      assert.equal(moved.headers.get("x-leader"), led.url);
    }
    const all = await post(at, "/v3/kv/range", { key: btoa("m"), range_end: btoa("n") });
    assert.equal(all.body.count, String(id), "what was written is read at once, wherever");
    const listed = await post(at, "/v3/cluster/member/list", {});
    assert.equal((listed.body.members as Json[]).length, 3);
  }
});
