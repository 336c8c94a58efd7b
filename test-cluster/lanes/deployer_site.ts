import assert from "node:assert/strict";
import { fault } from "@ultracloud/base";
import { type ClusterStateInput, desiredSystemSchema } from "@ultracloud/cluster-state";
import { DeployerService, type Node, NodeService, RolloutService, SystemState } from "@ultracloud/proto/deployer/v1";
import { type CacheServer, openNixBox, serveCache, type Workshop } from "@ultracloud/testing";
import type { LaneRun } from "../harness/lane.ts";
import { waitFor } from "../harness/wait.ts";

export const workers = ["node04", "node05"] as const;
export const healthy = { health: "#!/bin/sh\nexit 0\n" };
export const sick = { health: "#!/bin/sh\necho disk controller missing\nexit 3\n" };

/** Times that do not make a lane wait. */
const quick = {
  health_check_command: ["health"],
  health_check_grace_ms: 200,
  health_check_interval_ms: 200,
  health_check_attempts: 2,
  contact_timeout_ms: 60_000,
  free_bytes_min: 0,
};
export const serialOf = (node: string) => `SN-${node}`;
export const diskName = "/dev/disk/by-id/virtio-uc-worker-root";

/** Unpacks Nix below the work root; a lane that has none is red and says why. */
export async function prepareNix(): Promise<void> {
  const box = await openNixBox();
  if (typeof box === "string") throw fault("failed_precondition", "nix_missing", `Cannot run the lane: ${box}`);
}

/** The deployer of the cluster under test, and hosts with real Nix stores that fetch from a cache of the lane. */
export class Site implements AsyncDisposable {
  readonly run: LaneRun;
  readonly workshop: Workshop;
  readonly cache: CacheServer;
  readonly #dir: string;

  constructor(run: LaneRun, dir: string, workshop: Workshop, cache: CacheServer) {
    this.run = run;
    this.#dir = dir;
    this.workshop = workshop;
    this.cache = cache;
  }

  static async open(run: LaneRun): Promise<Site> {
    const box = await openNixBox();
    if (typeof box === "string") throw new Error(`Cannot run the lane: ${box}`);
    // Agents are started with the environment of the harness.
    Deno.env.set("PATH", `${box.binDir}:${Deno.env.get("PATH") ?? ""}`);
    const dir = await Deno.makeTempDir({ prefix: "uc-lane-nix-" });
    await Deno.mkdir(`${dir}/cache`);
    const { operatorAddress } = run.cluster.file.network;
    return new Site(run, dir, await box.workshop(`${dir}/workshop`), serveCache(`${dir}/cache`, operatorAddress));
  }

  get deployer() {
    return this.run.cluster.clients.of(DeployerService, "deployer", { timeoutMs: 30_000, retries: 8 });
  }
  get nodes() {
    return this.run.cluster.clients.of(NodeService, "deployer", { timeoutMs: 30_000, retries: 8 });
  }
  get rollouts() {
    return this.run.cluster.clients.of(RolloutService, "deployer", { timeoutMs: 30_000, retries: 8 });
  }

  async system(name: string, bin: Record<string, string> = healthy, o: { unsigned?: boolean } = {}): Promise<string> {
    const system = await this.workshop.build({ name, bin, library: name });
    await this.workshop.publish(system, `${this.#dir}/cache`, o);
    return system;
  }

  /** Applies the cluster's own file, in which the workers become `target`. */
  async apply(target: string, change: Record<string, unknown> = {}) {
    const { file } = this.run.cluster;
    const state: ClusterStateInput = {
      ...file,
      nodes: Object.fromEntries(
        Object.entries(file.nodes).map(([name, node]) => [name, { ...node, serial: serialOf(name) }]),
      ),
      classes: {
        worker: {
          ...file.classes.worker!,
          install_plan: {
            nixos_configuration: "worker",
            disko_config_path: "disko/worker.nix",
            target_disk_by_id: diskName,
          },
          desired_system: desiredSystemSchema.parse({ ...quick, ...change, target_system: target }),
        },
      },
      deployer: { binaryCacheUrl: this.cache.url, trustedKeys: [this.workshop.publicKey] },
    };
    return await this.deployer.applyClusterState({ stateJson: JSON.stringify(state) });
  }

