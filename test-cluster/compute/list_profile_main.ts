/**
 * Where the time of plasmavmc goes while 1 000 VMs are listed again and again: self time by part and by function.
 * `deno run -A test-cluster/compute/list_profile_main.ts [seconds]`
 */
import { ComputeCloud, project, until } from "./cloud.ts";
import { fillWithVms, planeStore } from "./_thousand_vms.ts";

const seconds = Number(Deno.args[0] ?? 5);

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
  const own = /\/(lib\/[a-z]+|services\/plasmavmc(?:\/[a-z]+(?=\/))?)/.exec(url)?.[1];
  if (own !== undefined) return own;
  if (/bufbuild|connectrpc/.test(url)) return "protobuf, connect";
  const extension = /^ext:(?:deno_)?([a-z_]+)/.exec(url)?.[1];
  return extension === undefined ? "other" : `runtime: ${extension}`;
}

const line = (name: string, share: string) => `  ${name.slice(0, 70).padEnd(72)}${share.padStart(6)}`;

function print(title: string, { nodes, samples, timeDeltas }: Profile): void {
  const byId = new Map(nodes.map(({ id, callFrame }) => [id, callFrame]));
  const parts = new Map<string, number>(), functions = new Map<string, number>();
  let busyUs = 0;
  for (const [i, id] of samples.entries()) {
    const { functionName, url, lineNumber } = byId.get(id)!;
    const part = partOf(functionName, url), tookUs = timeDeltas[i]!;
    if (url !== "ext:deno_node/inspector.js") parts.set(part, (parts.get(part) ?? 0) + tookUs);
    // Stopping the profiler is no work of the service.
    if (part === "idle" || url === "ext:deno_node/inspector.js") continue;
    busyUs += tookUs;
    const name = `${functionName || "(anonymous)"} ${url.replace(/^.*\/(?=[^/]+\/[^/]+$)/, "")}:${lineNumber + 1}`;
    functions.set(name, (functions.get(name) ?? 0) + tookUs);
  }
  const idleUs = parts.get("idle") ?? 0;
  console.log(`\n${title}: busy ${(100 * busyUs / (busyUs + idleUs)).toFixed(0)} % of the time; of that, in %`);
  const percent = (us: number) => (100 * us / busyUs).toFixed(1);
  const sorted = (of: Map<string, number>) => [...of].filter(([name]) => name !== "idle").sort((a, b) => b[1] - a[1]);
  for (const [name, us] of sorted(parts)) console.log(line(name, percent(us)));
  console.log("  functions");
  for (const [name, us] of sorted(functions).slice(0, 25)) console.log(line(`  ${name}`, percent(us)));
}

const dir = await Deno.makeTempDir({ prefix: "ucprofile" });
try {
  await using cloud = await ComputeCloud.open({ workers: ["n1"], profileDir: dir });
  await fillWithVms(cloud, planeStore(cloud), 1_000);
  const list = async () => void await cloud.vms.listVms({ project, page: { pageSize: 1_000 } });
  for (let i = 0; i < 20; i++) await list();
  await Deno.writeTextFile(`${dir}/on`, "");
  const start = performance.now();
  let calls = 0;
  for (; performance.now() - start < seconds * 1_000; calls++) await list();
  const spentMs = performance.now() - start;
  await Deno.remove(`${dir}/on`);
  let text = "";
  await until("the profile is written", 20_000, async () => (text = await Deno.readTextFile(`${dir}/cpu.json`)) !== "");
  print(`${calls} lists, ${(spentMs / calls).toFixed(1)} ms each while being profiled`, JSON.parse(text) as Profile);
} finally {
  await Deno.remove(dir, { recursive: true });
}
