import { fault } from "@ultracloud/base";
import {
  type ClusterFile,
  commandOf,
  componentEnv,
  type FleetMember,
  helperSource,
  loadFleet,
  nodesWith,
  parseClusterFile,
  placeHelpers,
  probeReady,
} from "@ultracloud/launch";
import { workspaceRoot } from "@ultracloud/testing";
import { stringify } from "smol-toml";
import { Clients } from "./clients.ts";
import { assertKnownComponents } from "./component_matrix.ts";
import type { ClusterHome } from "./home.ts";
import { writeKeys } from "./keys.ts";
import { addressOf, configOf, type Manifests, memberInfo, peerListener, placementOf } from "./node_config.ts";
import type { StartSpec, Substrate } from "./substrate.ts";
import { patient, waitFor } from "./wait.ts";

/** Generous: nodes share few cores, and every process compiles its sources first. */
const readyTimeoutMs = 120_000;
/** A component that does not end by itself within this is killed. */
const stopGraceMs = 10_000;
export const clusterFileName = "cluster.json";

export interface ReadyEvent {
  readonly node: string;
  readonly component: string;
  readonly ms: number;
}

/** The cluster under test: its nodes, what runs on them, and ways to call it. */
export class Cluster implements Disposable {
  readonly file: ClusterFile;
  readonly home: ClusterHome;
  readonly substrate: Substrate;
  readonly clients: Clients;
  readonly #fleet: ReadonlyMap<string, FleetMember>;
  readonly #manifests: Manifests;
  /** Programs that run instead of a component's own. */
  readonly entries: Readonly<Record<string, string>>;

  constructor(
    home: ClusterHome,
    file: ClusterFile,
    substrate: Substrate,
    fleet: ReadonlyMap<string, FleetMember>,
    entries: Readonly<Record<string, string>> = {},
  ) {
    this.entries = entries;
    this.file = file;
    this.home = home;
    this.substrate = substrate;
    this.#fleet = fleet;
    this.#manifests = new Map([...fleet].map(([name, { manifest }]) => [name, manifest]));
    this.clients = new Clients(file, home.stateDir, {
      endpoint: (node, component) => this.endpoint(node, component),
      nodes: (component) => nodesWith(file, component),
    });
  }

  get nodes(): string[] {
    return Object.keys(this.file.nodes);
  }

  /** Nodes that run the component from the start. */
  nodesWith(component: string): string[] {
    return nodesWith(this.file, component);
  }

  componentsOf(node: string): readonly string[] {
    return this.#node(node).components;
  }

