import { Session } from "node:inspector";

/** A process is profiled while this file exists in the directory that it watches. */
const wantedName = "profile";
/** What it leaves there afterwards. */
const resultName = "cpu.json";
const lookEveryMs = 100;
/** Microseconds between samples. */
const intervalUs = 200;
const functionsShown = 25;
/** The profiler's own frames: stopping it is no work of the process. */
const profilerUrl = "ext:deno_node/inspector.js";

/** What V8's profiler answers, as far as it is read here. */
export interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** In the process that is looked at, before its own entry: V8's profiler on while somebody asks by the directory. */
export function profileOnRequest(dir: string): void {
  const session = new Session();
  session.connect();
  session.post("Profiler.enable");
  session.post("Profiler.setSamplingInterval", { interval: intervalUs });
  let on = false;
  setInterval(() => {
    if (exists(`${dir}/${wantedName}`) === on) return;
    on = !on;
    if (on) return session.post("Profiler.start");
    session.post("Profiler.stop", (error, answer) => {
      if (error) throw error;
      Deno.writeTextFileSync(`${dir}/${resultName}.tmp`, JSON.stringify(answer.profile));
      Deno.renameSync(`${dir}/${resultName}.tmp`, `${dir}/${resultName}`);
    });
  }, lookEveryMs);
}

/** In the process that looks: profiles those that watch the directories during `work`; answers in their order. */
export async function profileDuring(dirs: readonly string[], work: () => Promise<void>): Promise<CpuProfile[]> {
  for (const dir of dirs) await Deno.writeTextFile(`${dir}/${wantedName}`, "");
  try {
    await work();
  } finally {
    for (const dir of dirs) await Deno.remove(`${dir}/${wantedName}`);
  }
  return await Promise.all(dirs.map(async (dir) => {
    for (const end = performance.now() + 20_000; !exists(`${dir}/${resultName}`);) {
      if (performance.now() > end) throw new Error(`Cannot find ${dir}/${resultName} after 20 s: is it watched?`);
      await new Promise((resolve) => setTimeout(resolve, lookEveryMs));
    }
    const text = await Deno.readTextFile(`${dir}/${resultName}`);
    // The next one of this process is told by its own.
    await Deno.remove(`${dir}/${resultName}`);
    return JSON.parse(text) as CpuProfile;
  }));
}

/** What a function belongs to. */
function partOf(functionName: string, url: string): string {
  if (functionName === "(idle)") return "idle";
  if (functionName === "(garbage collector)") return "garbage collection";
  if (functionName === "(program)") return "native: system calls, HTTP, SQLite, timers";
  const own = /\/(lib\/[a-z-]+|services\/[a-z-]+(?:\/[a-z]+(?=\/))?)/.exec(url)?.[1];
  if (own !== undefined) return own;
  if (/bufbuild|connectrpc/.test(url)) return "protobuf, connect";
  const extension = /^ext:(?:deno_)?([a-z_]+)/.exec(url)?.[1];
  return extension === undefined ? "other" : `runtime: ${extension}`;
}

/** Self time while the process was busy, in percent, by part and by function. */
export function describeProfile(title: string, { nodes, samples, timeDeltas }: CpuProfile): string {
  const byId = new Map(nodes.map(({ id, callFrame }) => [id, callFrame]));
  const parts = new Map<string, number>(), functions = new Map<string, number>();
  let busyUs = 0, idleUs = 0;
  for (const [i, id] of samples.entries()) {
    const { functionName, url, lineNumber } = byId.get(id)!;
    const part = partOf(functionName, url), tookUs = timeDeltas[i]!;
    if (url === profilerUrl) continue;
    if (part === "idle") {
      idleUs += tookUs;
      continue;
    }
    busyUs += tookUs;
    parts.set(part, (parts.get(part) ?? 0) + tookUs);
    const name = `${functionName || "(anonymous)"} ${url.replace(/^.*\/(?=[^/]+\/[^/]+$)/, "")}:${lineNumber + 1}`;
    functions.set(name, (functions.get(name) ?? 0) + tookUs);
  }
  const lines = (of: Map<string, number>, indent: string) =>
    [...of].sort((a, b) => b[1] - a[1]).slice(0, functionsShown).map(([name, us]) =>
      `${indent}${name.slice(0, 70).padEnd(72)}${(100 * us / busyUs).toFixed(1).padStart(6)}`
    );
  const busy = (100 * busyUs / (busyUs + idleUs)).toFixed(0);
  return [
    `\n${title}: busy ${busy} % of the time; of that, in %`,
    ...lines(parts, "  "),
    "  functions",
    ...lines(functions, "    "),
  ].join("\n");
}
