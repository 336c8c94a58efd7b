import { createHash } from "node:crypto";
import type { Limits } from "../domain/confinement.ts";
import type { Confinement, Probe } from "./confinement.ts";

/** Where version 2 of control groups may be mounted. */
const mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/** Controller of each limit. */
const controllers: Readonly<Record<keyof Limits, string>> = {
  cpuMillis: "cpu",
  memoryBytes: "memory",
  tasksMax: "pids",
};
const cpuPeriodUs = 100_000;
/** A killed group empties within milliseconds, unless a process hangs in the kernel. */
const emptyMsMax = 5_000;
const makeTries = 5;

const exists = (path: string): boolean => {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
};

/** The mounts, and the directory of our groups below one of them. */
export function cgroupParent(mount: string): string {
  return `${mount}/ultracloud`;
}

/** What control groups of version 2 can do here; a sentence when there are none for us. */
export function probeCgroup(among: readonly string[] = mounts): Probe | string {
  const mount = among.find((path) => exists(`${path}/cgroup.controllers`));
  if (mount === undefined) return "control groups of version 2 are not mounted";
  const parent = cgroupParent(mount);
  try {
    Deno.mkdirSync(parent, { recursive: true });
    // A directory anywhere else can be made too; only here the kernel fills it.
    if (!exists(`${parent}/cgroup.kill`)) return `${parent} has no cgroup.kill: the kernel is older than 5.14`;
  } catch (error) {
    return `${parent} cannot be made: ${error instanceof Error ? error.message : error}`;
  }
  const there = Deno.readTextFileSync(`${mount}/cgroup.controllers`).trim().split(" ");
  const holds: (keyof Limits)[] = [];
  const lacking: string[] = [];
  for (const [limit, controller] of Object.entries(controllers) as [keyof Limits, string][]) {
    const why = !there.includes(controller)
      ? "is not part of it (version 1 may have it)"
      : enable(mount, controller) ?? enable(parent, controller);
    if (why === undefined) holds.push(limit);
    else lacking.push(`${limit}: ${controller} ${why}`);
  }
  const reason = [`control groups of version 2 below ${parent}`, ...lacking].join("; ");
  return { kind: "cgroup", holds, reason };
}

/** Gives the children of a group a controller; a sentence when they cannot have it. */
function enable(dir: string, controller: string): string | undefined {
  try {
    Deno.writeTextFileSync(`${dir}/cgroup.subtree_control`, `+${controller}`);
    return undefined;
  } catch (error) {
    return `cannot be given to the groups in ${dir}: ${error instanceof Error ? error.message : error}`;
  }
}

/** Group of an instance; instances of another state directory have another parent. */
function groupOf(o: { readonly stateDir: string; readonly id: string }, among: readonly string[]): string {
  const mount = among.find((path) => exists(`${path}/cgroup.controllers`));
  const own = createHash("sha256").update(o.stateDir).digest("hex").slice(0, 8);
  return `${cgroupParent(mount!)}/${own}/${o.id}`;
}

/** Makes the group of an instance with its limits, empty. */
export async function openCgroup(
  o: { readonly stateDir: string; readonly id: string; readonly limits: Limits; readonly text: string },
  among: readonly string[] = mounts,
): Promise<Confinement> {
  const dir = groupOf(o, among);
  const parent = dir.slice(0, dir.lastIndexOf("/"));
  const kill = async () => {
    if (!exists(dir)) return;
    Deno.writeTextFileSync(`${dir}/cgroup.kill`, "1");
    for (const end = performance.now() + emptyMsMax; performance.now() < end && isPopulated(dir);) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  const { cpuMillis, memoryBytes, tasksMax } = o.limits;
  await kill();
  for (let tries = 1;; tries++) {
    try {
      Deno.mkdirSync(parent, { recursive: true });
      for (const limit of Object.keys(o.limits) as (keyof Limits)[]) {
        const why = enable(parent, controllers[limit]);
        if (why !== undefined) throw new Error(`limit ${limit} cannot be held: ${controllers[limit]} ${why}`);
      }
      if (!exists(dir)) Deno.mkdirSync(dir);
      break;
    } catch (error) {
      // The last instance of this agent has just ended and taken the parent with it.
      if (!(error instanceof Deno.errors.NotFound) || tries === makeTries) throw error;
    }
  }
  const set = (file: string, value: string) => Deno.writeTextFileSync(`${dir}/${file}`, value);
  if (cpuMillis !== undefined) set("cpu.max", `${cpuMillis * cpuPeriodUs / 1000} ${cpuPeriodUs}`);
  if (tasksMax !== undefined) set("pids.max", String(tasksMax));
  if (memoryBytes !== undefined) {
    set("memory.max", String(memoryBytes));
    // Half an instance is none.
    set("memory.oom.group", "1");
    // What may not be in memory may not be swapped out either; without swap there is no such file.
    if (exists(`${dir}/memory.swap.max`)) set("memory.swap.max", "0");
  }
  return {
    text: o.text,
    // It goes in by itself, before it is what it shall be: nothing it starts can be outside.
    wrap: (command) => ["/bin/sh", "-c", `echo $$ > '${dir}/cgroup.procs' && exec "$@"`, "sh", ...command],
    kill,
    outOfMemory: () => Promise.resolve(oomKills(dir) > 0),
    [Symbol.asyncDispose]() {
      try {
        Deno.removeSync(dir);
        Deno.removeSync(parent);
      } catch {
        // Others are in the parent; or a process hangs in the kernel, and the next instance of this id ends it.
      }
      return Promise.resolve();
    },
  };
}

function isPopulated(dir: string): boolean {
  return /^populated 1$/m.test(Deno.readTextFileSync(`${dir}/cgroup.events`));
}

function oomKills(dir: string): number {
  try {
    return Number(/^oom_kill (\d+)$/m.exec(Deno.readTextFileSync(`${dir}/memory.events`))?.[1] ?? 0);
  } catch {
    return 0;
  }
}
