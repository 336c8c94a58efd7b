import assert from "node:assert/strict";
import { certificateSha256 } from "@ultracloud/bootstrap";
import {
  type AnyMarkerName,
  type ClusterStateInput,
  type DesiredSystemOverlay,
  type InstallPlanOverlay,
  type MarkerLine,
  markerNames,
} from "@ultracloud/cluster-state";
import { DeployerService, type Node, NodeService, SystemState } from "@ultracloud/proto/deployer/v1";
import { workspaceRoot } from "@ultracloud/testing";
import type { LaneRun } from "../harness/lane.ts";
import { tool } from "../harness/tools.ts";
import { waitFor } from "../harness/wait.ts";
import { CacheHost } from "./cache_host.ts";
import { writeSiteIso } from "./iso.ts";
import { Machine, makeMachine } from "./machine.ts";
import { type Prepared, readPrepared } from "./prepared.ts";

/** Where the control plane of the site runs. */
const siteNode = "site01";
/** A boot under the emulator on a host whose processors others want too; a step takes seconds where it is alone. */
const stepTimeoutMs = 600_000;

/** Serial of the board, and of the disk, of each machine. */
export const machines = {
  control01: { serial: "UC-SN-CONTROL-01", diskSerial: "uc-control-root" },
  worker01: { serial: "UC-SN-WORKER-01", diskSerial: "uc-worker-root" },
  spare01: { serial: "UC-SN-SPARE-01", diskSerial: "uc-spare-root" },
} as const;
export type NodeName = keyof typeof machines;

/** What a node's entry of the cluster state says beside what its class says. */
export interface Wish {
  readonly system: string;
  readonly desired?: DesiredSystemOverlay;
  readonly plan?: InstallPlanOverlay;
}

const quick: DesiredSystemOverlay = {
  health_check_command: ["health"],
  health_check_grace_ms: 500,
  health_check_interval_ms: 500,
  health_check_attempts: 2,
  contact_timeout_ms: 180_000,
  free_bytes_min: 0,
};

/** The deployer and the cache of the cluster under test, and machines of bare metal beside it. */
export class BareSite implements AsyncDisposable {
  readonly run: LaneRun;
  readonly prepared: Prepared;
  readonly cache: CacheHost;
  /** The same contents at an address of its own, for the machine whose cache is broken: the others go on. */
  readonly brokenCache: CacheHost;
  readonly #dir: string;
  readonly #machines = new Map<NodeName, Machine>();
  readonly #tokens = new Map<NodeName, string>();
  readonly #wishes = new Map<NodeName, Wish>();

  constructor(run: LaneRun, prepared: Prepared, dir: string) {
    this.run = run;
    this.prepared = prepared;
    this.#dir = dir;
    const { operatorAddress } = run.cluster.file.network;
    this.cache = new CacheHost(prepared.systems.cacheDir, operatorAddress);
    this.brokenCache = new CacheHost(prepared.systems.cacheDir, operatorAddress);
  }

  static async open(run: LaneRun): Promise<BareSite> {
    const dir = await Deno.makeTempDir({ prefix: "uc-metal-" });
    const site = new BareSite(run, await readPrepared(), dir);
    await tool([
      ...["tar", "-C", workspaceRoot, "--sort=name", "--mtime=@1", "--owner=0", "--group=0", "-czf"],
      ...[`${dir}/bundle.tar.gz`, "nix"],
    ]);
    await site.deployer.putBundle({ content: await Deno.readFile(`${dir}/bundle.tar.gz`) });
    return site;
  }

  get deployer() {
    return this.run.cluster.clients.of(DeployerService, "deployer", { timeoutMs: 60_000, retries: 8 });
  }
  get nodes() {
    return this.run.cluster.clients.of(NodeService, "deployer", { timeoutMs: 60_000, retries: 8 });
  }

  pathOf(variant: string): string {
    const path = this.prepared.systems.paths[variant];
    assert.ok(path !== undefined, `no system ${variant}`);
    return path;
  }

  /** Sets what nodes should be, over what was set before, and applies the whole. */
  async wish(wishes: Partial<Readonly<Record<NodeName, Wish>>>): Promise<void> {
    for (const [node, wish] of Object.entries(wishes)) this.#wishes.set(node as NodeName, wish);
    const { file } = this.run.cluster;
    const nodes = Object.entries(file.nodes).map(([name, node]) => {
      const wish = this.#wishes.get(name as NodeName);
      if (wish === undefined) return [name, node] as const;
      return [name, {
        ...node,
        serial: machines[name as NodeName].serial,
        ...(wish.plan === undefined ? {} : { install_plan: wish.plan }),
        desired_system: { ...wish.desired, target_system: this.pathOf(wish.system) },
      }] as const;
    });
    const classes = Object.entries(file.classes).map(([name, spec]) => {
      const node = `${name}01` as NodeName;
      const plan: InstallPlanOverlay = {
        nixos_configuration: `baremetal-qemu-${name === "control" ? "control-plane" : "worker"}`,
        disko_config_path: "nix/disks/single.nix",
        target_disk_by_id: `/dev/disk/by-id/virtio-${machines[node].diskSerial}`,
        expected_disk_serial: machines[node].diskSerial,
      };
      return [name, {
        ...spec,
        install_plan: plan,
        desired_system: { ...quick, target_system: this.pathOf("uc-base") },
      }] as const;
    });
    const state: ClusterStateInput = {
      ...file,
      nodes: Object.fromEntries(nodes),
      classes: Object.fromEntries(classes),
      deployer: { binaryCacheUrl: this.cache.url, trustedKeys: [this.prepared.systems.publicKey] },
    };
    await this.deployer.applyClusterState({ stateJson: JSON.stringify(state) });
  }

