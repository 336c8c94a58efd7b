import { fault } from "@ultracloud/base";
import type { ClusterFile } from "@ultracloud/launch";
import { workspaceRoot } from "@ultracloud/testing";
import { cleanHome } from "./clean.ts";
import { clusterFileName } from "./cluster.ts";
import type { ClusterHome } from "./home.ts";
import { Journal } from "./journal.ts";
import { createLan, enterNamespace, lanName, lanStands, reasonAgainstNamespaces } from "./lan.ts";
import { runTool } from "./tools.ts";

/** Refuses with the reason when this machine cannot hold a test cluster. */
export function requireHost(): void {
  const reason = reasonAgainstNamespaces();
  if (reason === undefined) return;
  throw fault("failed_precondition", "host_unfit", `Cannot make a test cluster here: ${reason}`);
}

/** True when a cluster is up, or stopped with its data. */
export async function clusterStands(home: ClusterHome): Promise<boolean> {
  const file = await Deno.stat(`${home.stateDir}/${clusterFileName}`).catch(() => undefined);
  return file !== undefined && await lanStands(home);
}

/** Removes what is there, loads what the nodes cannot load themselves, and makes the network. */
export async function prepareHost(home: ClusterHome, file: ClusterFile, say: (text: string) => void): Promise<void> {
  const cleaned = await cleanHome(home);
  if (cleaned.namespaces > 0) {
    say(`cleaned up ${cleaned.processes} processes and ${cleaned.namespaces} namespaces of an earlier run`);
  }
  await loadSources(file);
  const journal = new Journal(home.journalFile);
  await createLan(home, file.network, journal);
}

/** Nodes reach nothing outside: every module their components need is fetched before. */
async function loadSources(file: ClusterFile): Promise<void> {
  const names = new Set(Object.values(file.nodes).flatMap((node) => [...node.components, ...node.standby]));
  const entries: string[] = [];
  for (const name of names) {
    for (const room of ["services", "agents"]) {
      const entry = `${workspaceRoot}/${room}/${name}/main.ts`;
      if (await Deno.stat(entry).catch(() => undefined)) entries.push(entry);
    }
  }
  const argv = [Deno.execPath(), "cache", "--quiet", "--frozen", `--config=${workspaceRoot}/deno.json`, ...entries];
  const { code, stderr } = await runTool(argv, { timeoutMs: 300_000, cwd: workspaceRoot });
  if (code === 0) return;
  throw fault(
    "unavailable",
    "sources_missing",
    `Cannot load the sources of the components: ${stderr.trim().slice(-600)}`,
  );
}

/**
 * Runs this program again inside the cluster's network and answers its exit code. Its standard input is a pipe that
 * ends with this process, however it ends: then the inner one stops.
 */
export async function runInside(home: ClusterHome, words: readonly string[]): Promise<number> {
  const [program, ...args] = [
    ...enterNamespace(lanName(home)),
    Deno.execPath(),
    "run",
    "--quiet",
    "-A",
    `--config=${workspaceRoot}/deno.json`,
    `${workspaceRoot}/test-cluster/main.ts`,
    "inside",
    ...words,
  ] as [string, ...string[]];
  const child = new Deno.Command(program, {
    args,
    stdin: "piped",
    env: { ULTRACLOUD_WORK_ROOT: home.workRoot },
    // In its own group: a Ctrl-C reaches it once, through the pipe.
    detached: true,
  }).spawn();
  const pipe = child.stdin.getWriter();
  let asked = 0;
  const onSignal = () => {
    if (asked++ === 0) pipe.close().catch(() => {});
    else child.kill("SIGKILL");
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, onSignal);
  try {
    const { code } = await child.status;
    return code;
  } finally {
    for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.removeSignalListener(signal, onSignal);
    await pipe.close().catch(() => {});
  }
}
