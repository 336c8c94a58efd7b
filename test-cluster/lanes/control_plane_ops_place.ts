import { fault } from "@ultracloud/base";
import type { LaneRun } from "../harness/lane.ts";
import { operatorDir } from "../harness/keys.ts";
import { operatorTls } from "./control_plane_ops_load.ts";
import { readRunbooks, Runbook } from "./control_plane_ops_runbook.ts";

/** Where the lane works: the cluster, the operator's own files, and the page that is executed. */
export class Ops {
  readonly run: LaneRun;
  /** Files of the operator that runbooks make. */
  readonly dir: string;
  readonly contextsFile: string;
  /** Made for this run, as the lane may run again on the same cluster. */
  readonly project: string;
  readonly account = "load";
  /** What iam's replicas run with beyond the cluster's own settings. */
  iamChanges: Readonly<Record<string, unknown>> = {};
  readonly #books: ReadonlyMap<string, readonly string[]>;

  private constructor(run: LaneRun, books: ReadonlyMap<string, readonly string[]>) {
    this.run = run;
    this.#books = books;
    this.project = `ops/run-${Date.now().toString(36)}`;
    this.dir = `${operatorDir(run.cluster.home.stateDir)}/${this.project.split("/")[1]}`;
    this.contextsFile = `${this.dir}/uc.json`;
  }

  static async open(run: LaneRun): Promise<Ops> {
    const ops = new Ops(run, await readRunbooks());
    if (ops.agentNodes.length === 0) {
      throw fault(
        "failed_precondition",
        "no_agents",
        "Cannot rotate certificates on this cluster: wanted mtls-agent among the components or standby of its nodes",
      );
    }
    if (run.cluster.substrate.name !== "netns") {
      throw fault(
        "failed_precondition",
        "substrate_other",
        "Cannot put secrets beside components of this substrate: wanted netns",
      );
    }
    await Deno.mkdir(ops.dir, { recursive: true, mode: 0o700 });
    await ops.useNode(ops.iamNodes[0]!);
    return ops;
  }

  get cluster() {
    return this.run.cluster;
  }

  /** The cluster's clients use the certificates that are there now; those they held may have ended. */
  renewClients(): void {
    this.cluster.clients[Symbol.dispose]();
  }

  get iamNodes(): string[] {
    return this.cluster.nodesWith("iam");
  }

  get agentNodes(): string[] {
    return this.cluster.nodes.filter((node) => {
      const { components, standby } = this.cluster.file.nodes[node]!;
      return [...components, ...standby].includes("mtls-agent");
    });
  }

  /** The operator's `uc` speaks to the iam of this node from now on; whoever was logged in has to do so again. */
  async useNode(node: string): Promise<void> {
    const { cluster } = this;
    const endpoints: Record<string, string> = {};
    for (const component of ["chainfire", "flaredb", "prismnet", "plasmavmc"]) {
      endpoints[component] = cluster.endpoint(cluster.nodesWith(component)[0]!, component);
    }
    const context = {
      clusterId: cluster.file.clusterId,
      endpoint: `https://${cluster.file.nodes[node]!.address}`,
      endpoints: { ...endpoints, iam: cluster.endpoint(node, "iam") },
      project: this.project,
      operatorKeyFile: `${operatorDir(cluster.home.stateDir)}/identity.key`,
      tls: operatorTls(cluster),
    };
    const file = { version: 1, current: "cluster", contexts: { cluster: context }, credentials: {} };
    await Deno.writeTextFile(this.contextsFile, JSON.stringify(file), { mode: 0o600 });
  }

  runbook(section: string): Runbook {
    return new Runbook({
      section,
      commands: this.#books.get(section) ?? [],
      contextsFile: this.contextsFile,
      dir: this.dir,
      signal: this.run.signal,
    });
  }

  /** A file beside the configuration of a component, as the component sees it. */
  async writeSecret(node: string, component: string, name: string, text: string): Promise<string> {
    const { substrate } = this.cluster;
    const path = `${substrate.etcDir(node)}/${component}/${name}`;
    await Deno.writeTextFile(`${path}.new`, text, { mode: 0o600 });
    await Deno.rename(`${path}.new`, path);
    return `${substrate.dirs(node).etc}/${component}/${name}`;
  }
}

/** Restarts iam on a node with these settings beyond the cluster's own, and waits until it is ready. */
export async function startIam(ops: Ops, node: string, changes: Readonly<Record<string, unknown>>): Promise<void> {
  ops.iamChanges = changes;
  await ops.cluster.stop(node, "iam");
  await ops.cluster.configure(node, "iam", changes);
  await ops.cluster.start(node, "iam");
  ops.renewClients();
  await ops.cluster.waitReady(node, "iam", ops.run.signal);
}
