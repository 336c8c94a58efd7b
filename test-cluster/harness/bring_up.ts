import { fault } from "@ultracloud/base";
import { type ClusterFile, parseClusterFile } from "@ultracloud/launch";
import { Cluster, clusterFileName, workspaceFleet } from "./cluster.ts";
import { assertBuilt } from "./component_matrix.ts";
import type { ClusterHome } from "./home.ts";
import { Journal } from "./journal.ts";
import type { LaneProgress } from "./lane.ts";
import { NetnsSubstrate } from "./netns.ts";
import { nixReasons } from "./nix_agents.ts";
import { QemuSubstrate } from "./qemu/qemu.ts";
import { readSettings, type SubstrateSettings, withSettings } from "./settings.ts";
import type { Substrate } from "./substrate.ts";
import { setPatience } from "./wait.ts";

export type SubstrateName = Substrate["name"];
export const substrateNames: readonly SubstrateName[] = ["netns", "qemu"];

function substrateOf(
  name: SubstrateName,
  home: ClusterHome,
  file: ClusterFile,
  settings: SubstrateSettings,
): Substrate {
  const journal = new Journal(home.journalFile);
  setPatience(settings.patience);
  return name === "netns" ? new NetnsSubstrate(home, file, journal) : new QemuSubstrate(home, file, journal, settings);
}

/** Makes a cluster from nothing and starts what its file names. The network stands already. */
export async function bringUp(
  home: ClusterHome,
  file: ClusterFile,
  name: SubstrateName,
  progress: LaneProgress,
  signal: AbortSignal,
  options: {
    readonly entries?: Readonly<Record<string, string>> | undefined;
    /** Gets the cluster before it is whole, so that what it says is not lost when it never becomes so. */
    readonly made?: (cluster: Cluster) => void;
  } = {},
): Promise<Cluster> {
  const settings = await readSettings(name);
  const whole = withSettings(file, settings);
  const substrate = substrateOf(name, home, whole, settings);
  const fleet = await workspaceFleet();
  assertBuilt(whole, fleet);
  const cluster = new Cluster(home, whole, substrate, fleet, options.entries);
  options.made?.(cluster);
  progress.step(`make ${cluster.nodes.length} nodes on ${name}`);
  await cluster.prepare();
  for (const node of cluster.nodes) {
    signal.throwIfAborted();
    await cluster.substrate.create(node);
  }
  await Deno.writeTextFile(home.madeFile, "");
  progress.step("start every component");
  await cluster.startAll({
    signal,
    onReady: ({ node, component, ms }) =>
      progress.step(`${component} on ${node} is ready after ${(ms / 1000).toFixed(1)} s`),
  });
  for (const line of await nixReasons(cluster)) progress.step(line);
  return cluster;
}

/** The cluster that is up; a fault when there is none. */
export async function openCluster(home: ClusterHome): Promise<Cluster> {
  const path = `${home.stateDir}/${clusterFileName}`;
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw fault("failed_precondition", "no_cluster", "Cannot find a running cluster: wanted `deno task cluster up`", {
      cause,
    });
  }
  const { substrate: name, entries, file } = JSON.parse(text) as {
    readonly substrate: SubstrateName;
    readonly entries: Readonly<Record<string, string>>;
    readonly file: unknown;
  };
  const parsed = parseClusterFile(JSON.stringify(file), path);
  const substrate = substrateOf(name, home, parsed, await readSettings(name));
  return new Cluster(home, parsed, substrate, await workspaceFleet(), entries);
}
