/**
 * What runs inside the cluster's network: the part of a command that speaks to components.
 */
import { fault } from "@ultracloud/base";
import { laneOf } from "../lanes/mod.ts";
import { startWebapp } from "../lanes/webapp.ts";
import { bringUp, openCluster, type SubstrateName } from "./bring_up.ts";
import { type Cluster, readClusterFile } from "./cluster.ts";
import type { ClusterHome } from "./home.ts";
import { forward, openWay } from "./forward.ts";
import type { Lane, LaneArgs } from "./lane.ts";
import { runLane } from "./run_lane.ts";
import { without } from "./settings.ts";
import { Tenant } from "./tenant.ts";
import { green, red, table, terminalProgress, yellow } from "./terminal.ts";

/** Where the outer process finds the application of `serve-vm-webapp`. */
export function webappSocket(home: ClusterHome): string {
  return `${home.runDir}/webapp.sock`;
}

/** What the outer process hands over. */
export interface InsideOrder {
  readonly command: "lane" | "up" | "status" | "stop" | "start-all" | "serve";
  readonly substrate: SubstrateName;
  /** As asked for; for `lane`. */
  readonly name: string;
  readonly clusterFile: string;
  /** The lane runs on the cluster that is up. */
  readonly running: boolean;
  readonly args: LaneArgs;
  /** Where the lane's artifacts go. */
  readonly artifactsRoot: string;
  readonly guestImage?: { readonly path: string; readonly sha256: string };
}

/** Runs the order; answers the exit code. Ends early when standard input does. */
export async function inside(home: ClusterHome, order: InsideOrder): Promise<number> {
  const stop = new AbortController();
  const watching = untilStdinEnds().then(() => stop.abort(new Error("Interrupted")));
  // Only a lost launcher ends it; nothing waits for it.
  watching.catch(() => {});
  switch (order.command) {
    case "lane":
      return await runOrder(home, order, stop.signal);
    case "up": {
      const file = await readClusterFile(order.clusterFile);
      using cluster = await bringUp(home, file, order.substrate, terminalProgress(), stop.signal);
      console.log(`${green("up")} ${cluster.nodes.length} nodes; next: deno task cluster status`);
      return 0;
    }
    case "start-all": {
      using cluster = await openCluster(home);
      for (const node of cluster.nodes) await cluster.substrate.powerOn(node);
      await cluster.startAll({ signal: stop.signal });
      console.log(green("up"));
      return 0;
    }
    case "serve":
      return await serveWebapp(home, order, stop.signal);
    case "status":
      return await status(home);
    case "stop": {
      using cluster = await openCluster(home);
      for (const node of cluster.nodes) {
        await cluster.substrate.resume(node);
        for (const { component } of await cluster.substrate.processes(node)) await cluster.stop(node, component);
        await cluster.substrate.powerOff(node);
      }
      console.log("stopped; the data is kept: `up` starts it again, `clean` removes it");
      return 0;
    }
  }
}

async function runOrder(home: ClusterHome, order: InsideOrder, signal: AbortSignal): Promise<number> {
  const { lane } = laneOf(order.name);
  const progress = terminalProgress();
  const { name, args } = order;
  const result = await runLane(
    { lane, name, args, signal, progress, guestImage: order.guestImage },
    order.artifactsRoot,
    order.substrate,
    async (made) =>
      order.running ? await runningCluster(home, lane, args) : await bringUp(
        home,
        without(await readClusterFile(order.clusterFile), lane.leavesOut?.(args, order.substrate) ?? []),
        order.substrate,
        progress,
        signal,
        { entries: lane.entries?.(args, order.substrate), made },
      ),
  );
  return result.success ? 0 : signal.aborted ? 130 : 1;
}

/** The cluster that is up; refused when it runs other programs than the lane is about. */
async function runningCluster(home: ClusterHome, lane: Lane, args: LaneArgs): Promise<Cluster> {
  const cluster = await openCluster(home);
  const wanted = Object.entries(lane.entries?.(args, cluster.substrate.name) ?? {});
  const same = wanted.length === Object.keys(cluster.entries).length &&
    wanted.every(([component, entry]) => cluster.entries[component] === entry);
  if (same) return cluster;
  cluster[Symbol.dispose]();
  throw fault(
    "failed_precondition",
    "cluster_differs",
    `Cannot run ${lane.name} on the cluster that is up: its stores are on another disk, wanted fresh-${lane.name} or another --disk`,
  );
}

/** A tenant's application behind a socket that the outer process reads from, until that ends. */
async function serveWebapp(home: ClusterHome, order: InsideOrder, signal: AbortSignal): Promise<number> {
  const progress = terminalProgress();
  using cluster = await openCluster(home);
  progress.step("a tenant, its network and its VM");
  const { tenant, vm } = await startWebapp({ cluster, guestImage: order.guestImage!, signal });
  const socket = webappSocket(home);
  await Deno.remove(socket).catch(() => {});
  const listener = Deno.listen({ transport: "unix", path: socket });
  progress.step(`the application runs on ${vm.node}; Ctrl-C removes it`);
  await forward(listener, () => openWay(cluster.substrate, vm.node, tenant.endpointOf(vm)), signal);
  await Deno.remove(socket).catch(() => {});
  // The signal has come: what follows is only to leave nothing behind.
  await new Tenant(cluster, tenant.project.split("/")[1]!, new AbortController().signal).delete(vm.meta!.name);
  return 0;
}

async function status(home: ClusterHome): Promise<number> {
  using cluster = await openCluster(home);
  const rows: string[][] = [["NODE", "ROLE", "ADDRESS", "COMPONENT", "STATE"]];
  let wrong = 0;
  for (const node of cluster.nodes) {
    const { role, address, components } = cluster.file.nodes[node]!;
    const running = await cluster.substrate.processes(node);
    const names = [...new Set([...components, ...running.map(({ component }) => component)])];
    if (names.length === 0) rows.push([node, role, address, "-", "-"]);
    for (const component of names) {
      const runs = running.some((process) => process.component === component);
      const ready = runs && await cluster.isReady(node, component);
      if (!ready) wrong++;
      rows.push([node, role, address, component, ready ? "ready" : runs ? "not ready" : "stopped"]);
    }
  }
  console.log(table(rows));
  console.log(wrong === 0 ? green("all ready") : red(`${wrong} not ready`), yellow(cluster.substrate.name));
  return wrong === 0 ? 0 : 1;
}

async function untilStdinEnds(): Promise<void> {
  const buffer = new Uint8Array(64);
  while (await Deno.stdin.read(buffer) !== null);
}