  /** Announces the machine of a node; its token. */
  async announce(node: NodeName): Promise<string> {
    const { token } = await this.nodes.preRegister({ node, serial: machines[node].serial });
    assert.notEqual(token, "", `a token of ${node}`);
    this.#tokens.set(node, token);
    return token;
  }

  hasToken(node: NodeName): boolean {
    return this.#tokens.has(node);
  }

  /** The machine of a node, switched off; made when it was not there. */
  async machine(node: NodeName): Promise<Machine> {
    const held = this.#machines.get(node);
    if (held !== undefined) return held;
    const spec = {
      dir: `${this.#dir}/${node}`,
      name: node,
      ...machines[node],
      accelerator: this.prepared.accelerator.mode,
    };
    await makeMachine(spec);
    const machine = new Machine(spec);
    this.#machines.set(node, machine);
    return machine;
  }

  /** The medium of the site with the parameters of one machine; `token` is that of its announcement unless given. */
  async medium(node: NodeName, token = this.#tokens.get(node)): Promise<string> {
    const ca = await Deno.readTextFile(`${this.run.cluster.substrate.etcDir(siteNode)}/deployer/tls-ca.crt`);
    const url = `https://${this.run.cluster.file.nodes[siteNode]!.address}:7152`;
    const path = `${this.#dir}/${node}.iso`;
    await writeSiteIso(this.prepared.iso, {
      deployer_url: url,
      ca_cert_url: `${url}/api/v1/ca.crt`,
      ca_sha256: certificateSha256(ca),
      bootstrap_token: token,
      node_id: node,
      ...(node === "spare01" ? { binary_cache_url: this.brokenCache.url } : {}),
    }, path);
    return path;
  }

  /** Waits for the marker on the console of the machine, after what it has shown before; the first failure ends it. */
  async marker(
    node: NodeName,
    name: AnyMarkerName,
    o: { readonly after: number; readonly detail?: RegExp },
  ): Promise<MarkerLine & { readonly index: number }> {
    const machine = await this.machine(node);
    let seen: MarkerLine[] = [];
    try {
      return await waitFor(
        { timeoutMs: stepTimeoutMs, what: `${name} of ${node}`, everyMs: 250, signal: this.run.signal },
        async () => {
          seen = await machine.markers();
          for (let index = o.after; index < seen.length; index++) {
            const marker = seen[index]!;
            if (marker.name === name && (o.detail ?? /^/).test(marker.detail)) return { ...marker, index };
          }
          if (!machine.powered) throw new Error(`${node} has no power any more`);
          return undefined;
        },
      );
    } catch (cause) {
      this.run.signal.throwIfAborted();
      const shown = seen.slice(o.after).map(({ name, detail }) => `${name} ${detail}`.trim()).join(" | ");
      const tail = (await machine.console()).split("\n").slice(-12).join("\n");
      throw new Error(`Cannot see ${name} of ${node}: it showed ${shown || "nothing"}\n${tail}`, { cause });
    }
  }

  /** Markers that the console has shown until now. */
  async shown(node: NodeName): Promise<number> {
    return (await (await this.machine(node)).markers()).length;
  }

  /** Waits until the deployer has observed the state with the system. */
  async observed(node: NodeName, state: SystemState, variant: string, reason = /^/): Promise<Node> {
    const target = this.pathOf(variant);
    const what = `${SystemState[state]} of ${variant} on ${node}`;
    return await waitFor({ timeoutMs: stepTimeoutMs, what, everyMs: 300, signal: this.run.signal }, async () => {
      const found = await this.nodes.getNode({ node });
      const { observed } = found;
      const said = observed ? `${SystemState[observed.state]} ${observed.targetSystem}: ${observed.reason}` : "nothing";
      assert.ok(
        observed?.state === state && observed.targetSystem === target && reason.test(observed.reason),
        `the deployer saw ${said}`,
      );
      return found;
    });
  }

  /** The steps of an installation, once each and in order, as the deployer keeps them. */
  stepsOf(node: Node): string[] {
    return node.markers.map(({ name }) => name).filter((name) => (markerNames as readonly string[]).includes(name));
  }

  /** Consoles and what the deployer knows, beside the result. */
  async keepEvidence(): Promise<void> {
    for (const [node, machine] of this.#machines) {
      await Deno.mkdir(`${this.run.artifactsDir}/log/${node}`, { recursive: true });
      await Deno.writeTextFile(`${this.run.artifactsDir}/log/${node}/console.log`, await machine.console());
    }
    const { nodes } = await this.nodes.listNodes({});
    await this.run.evidence("deployer-nodes.json", nodes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const machine of this.#machines.values()) await machine.powerOff();
    await this.cache[Symbol.asyncDispose]();
    await this.brokenCache[Symbol.asyncDispose]();
    await Deno.remove(this.#dir, { recursive: true });
  }
}
