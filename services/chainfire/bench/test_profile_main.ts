/**
 * Where the time of members goes under a load: self time by part and by function, of the leader and of a follower.
 * `deno run -A services/chainfire/bench/test_profile_main.ts <members> <put|range> <connections> [seconds]`
 */
import { fault, systemClock } from "@ultracloud/base";
import { prepareCluster } from "../test_cluster.ts";
import { drive, jsonPut, jsonRange, row } from "./_load.ts";

const [members, kind, connections, seconds] = [
  Number(Deno.args[0] ?? 3),
  Deno.args[1] ?? "put",
  Number(Deno.args[2] ?? 32),
  Number(Deno.args[3] ?? 5),
];

interface Profile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

/** What a function belongs to. */
function partOf(functionName: string, url: string): string {
  if (functionName === "(idle)") return "idle";
  if (functionName === "(garbage collector)") return "garbage collection";
  if (functionName === "(program)") return "native: system calls, HTTP, SQLite, timers";
  const own = /\/(lib\/[a-z]+|services\/chainfire(?:\/[a-z]+(?=\/))?)/.exec(url)?.[1];
  if (own !== undefined) return own;
  if (/bufbuild|connectrpc/.test(url)) return "protobuf, connect";
  const extension = /^ext:(?:deno_)?([a-z_]+)/.exec(url)?.[1];
  return extension === undefined ? "other" : `runtime: ${extension}`;
}

function print(title: string, { nodes, samples, timeDeltas }: Profile): void {
  const byId = new Map(nodes.map(({ id, callFrame }) => [id, callFrame]));
  const parts = new Map<string, number>(), functions = new Map<string, number>();
  let busyUs = 0;
  for (const [i, id] of samples.entries()) {
    const { functionName, url, lineNumber } = byId.get(id)!;
    const part = partOf(functionName, url), tookUs = timeDeltas[i]!;
    if (url !== "ext:deno_node/inspector.js") parts.set(part, (parts.get(part) ?? 0) + tookUs);
    // Stopping the profiler is no work of the member.
    if (part === "idle" || url === "ext:deno_node/inspector.js") continue;
    busyUs += tookUs;
    const name = `${functionName || "(anonymous)"} ${url.replace(/^.*\/(?=[^/]+\/[^/]+$)/, "")}:${lineNumber + 1}`;
    functions.set(name, (functions.get(name) ?? 0) + tookUs);
  }
  const idleUs = parts.get("idle") ?? 0;
  console.log(`\n${title}: busy ${(100 * busyUs / (busyUs + idleUs)).toFixed(0)} % of the time; of that, in %`);
  const percent = (us: number) => (100 * us / busyUs).toFixed(1);
  const sorted = (of: Map<string, number>) => [...of].filter(([name]) => name !== "idle").sort((a, b) => b[1] - a[1]);
  for (const [name, us] of sorted(parts)) console.log(row([`  ${name}`, percent(us)], [56, 8]));
  console.log("  functions");
  for (const [name, us] of sorted(functions).slice(0, 25)) console.log(row([`    ${name}`, percent(us)], [76, 8]));
}

await using cluster = await prepareCluster(members, {}, { entry: "bench/_profiled_main.ts", unpinned: true });
await cluster.startAll();
const leader = await cluster.leader();
const { url, authorization } = await cluster.address(leader);
const target = { url, headers: { authorization } };
const load = kind === "range" ? jsonRange(false) : jsonPut(256);
await drive(target, { ...jsonPut(256), connections: 64, seconds: 2 });
const watched = [leader, ...[1, 2, 3].filter((id) => id !== leader && id <= members).slice(0, 1)];
for (const id of watched) await Deno.writeTextFile(`${cluster.stateDir(id)}/profile`, "");
const { perSecond, p50Ms, p99Ms } = await drive(target, { ...load, connections, seconds });
for (const id of watched) await Deno.remove(`${cluster.stateDir(id)}/profile`);
console.log(
  `${members} members, ${kind}, ${connections} connections: ${perSecond.toFixed(0)}/s while being profiled, ` +
    `p50 ${p50Ms} ms, p99 ${p99Ms} ms; load of the machine ${Deno.loadavg()[0]!.toFixed(1)}`,
);
for (const id of watched) {
  const file = `${cluster.stateDir(id)}/cpu.json`;
  let text: string | undefined;
  for (let tried = 0; text === undefined; tried++) {
    text = await Deno.readTextFile(file).catch(() => undefined);
    if (tried > 100) throw fault("deadline_exceeded", "no_profile", `Cannot find the profile of member ${id}`);
    await systemClock.sleep(100);
  }
  print(id === leader ? "leader" : "follower", JSON.parse(text) as Profile);
}
