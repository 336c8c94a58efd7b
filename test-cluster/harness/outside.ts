import { fault } from "@ultracloud/base";
import { type ClusterFile, helpersOf, helperSource } from "@ultracloud/launch";
import { workspaceRoot } from "@ultracloud/testing";
import { cleanHome } from "./clean.ts";
import type { SubstrateName } from "./bring_up.ts";
import { workspaceFleet } from "./cluster.ts";
import { buildNodeImage } from "./qemu/node_image.ts";
import { buildPrograms, helperProgram } from "./qemu/programs.ts";
import { imagesFile, type QemuImages } from "./qemu/qemu.ts";
import type { ClusterHome } from "./home.ts";
import { Journal } from "./journal.ts";
import { createLan, enterNamespace, lanName, lanStands, reasonAgainstNamespaces } from "./lan.ts";
import { readSettings, v8FlagsOf } from "./settings.ts";
import { runTool } from "./tools.ts";

/** Refuses with the reason when this machine cannot hold a test cluster. */
export function requireHost(): void {
  const reason = reasonAgainstNamespaces();
  if (reason === undefined) return;
  throw fault("failed_precondition", "host_unfit", `Cannot make a test cluster here: ${reason}`);
}

/** True when a cluster is up, or stopped with its data. */
export async function clusterStands(home: ClusterHome): Promise<boolean> {
  const made = await Deno.stat(home.madeFile).then(() => true, () => false);
  return made && await lanStands(home);
}

/** Removes what is there, loads what the nodes cannot load themselves, and makes the network. */
export async function prepareHost(
  home: ClusterHome,
  file: ClusterFile,
  substrate: SubstrateName,
  say: (text: string) => void,
  entries: Readonly<Record<string, string>> = {},
): Promise<void> {
  const cleaned = await cleanHome(home);
  if (cleaned.namespaces > 0) {
    say(`cleaned up ${cleaned.processes} processes and ${cleaned.namespaces} namespaces of an earlier run`);
  }
  const programs = { ...await programsOf(file), ...entries };
  const images = substrate === "qemu" ? await buildImages(home, programs, say) : await loadSources(programs);
  const journal = new Journal(home.journalFile);
  for (const path of [home.stateDir, home.runDir]) journal.record({ kind: "dir", path });
  await Deno.mkdir(home.stateDir, { recursive: true, mode: 0o700 });
  if (images !== undefined) await Deno.writeTextFile(imagesFile(home), JSON.stringify(images, null, 2) + "\n");
  await createLan(home, file.network, journal);
}

/** Programs of the components that the cluster names, with their helpers. */
async function programsOf(file: ClusterFile): Promise<Record<string, string>> {
  const names = new Set(Object.values(file.nodes).flatMap((node) => [...node.components, ...node.standby]));
  const fleet = await workspaceFleet();
  return Object.fromEntries(
    [...fleet].filter(([component]) => names.has(component)).flatMap(([component, { manifest, dir }]) => [
      [component, `${dir}/${manifest.entry}`],
      ...helpersOf(manifest).map((name) => [helperProgram(component, name), helperSource(dir, name)]),
    ]),
  );
}

/** Nodes as VMs boot from images and reach nothing outside. */
async function buildImages(
  home: ClusterHome,
  programs: Readonly<Record<string, string>>,
  say: (text: string) => void,
): Promise<QemuImages> {
  const v8Flags = v8FlagsOf(await readSettings("qemu"));
  const { kernel, initrd, root } = await buildNodeImage(home.cacheDir, say);
  return { kernel, initrd, root, programs: await buildPrograms(home.cacheDir, programs, v8Flags, say) };
}

/** Nodes reach nothing outside: every module their components need is fetched before. */
async function loadSources(programs: Readonly<Record<string, string>>): Promise<undefined> {
  const entries = Object.values(programs);
  if (entries.length === 0) return;
  const argv = [Deno.execPath(), "cache", "--quiet", "--frozen", `--config=${workspaceRoot}/deno.json`, ...entries];
  const { code, stderr } = await runTool(argv, { timeoutMs: 300_000, cwd: workspaceRoot });
  if (code === 0) return;
  throw fault(
    "unavailable",
    "sources_missing",
    `Cannot load the sources of the components: ${stderr.trim().slice(-600)}`,
  );
}

const besideNodes = "UC_CLUSTER_BESIDE_NODES";

/**
 * Runs this program again, on this terminal, where it reaches the nodes; undefined when it does so already. Nodes of
 * netns are reached from everywhere.
 */
export async function runBesideNodes(home: ClusterHome, argv: readonly string[]): Promise<number | undefined> {
  const stands = await Deno.stat(imagesFile(home)).then(() => true, () => false) && await clusterStands(home);
  if (!stands || Deno.env.has(besideNodes)) return undefined;
  const [program, ...args] = [...enterNamespace(lanName(home)), ...thisProgram, ...argv] as [string, ...string[]];
  const env = { ULTRACLOUD_WORK_ROOT: home.workRoot, [besideNodes]: "1" };
  return (await new Deno.Command(program, { args, env, stdin: "inherit" }).spawn().status).code;
}

const thisProgram = [
  ...[Deno.execPath(), "run", "--quiet", "-A", `--config=${workspaceRoot}/deno.json`],
  `${workspaceRoot}/test-cluster/main.ts`,
];

/**
 * Runs this program again inside the cluster's network and answers its exit code. Its standard input is a pipe that
 * ends with this process, however it ends: then the inner one stops.
 */
export async function runInside(home: ClusterHome, words: readonly string[]): Promise<number> {
  const [program, ...args] = [
    ...enterNamespace(lanName(home)),
    ...thisProgram,
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
