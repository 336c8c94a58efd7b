/**
 * Watchers and leases beside etcd, both over etcd's JSON paths: the time from sending a put to its event at each of many
 * watchers of one key, and keepalives a second. `deno task bench chainfire/bench/watch`, or with arguments: watchers,
 * puts, seconds.
 */
import { fault, systemClock } from "@ultracloud/base";
import { prepareCluster } from "../test_cluster.ts";
import { Etcd } from "./_etcd.ts";
import { drive, installed, row, type Target } from "./_load.ts";

const [watchers, puts, seconds] = [
  Number(Deno.args[0] ?? 1_000),
  Number(Deno.args[1] ?? 100),
  Number(Deno.args[2] ?? 3),
];
/** Puts are this far apart, so that what is measured is the way of one event. */
const paceMs = 50;

const missing = ["wrk", "etcd"].filter((program) => !installed(program));
if (missing.length > 0) {
  console.log(`left out: not installed: ${missing.join(", ")} (Debian packages wrk, etcd-server)`);
  Deno.exit(0);
}

async function post(target: Target, path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  const response = await fetch(target.url + path, {
    method: "POST",
    headers: { "content-type": "application/json", ...target.headers },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });
  if (!response.ok) throw fault("internal", "bench_failed", `${path} answers ${response.status}`);
  return response;
}

interface Line {
  readonly result?: {
    readonly created?: boolean;
    readonly events?: readonly { readonly kv: { readonly value: string } }[];
  };
}

/** Lines of an answer until it is cut. */
async function* lines(response: Response): AsyncGenerator<Line> {
  let rest = "";
  for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).split("\n");
    rest = parts.pop()!;
    for (const part of parts) if (part !== "") yield JSON.parse(part) as Line;
  }
}

/** Milliseconds from each put to its event at each watcher, sorted. */
async function fanOut(target: Target): Promise<number[]> {
  const key = btoa("watched");
  const sent = new Map<string, number>();
  const delays: number[] = [];
  const over = new AbortController();
  let open = 0;
  const running = Array.from({ length: watchers }, async () => {
    try {
      const response = await post(target, "/v3/watch", { create_request: { key } }, over.signal);
      for await (const { result } of lines(response)) {
        if (result?.created) open++;
        for (const { kv } of result?.events ?? []) delays.push(performance.now() - sent.get(kv.value)!);
      }
    } catch (error) {
      if (!over.signal.aborted) throw error;
    }
  });
  const wait = async (done: () => boolean, what: string) => {
    const end = performance.now() + 60_000;
    while (!done()) {
      if (performance.now() > end) throw fault("deadline_exceeded", "bench_failed", `${what}: not all after 60 s`);
      await systemClock.sleep(5);
    }
  };
  await wait(() => open === watchers, "watches");
  for (let i = 0; i < puts; i++) {
    const value = btoa(String(i));
    sent.set(value, performance.now());
    await (await post(target, "/v3/kv/put", { key, value })).body?.cancel();
    await systemClock.sleep(paceMs);
  }
  await wait(() => delays.length >= watchers * puts, "events");
  over.abort();
  await Promise.all(running);
  return delays.sort((a, b) => a - b);
}

async function keepAlives(target: Target): Promise<number> {
  const { ID } = await (await post(target, "/v3/lease/grant", { TTL: "600" })).json() as { ID: string };
  const load = { path: "/v3/lease/keepalive", contentType: "application/json", body: `'{"ID":"${ID}"}'` };
  return (await drive(target, { ...load, connections: 32, seconds })).perSecond;
}

await using cluster = await prepareCluster(1);
await cluster.startAll();
await cluster.leader();
await using etcd = await Etcd.start(1);
const { url, authorization } = await cluster.address(1);
const ours: Target = { url, headers: { authorization } };
const theirs = etcd.target(0);

const widths = [42, 12, 12, 8, 10];
console.log(row(["", "chainfire", "etcd", "ratio", "wanted"], widths));
const [a, b] = [await fanOut(ours), await fanOut(theirs)];
for (const [name, part] of [["p50", 0.5], ["p99", 0.99]] as const) {
  const at = (all: number[]) => all[Math.floor((all.length - 1) * part)]!;
  const cells = [`${at(a).toFixed(1)} ms`, `${at(b).toFixed(1)} ms`, (at(a) / at(b)).toFixed(2)];
  console.log(row([`put to event, ${watchers} watchers, ${name}`, ...cells, name === "p99" ? "50 ms" : ""], widths));
}
const [x, y] = [await keepAlives(ours), await keepAlives(theirs)];
console.log(row(["keepalives a second, 32 connections", x.toFixed(0), y.toFixed(0), (x / y).toFixed(2), ""], widths));