  #node(node: string) {
    const spec = this.file.nodes[node];
    if (spec) return spec;
    throw fault("not_found", "node_unknown", `Cannot find the node ${node}: wanted one of ${this.nodes.join(", ")}`);
  }

  endpoint(node: string, component: string): string {
    this.#node(node);
    return `https://${addressOf(this.file, this.#manifests, node, `${component}.rpc`)}`;
  }

  /** How the other replicas of a store know the one on this node. */
  memberInfo(node: string, component: string) {
    return memberInfo(this.file, this.#manifests, node, component);
  }

  /** Where the replica of a store on this node listens to the others. */
  peerListener(node: string, component: string) {
    return peerListener(placementOf(this.file, this.#manifests, node, component, this.substrate.dirs(node)));
  }

  logFile(node: string, component: string): string {
    return `${this.substrate.dirs(node).log}/${component}.log`;
  }

  /** Writes keys and configurations; the nodes are made after it. */
  async prepare(): Promise<void> {
    await writeKeys(this.file, this.substrate, this.home.stateDir);
    for (const node of this.nodes) {
      const { components, standby } = this.#node(node);
      for (const component of [...components, ...standby]) await this.configure(node, component);
    }
    await Deno.writeTextFile(
      `${this.home.stateDir}/${clusterFileName}`,
      JSON.stringify({ substrate: this.substrate.name, entries: this.entries, file: this.file }, null, 2) + "\n",
    );
  }

  /** Writes the configuration of a component; what it runs with changes at its next start. */
  async configure(node: string, component: string, changes: Readonly<Record<string, unknown>> = {}): Promise<void> {
    const dirs = this.substrate.dirs(node);
    const config = { ...configOf(this.file, this.#manifests, node, component, dirs), ...changes };
    const configDir = `${this.substrate.etcDir(node)}/${component}`;
    await Deno.writeTextFile(`${configDir}/config.toml`, stringify(config), { mode: 0o600 });
    const { manifest, dir } = this.#fleet.get(component)!;
    const commandOf = (name: string) => this.substrate.helper(component, name, helperSource(dir, name));
    await placeHelpers(manifest, { configDir, commandOf });
  }

  #startSpec(node: string, component: string): StartSpec {
    const member = this.#fleet.get(component);
    if (!member) throw fault("not_found", "component_unknown", `Cannot find the component ${component}`);
    const placement = placementOf(this.file, this.#manifests, node, component, this.substrate.dirs(node));
    const { manifest, dir } = member;
    const program = this.substrate.program(component, this.entries[component] ?? `${dir}/${manifest.entry}`);
    return {
      component,
      dirs: [placement.stateDir, placement.runDir],
      argv: commandOf({ manifest, placement, program }),
      env: componentEnv(),
      logFile: this.logFile(node, component),
    };
  }

  /** Starts a component; nothing happens when it runs. */
  async start(node: string, component: string): Promise<void> {
    const { components, standby } = this.#node(node);
    if (!components.includes(component) && !standby.includes(component)) {
      throw fault(
        "not_found",
        "component_not_here",
        `Cannot start ${component} on ${node}: the cluster has it elsewhere`,
      );
    }
    await this.substrate.start(node, this.#startSpec(node, component));
  }

  /** SIGKILL to one component; resolves when it is gone. */
  async kill(node: string, component: string): Promise<void> {
    await this.substrate.signal(node, component, "SIGKILL");
    await this.#gone(node, component, 10_000);
  }

  /** SIGTERM, then SIGKILL after the grace. */
  async stop(node: string, component: string): Promise<void> {
    if (!await this.substrate.signal(node, component, "SIGTERM")) return;
    await this.#gone(node, component, stopGraceMs).catch(() => this.kill(node, component));
  }

  async #gone(node: string, component: string, timeoutMs: number): Promise<void> {
    await waitFor({ timeoutMs, what: `the end of ${component} on ${node}` }, async () => {
      const running = await this.substrate.processes(node);
      return running.some((process) => process.component === component) ? undefined : true;
    });
  }

  async isReady(node: string, component: string): Promise<boolean> {
    return (await probeReady(this.endpoint(node, component), patient(2_000), this.clients.http)).ready;
  }

  /** Waits until a component is ready; fails early, with the end of its log, when it has ended. */
  async waitReady(node: string, component: string, signal?: AbortSignal, timeoutMs = readyTimeoutMs): Promise<void> {
    const what = `${component} on ${node}`;
    let seen = "";
    let cause: unknown;
    try {
      const ended = await waitFor({ timeoutMs, what, everyMs: 100, signal }, async () => {
        const { ready, text } = await probeReady(this.endpoint(node, component), patient(2_000), this.clients.http);
        seen = text.trim();
        if (ready) return false;
        const running = await this.substrate.processes(node);
        return running.some((process) => process.component === component) ? undefined : true;
      });
      if (!ended) return;
      seen = "it has ended";
    } catch (error) {
      if (signal?.aborted) throw error;
      cause = error;
    }
    const log = (await this.substrate.readFile(node, this.logFile(node, component))).trimEnd().split("\n").slice(-12);
    throw fault(
      "unavailable",
      "component_not_ready",
      `Cannot wait for ${what}: ${seen || "no answer"}\n${log.join("\n")}`,
      { cause },
    );
  }

  /** Starts everything the file names on the nodes, and waits until all of it is ready. */
  async startAll(
    options: { nodes?: readonly string[]; signal?: AbortSignal; onReady?: (event: ReadyEvent) => void } = {},
  ): Promise<void> {
    const begin = performance.now();
    const nodes = options.nodes ?? this.nodes;
    const all = nodes.flatMap((node) => this.#node(node).components.map((component) => ({ node, component })));
    await Promise.all(nodes.map(async (node) => {
      await this.substrate.powerOn(node, options.signal);
      for (const component of this.#node(node).components) await this.start(node, component);
    }));
    await Promise.all(all.map(async ({ node, component }) => {
      await this.waitReady(node, component, options.signal);
      options.onReady?.({ node, component, ms: Math.round(performance.now() - begin) });
    }));
  }

  [Symbol.dispose](): void {
    this.clients[Symbol.dispose]();
    this.substrate[Symbol.dispose]();
  }
}

/** Reads the file of a profile, or any other cluster file. */
export async function readClusterFile(path: string): Promise<ClusterFile> {
  const cluster = parseClusterFile(await Deno.readTextFile(path), path);
  assertKnownComponents(cluster, path);
  return cluster;
}

/** The components of this workspace. */
export async function workspaceFleet(): Promise<ReadonlyMap<string, FleetMember>> {
  return await loadFleet(workspaceRoot);
}