  #hostDir(node: string): string {
    return `${this.run.cluster.substrate.dirs(node).state}/nix-agent/host`;
  }

  /** Starts the host's agent on a new boot. */
  async boot(node: string, bootId: string): Promise<void> {
    await Deno.mkdir(`${this.#hostDir(node)}/run`, { recursive: true });
    await Deno.writeTextFile(`${this.#hostDir(node)}/boot_id`, `${bootId}\n`);
    await this.run.cluster.start(node, "nix-agent");
  }

  /** What the host was switched to, in order, by the names of the systems. */
  async activations(node: string): Promise<string[]> {
    const text = await Deno.readTextFile(`${this.#hostDir(node)}/run/activations`).catch(() => "");
    return text.split("\n").filter((line) => line !== "").map((line) => line.replace(/ \w{32}-/, " "));
  }

  async bootDefault(node: string): Promise<string> {
    return (await Deno.readTextFile(`${this.#hostDir(node)}/boot/default`).catch(() => "")).trim();
  }

  /** Waits until the deployer has observed the state with the system. */
  async observed(node: string, state: SystemState, system: string, reason = /^/): Promise<Node> {
    let seen = "nothing";
    try {
      return await waitFor(
        { timeoutMs: 120_000, what: `${SystemState[state]} on ${node}`, everyMs: 200, signal: this.run.signal },
        async () => {
          const found = await this.nodes.getNode({ node });
          const { observed } = found;
          seen = observed ? `${SystemState[observed.state]} ${observed.targetSystem}: ${observed.reason}` : "nothing";
          const matches = observed?.state === state && observed.targetSystem === system && reason.test(observed.reason);
          return matches ? found : undefined;
        },
      );
    } catch (cause) {
      throw new Error(`Cannot see ${SystemState[state]} of ${system} on ${node}: saw ${seen}`, { cause });
    }
  }

  /** Waits until the process of a trial says this phase. */
  async trialPhase(node: string, phase: string): Promise<void> {
    const path = `${this.run.cluster.substrate.dirs(node).state}/nix-agent/trial/phase`;
    await waitFor(
      { timeoutMs: 60_000, what: `phase ${phase} on ${node}`, everyMs: 50, signal: this.run.signal },
      async () => (await Deno.readTextFile(path).catch(() => "")).trim() === phase || undefined,
    );
  }

  /** The deployer that writes, by the node it runs on. */
  async writer(): Promise<string> {
    return await waitFor({ timeoutMs: 60_000, what: "a writer", everyMs: 200, signal: this.run.signal }, async () => {
      for (const node of this.run.cluster.nodesWith("deployer")) {
        const client = this.run.cluster.clients.of(DeployerService, "deployer", { node, timeoutMs: 3_000, retries: 0 });
        const status = await client.getStatus({}).catch(() => undefined);
        if (status?.writing) return node;
      }
      return undefined;
    });
  }

  /** A machine calls from outside, with the CA that it pins. */
  async phoneHome(at: string, token: string, facts: Record<string, unknown>) {
    const { cluster } = this.run;
    const ca = await Deno.readTextFile(`${cluster.substrate.etcDir(at)}/deployer/tls-ca.crt`);
    using client = Deno.createHttpClient({ caCerts: [ca] });
    const response = await fetch(`https://${cluster.file.nodes[at]!.address}:7152/api/v1/phone-home`, {
      client,
      method: "POST",
      headers: { authorization: `Bearer ${token}` },
      body: JSON.stringify({ facts }),
    });
    // deno-lint-ignore no-explicit-any -- each check knows what it asked for
    return { status: response.status, body: await response.json() as any };
  }

  /** The artifacts that say what the run proves and what it does not. */
  async scope(proves: string, not: string): Promise<void> {
    await this.run.evidence("deployer-scope-fixed.txt", `proves: ${proves}\nnot: ${not}\n`);
    const { nodes } = await this.nodes.listNodes({});
    await this.run.evidence("deployer-list.json", nodes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of workers) await this.run.cluster.stop(node, "nix-agent").catch(() => {});
    await this.cache[Symbol.asyncDispose]();
    await new Deno.Command("rm", { args: ["-rf", this.#dir] }).output();
  }
}

export const factsOf = (node: string, disk: Record<string, unknown> = {}) => ({
  serial: serialOf(node),
  disks: [{ by_id: [diskName], serial: `D-${node}`, bytes_count: 20 * 2 ** 30, ...disk }],
});

/** Both workers run the system, each switched to it once and in turn. */
export async function rolledOut(site: Site, system: string): Promise<string> {
  for (const node of workers) await site.observed(node, SystemState.ACTIVE, system);
  const starts = [];
  for (const node of workers) {
    assert.equal(await site.bootDefault(node), system);
    starts.push(`${node}: ${(await site.activations(node)).join(", ")}`);
  }
  return starts.join("; ");
}
