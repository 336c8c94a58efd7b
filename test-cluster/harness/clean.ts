import { fault } from "@ultracloud/base";
import { endProcesses, identify, type ProcessIdentity } from "@ultracloud/launch";
import type { ClusterHome } from "./home.ts";
import { readJournal, type Resource } from "./journal.ts";
import { runTool, tool } from "./tools.ts";

export interface CleanReport {
  readonly processes: number;
  readonly namespaces: number;
  readonly mounts: number;
}

/** Removes everything the journal of this home names, in an order that always works, and the journal last. */
export async function cleanHome(home: ClusterHome): Promise<CleanReport> {
  const resources = readJournal(home.journalFile);
  for (const resource of resources) assertOurs(home, resource);
  const present = new Set(await namespaces());
  const names = of(resources, "namespace").map((r) => r.name).filter((name) => present.has(name));
  const processes = (await Promise.all(names.map(processesIn))).flat();
  await endProcesses(processes, 0);
  // A process that was being started when its namespace was looked at.
  for (let tries = 0; tries < 50; tries++) {
    const left = (await Promise.all(names.map(processesIn))).flat();
    if (left.length === 0) break;
    await endProcesses(left, 0);
  }
  let mounts = 0;
  for (const { path } of of(resources, "mount").reverse()) {
    const { code } = await runTool(["umount", path]);
    if (code === 0) mounts++;
    // Something outside still looks at it: it goes when that ends.
    else if (isMounted(path)) await tool(["umount", "-l", path]);
  }
  for (const name of names) await tool(["ip", "netns", "del", name]);
  for (const { path } of of(resources, "dir")) await removeDir(path);
  await Deno.remove(home.journalFile).catch(() => {});
  return { processes: processes.length, namespaces: names.length, mounts };
}

/** Every process inside a namespace. */
export async function processesIn(namespace: string): Promise<ProcessIdentity[]> {
  const { code, stdout } = await runTool(["ip", "netns", "pids", namespace]);
  if (code !== 0) return [];
  return stdout.split("\n").filter((line) => line !== "").map((line) => identify(Number(line))).filter((p) =>
    p !== undefined
  );
}

/** Names of the namespaces of this machine. */
export async function namespaces(): Promise<string[]> {
  const text = await tool(["ip", "netns", "list"]);
  return text.split("\n").map((line) => line.split(" ")[0]!).filter((name) => name !== "");
}

function of<K extends Resource["kind"]>(resources: readonly Resource[], kind: K): Extract<Resource, { kind: K }>[] {
  return resources.filter((r): r is Extract<Resource, { kind: K }> => r.kind === kind);
}

/** A journal that was edited or copied must not become a way to delete what is somebody's. */
function assertOurs(home: ClusterHome, resource: Resource): void {
  const ours = resource.kind === "namespace"
    ? resource.name.startsWith(`${home.prefix}-`)
    : [home.stateDir, home.runDir].some((dir) => resource.path === dir || resource.path.startsWith(`${dir}/`));
  if (ours) return;
  throw fault(
    "failed_precondition",
    "journal_foreign",
    `Cannot clean ${JSON.stringify(resource)} of ${home.journalFile}: it does not belong to this work root`,
  );
}

function isMounted(path: string): boolean {
  return Deno.readTextFileSync("/proc/mounts").split("\n").some((line) => line.split(" ")[1] === path);
}

async function removeDir(path: string): Promise<void> {
  await Deno.remove(path, { recursive: true }).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
}
