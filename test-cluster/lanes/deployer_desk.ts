import { type ClusterStateInput, desiredSystemSchema } from "@ultracloud/cluster-state";
import { DeployerService, NodeService, RolloutService } from "@ultracloud/proto/deployer/v1";
import type { LaneRun } from "../harness/lane.ts";
import { waitFor } from "../harness/wait.ts";

export const workers = ["node04", "node05"] as const;
/** Times that do not make a lane wait. */
const quick = {
  health_check_command: ["health"],
  health_check_grace_ms: 200,
  health_check_interval_ms: 200,
  health_check_attempts: 2,
  contact_timeout_ms: 60_000,
  free_bytes_min: 0,
};
const gib = 2 ** 30;
export const serialOf = (node: string) => `SN-${node}`;
export const diskName = "/dev/disk/by-id/virtio-uc-worker-root";

/** The deployer of the cluster under test, as its operator and as machines see it. */
export class DeployerDesk {
  readonly run: LaneRun;
  readonly #cache: { readonly url: string; readonly key: string };

  constructor(run: LaneRun, cache: { readonly url: string; readonly key: string }) {
    this.run = run;
    this.#cache = cache;
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

  /** Applies the cluster's own file, in which the workers become `target`. */
  async apply(target: string, change: Record<string, unknown> = {}) {
    const { file } = this.run.cluster;
    const state: ClusterStateInput = {
      ...file,
      nodes: Object.fromEntries(
        // The class says how it is installed, the node on which very disk.
        Object.entries(file.nodes).map(([name, node]) => [name, {
          ...node,
          serial: serialOf(name),
          ...(node.class === undefined ? {} : { install_plan: { expected_disk_serial: `D-${name}` } }),
        }]),
      ),
      classes: {
        worker: {
          ...file.classes.worker!,
          install_plan: {
            nixos_configuration: "worker",
            disko_config_path: "disko/worker.nix",
            target_disk_by_id: diskName,
            expected_disk_bytes_min: 4 * gib,
            expected_disk_bytes_max: 64 * gib,
          },
          desired_system: desiredSystemSchema.parse({ ...quick, ...change, target_system: target }),
        },
      },
      deployer: { binaryCacheUrl: this.#cache.url, trustedKeys: [this.#cache.key] },
    };
    return await this.deployer.applyClusterState({ stateJson: JSON.stringify(state) });
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
}

export const factsOf = (node: string, disk: Record<string, unknown> = {}) => ({
  serial: serialOf(node),
  disks: [{ by_id: [diskName], serial: `D-${node}`, bytes_count: 20 * gib, ...disk }],
});
