import {
  bootstrapMetadata,
  type ClusterState,
  type DesiredSystem,
  desiredSystemOf,
  type HeldDisk,
  type InstallPlan,
  installPlanOf,
  type Refusal,
  refusalOf,
} from "@ultracloud/cluster-state";
import type { Platform, StoredRecord, Tx } from "@ultracloud/platform";
import { ClusterStore } from "./cluster_store.ts";
import { intentIdOf } from "./hashes.ts";
import { nodeKind, type NodeValue, type QuarantineRow, rowKeys } from "./kinds.ts";
import { Writer } from "./writer.ts";

export interface DeployerOptions {
  readonly instance: string;
  readonly advertiseUrl: string;
  readonly bootstrapUrl: string;
  readonly allow_unauthenticated: boolean;
  readonly pendingMax: number;
  readonly pendingTtlMs: number;
  readonly unreachableMs: number;
  readonly reconcileMs: number;
  readonly version: string;
  /** PEM of the CA that machines are given; undefined without TLS. */
  readonly caPem?: () => Promise<string | undefined>;
  /** Where agents of nodes find chainfire; told to machines that bring keys. */
  readonly chainfireUrls?: readonly string[];
}

/** A node as cluster state and records together tell it. */
export interface NodeFacts {
  readonly name: string;
  readonly record: StoredRecord<NodeValue> | undefined;
  readonly spec: ClusterState["nodes"][string] | undefined;
  readonly serial: string;
  readonly class: string;
  readonly pool: string;
}

/** What every part of the deployer works on. */
export class Core {
  readonly options: DeployerOptions;
  readonly platform: Platform;
  readonly writer: Writer;
  readonly states: ClusterStore;

  constructor(options: DeployerOptions, platform: Platform) {
    this.options = options;
    this.platform = platform;
    this.states = new ClusterStore(platform);
    const { instance, advertiseUrl: url, bootstrapUrl } = options;
    this.writer = new Writer(platform, { instance, url, bootstrapUrl });
  }

  /** The node by both sources; undefined when neither has it. */
  join(cluster: ClusterState | undefined, record: StoredRecord<NodeValue> | undefined, name: string): NodeFacts {
    const spec = cluster?.nodes[name];
    return {
      name,
      record,
      spec,
      serial: record?.value.serial || spec?.serial || "",
      class: spec?.class ?? record?.value.class ?? "",
      pool: spec?.pool ?? record?.value.pool ?? "",
    };
  }

  async node(name: string, tx?: Tx): Promise<NodeFacts & { readonly cluster: ClusterState | undefined }> {
    const cluster = await this.states.cluster(tx);
    const record = await (tx ?? this.platform).find(nodeKind, "", name);
    return { ...this.join(cluster, record, name), cluster };
  }

  /** How the node is installed: by the cluster state, or by the class it was given when it enrolled. */
  planOf(cluster: ClusterState | undefined, node: NodeFacts): InstallPlan | undefined {
    const seen = this.withClass(cluster, node);
    return seen && installPlanOf(seen, node.name);
  }

  desiredOf(cluster: ClusterState | undefined, node: NodeFacts): DesiredSystem | undefined {
    const seen = this.withClass(cluster, node);
    return seen && desiredSystemOf(seen, node.name);
  }

  metadataOf(cluster: ClusterState | undefined, node: NodeFacts) {
    return cluster && bootstrapMetadata(cluster, node.name);
  }

  /** The state as it reads with a node that only enrolment knows: it takes what its class says. */
  withClass(cluster: ClusterState | undefined, node: NodeFacts): ClusterState | undefined {
    if (cluster === undefined || node.spec !== undefined) return cluster;
    if (node.class === "" || cluster.classes[node.class] === undefined) return undefined;
    const stranger = { class: node.class, labels: {} } as ClusterState["nodes"][string];
    return { ...cluster, nodes: { ...cluster.nodes, [node.name]: stranger } };
  }

  /** Why the plan of a node must not be carried out; undefined when it may. */
  async planRefusal(
    cluster: ClusterState | undefined,
    node: NodeFacts,
    facts?: NodeValue["facts"],
  ): Promise<Refusal | undefined> {
    const plan = this.planOf(cluster, node);
    if (plan === undefined) {
      return { code: "no_plan", message: `Cannot install ${node.name}: neither it nor its class has an install plan` };
    }
    const seen = facts ?? node.record?.value.facts;
    if (seen === undefined) {
      return { code: "no_facts", message: `Cannot judge the plan of ${node.name}: no machine has phoned home for it` };
    }
    return refusalOf(node.name, plan, seen, await this.heldDisks());
  }

  async heldDisks(): Promise<HeldDisk[]> {
    const held: HeldDisk[] = [];
    for (const { name, value } of await this.platform.list(nodeKind)) {
      if (value.machine !== undefined && value.disk !== undefined) held.push({ node: name, ...value.disk });
    }
    return held;
  }

  /** What a quarantine of the node's generation stands under: its class, or the node alone. */
  groupOf(node: NodeFacts): string {
    return node.class === "" ? `node:${node.name}` : node.class;
  }

  /** Why the desired system must not be tried here; undefined when it may. */
  async quarantineOf(node: NodeFacts, desired: DesiredSystem, tx: Tx): Promise<QuarantineRow | undefined> {
    const row = await tx.row<QuarantineRow>(rowKeys.quarantine(this.groupOf(node), desired.target_system));
    return row !== undefined && row.intent === desired.intent ? row : undefined;
  }

  intentOf(desired: DesiredSystem): string {
    return intentIdOf(desired);
  }
}
