/**
 * Watchers and leases beside etcd, both over etcd's JSON paths: the time from sending a put to its event at each of many
 * watchers of one key, and keepalives a second. `deno task bench chainfire/bench/watch`, or with arguments: watchers,
 * puts, seconds.
 */
import { fault, systemClock, utf8 } from "@ultracloud/base";
import { cpuUsage } from "node:process";
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

async function post(target: Target, path: string, body: unknown): Promise<Response> {
  const response = await fetch(target.url + path, {
    method: "POST",
    headers: { "content-type": "application/json", ...target.headers },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw fault("internal", "bench_failed", `${path} answers ${response.status}`);
  return response;
}

/** What a watcher was told: that it watches, or a value. */
type Told = { readonly created: true } | { readonly value: string };

/**
 * One watch over a bare socket: a thousand streams of `fetch` took the client most of what was measured. Lines are looked
 * through for the two things that count, not parsed.
 */
async function* watch(target: Target, key: string, signal: AbortSignal): AsyncGenerator<Told> {
  const { hostname, port, host } = new URL(target.url);
  const connection = await Deno.connect({ hostname, port: Number(port) });
  signal.addEventListener("abort", () => connection.close(), { once: true });
  const body = JSON.stringify({ create_request: { key } });
  const headers = Object.entries({ host, "content-type": "application/json", ...target.headers });
  const head = ["POST /v3/watch HTTP/1.1", ...headers.map(([name, value]) => `${name}: ${value}`)];
  await connection.write(utf8.encode(`${head.join("\r\n")}\r\ncontent-length: ${body.length}\r\n\r\n${body}`));
  const buffer = new Uint8Array(16_384);
  let rest = "";
  for (let n; (n = await connection.read(buffer)) !== null;) {
    const lines = (rest + utf8.decode(buffer.subarray(0, n))).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (line.includes('"created":true')) yield { created: true };
      for (const [, value] of line.matchAll(/"value":"([^"]*)"/g)) yield { value: value! };
    }
  }
}

interface FanOut {
  /** Milliseconds from each put to its event at each watcher, sorted. */
  readonly delays: number[];
  /** What this client takes of a processor for one event, in microseconds: it is in every delay behind the first. */
  readonly clientUs: number;
}

async function fanOut(target: Target): Promise<FanOut> {
  const key = btoa("watched");
  const sent = new Map<string, number>();
  const delays: number[] = [];
  const over = new AbortController();
  let open = 0;
  const running = Array.from({ length: watchers }, async () => {
    try {
      for await (const told of watch(target, key, over.signal)) {
        if ("created" in told) open++;
        else delays.push(performance.now() - sent.get(told.value)!);
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
  const before = cpuUsage();
  for (let i = 0; i < puts; i++) {
    const value = btoa(String(i));
    sent.set(value, performance.now());
    await (await post(target, "/v3/kv/put", { key, value })).body?.cancel();
    await systemClock.sleep(paceMs);
  }
  await wait(() => delays.length >= watchers * puts, "events");
  const { user, system } = cpuUsage(before);
  over.abort();
  await Promise.all(running);
  return { delays: delays.sort((a, b) => a - b), clientUs: (user + system) / delays.length };
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
  const at = ({ delays }: FanOut) => delays[Math.floor((delays.length - 1) * part)]!;
  const cells = [`${at(a).toFixed(1)} ms`, `${at(b).toFixed(1)} ms`, (at(a) / at(b)).toFixed(2)];
  console.log(row([`put to event, ${watchers} watchers, ${name}`, ...cells, name === "p99" ? "50 ms" : ""], widths));
}
const clients = [a, b].map(({ clientUs }) => `${clientUs.toFixed(0)} us`);
console.log(row(["of a processor for an event, client alone", ...clients, "", ""], widths));
const [x, y] = [await keepAlives(ours), await keepAlives(theirs)];
console.log(row(["keepalives a second, 32 connections", x.toFixed(0), y.toFixed(0), (x / y).toFixed(2), ""], widths));
