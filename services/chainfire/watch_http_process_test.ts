import assert from "node:assert/strict";
import { b, eventually, text } from "./_test_support.ts";
import { prepareCluster } from "./test_cluster.ts";

interface Line {
  readonly header: { readonly revision: string };
  readonly events?: readonly {
    readonly kv: { readonly key: string; readonly value: string; readonly modRevision: string };
  }[];
  readonly fragment?: boolean;
}
const told = (line: Line) =>
  (line.events ?? []).map(({ kv }) => `${atob(kv.key)}=${atob(kv.value ?? "")}@${kv.modRevision}`);

Deno.test("a watch over plain HTTP comes as lines, as server-sent events that go on by themselves, and as polls", async () => {
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const { kv } = cluster.clients();
  const { url, authorization } = await cluster.address(1);
  const get = (query: string, headers: Record<string, string> = {}, signal?: AbortSignal) =>
    fetch(`${url}/v1/watch?${query}`, { headers: { authorization, ...headers }, ...(signal ? { signal } : {}) });
  await kv.put({ key: b("p/a"), value: b("1") });

  const open = async (query: string, headers: Record<string, string>) => {
    const stop = new AbortController();
    const response = await get(query, headers, stop.signal);
    assert.equal(response.status, 200);
    const seen = { text: "" };
    const reading = (async () => {
      for await (const chunk of response.body!) seen.text += text(chunk);
    })().catch((error) => {
      if (!stop.signal.aborted) throw error;
    });
    return { response, seen, end: () => (stop.abort(), reading) };
  };
  const lines = await open("key=p/&prefix=true&start_revision=1", {});
  assert.equal(lines.response.headers.get("content-type"), "application/x-ndjson");
  await kv.put({ key: b("p/b"), value: b("2") });
  const linesTold = () => lines.seen.text.split("\n").slice(0, -1).flatMap((line) => told(JSON.parse(line)));
  await eventually(() => linesTold().length === 2);
  assert.deepEqual(linesTold(), ["p/a=1@2", "p/b=2@3"]);
  await lines.end();

  const events = await open("key=p/&prefix=true", { accept: "text/event-stream", "last-event-id": "2" });
  assert.equal(events.response.headers.get("content-type"), "text/event-stream");
  await eventually(() => events.seen.text.includes("id: 3\n"));
  assert.ok(!events.seen.text.includes("id: 2\n"));
  await events.end();

  const polling = get("key=p/c&poll_ms=30000");
  await eventually(async () => {
    const page = await (await fetch(`${url}/metrics`)).text();
    return /^chainfire_watches 1$/m.test(page);
  });
  await kv.put({ key: b("p/c"), value: b("3") });
  assert.deepEqual(told(await (await polling).json()), ["p/c=3@4"]);
  const idle: Line = await (await get("key=p/c&poll_ms=200")).json();
  assert.deepEqual([told(idle), idle.header.revision], [[], "4"]);

  const status = async (response: Promise<Response>) => {
    const answer = await response;
    await answer.body?.cancel();
    return answer.status;
  };
  assert.equal(await status(fetch(`${url}/v1/watch?key=a`)), 401);
  assert.equal(await status(get("")), 400);
  assert.equal(await status(get("key=a&start_revision=x")), 400);
  assert.equal(await status(get("key=a&unknown=1")), 400);
  assert.equal(await status(fetch(`${url}/v1/watch`, { method: "POST", headers: { authorization } })), 405);
});

Deno.test("a revision too large for one message comes in fragments to who asked for them", async () => {
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const { kv, watches } = cluster.clients();
  const value = new Uint8Array(40_000).fill(1);
  for (let i = 0; i < 60; i++) await kv.put({ key: b(`k${i}`), value });
  const { header } = await kv.deleteRange({ key: b("k"), rangeEnd: b("l") });
  const watch = { watchId: 1n, key: b("k"), rangeEnd: b("l"), startRevision: header!.revision, prevKv: true };
  for (const fragment of [true, false]) {
    const parts: { readonly events: number; readonly fragment: boolean }[] = [];
    let events = 0;
    for await (const message of watches.watch({ watches: [{ ...watch, fragment }] })) {
      if (message.events.length === 0) continue;
      parts.push({ events: message.events.length, fragment: message.fragment });
      events += message.events.length;
      if (events === 60) break;
    }
    assert.equal(parts.length > 1, fragment, JSON.stringify(parts));
    assert.deepEqual(parts.map((part) => part.fragment), parts.map((_, i) => i < parts.length - 1));
  }
});
