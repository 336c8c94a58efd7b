import type { Client } from "@connectrpc/connect";
import { fault } from "@ultracloud/base";
import type { NodeLeases, Platform, StoredRecord, Tx } from "@ultracloud/platform";
import type { VmAgentService } from "@ultracloud/proto/vmagent/v1";
import { type Candidate, type GroupWish, place, sumOf, type Wanted } from "./domain/placement.ts";
import type { Reservation, Vm } from "./domain/types.ts";
import { allocationKey, groupKind, type GroupMembers, groupMembersKey, nodeKind } from "./kinds.ts";

export type AgentClient = Client<typeof VmAgentService>;
type Held = Record<string, Reservation>;

/** Placements of one process wait for each other instead of colliding. */
export const placementTurn = { serialize: "placement" } as const;

/** The workers: who they are, who lives, what is reserved on each, and which fits. */
export class Workers {
  readonly platform: Platform;
  readonly leases: NodeLeases;
  readonly #agents: (url: string) => AgentClient;

  constructor(
    deps: {
      readonly platform: Platform;
      readonly leases: NodeLeases;
      /** The agent at the address a worker has registered. */
      readonly agents: (url: string) => AgentClient;
    },
  ) {
    this.platform = deps.platform;
    this.leases = deps.leases;
    this.#agents = deps.agents;
  }

  /** The agent of a node, or not_found. */
  async agentOf(node: string): Promise<AgentClient> {
    return this.#agents((await this.platform.getById(nodeKind, node)).value.agentUrl);
  }

  /** Whether the node is known and its lease stands. */
  async isAlive(node: string): Promise<boolean> {
    if (!await this.platform.findById(nodeKind, node)) return false;
    return (await this.leases.alive()).has(node);
  }

  /** Every registered worker with what is reserved on it. Inside a transaction the reservations are conditions. */
  async candidates(tx?: Tx): Promise<Candidate[]> {
    const [nodes, alive] = await Promise.all([this.platform.list(nodeKind), this.leases.alive()]);
    return await Promise.all(nodes.map(async (record) => ({
      name: record.name,
      node: tx ? (await tx.getById(nodeKind, record.id)).value : record.value,
      alive: alive.has(record.name),
      allocated: sumOf(Object.values(await this.held(record.name, tx))),
    })));
  }

  /** What is reserved on a node, by holder. */
  async held(node: string, tx?: Tx): Promise<Held> {
    const read = (t: Tx) => t.row<Held>(allocationKey(node));
    return await (tx ? read(tx) : this.platform.transact(read)) ?? {};
  }

  /** Notes or drops a holder's share of a node. */
  async reserve(tx: Tx, node: string, holder: string, share: Reservation | undefined): Promise<void> {
    if (node === "") return;
    const { [holder]: _, ...others } = await this.held(node, tx);
    tx.putRow(allocationKey(node), share ? { ...others, [holder]: share } : others);
  }

  /** A VM's groups with where their other members are. */
  async groupWishes(tx: Tx, groupIds: readonly string[], vmId: string): Promise<GroupWish[]> {
    return await Promise.all(groupIds.map(async (id) => {
      const group = await tx.getById(groupKind, id);
      const { [vmId]: _, ...others } = await tx.row<GroupMembers>(groupMembersKey(id)) ?? {};
      return { name: group.name, ...group.value, memberNodes: Object.values(others).filter((node) => node !== "") };
    }));
  }

  /** Tells the VM's groups where it is; undefined: it is no more. */
  async noteGroups(tx: Tx, vm: Pick<StoredRecord<Vm>, "id" | "value">, node: string | undefined): Promise<void> {
    for (const id of vm.value.groupIds) {
      const { [vm.id]: _, ...others } = await tx.row<GroupMembers>(groupMembersKey(id)) ?? {};
      tx.putRow(groupMembersKey(id), node === undefined ? others : { ...others, [vm.id]: node });
    }
  }

  /** Chooses a worker, or says for each why not. */
  choose(title: string, wanted: Wanted, candidates: readonly Candidate[]): Candidate {
    const { chosen, whyNot } = place(candidates, wanted);
    if (chosen) return chosen;
    const reasons = Object.entries(whyNot).map(([node, why]) => `${node}: ${why}`);
    throw fault(
      "resource_exhausted",
      "no_node_fits",
      `Cannot place ${title}: ${reasons.length === 0 ? "no worker has registered" : reasons.slice(0, 20).join("; ")}`,
      { metadata: Object.fromEntries(Object.entries(whyNot).slice(0, 50)) },
    );
  }
}

/** What a VM takes of a worker. */
export function shareOf(vm: Reservation): Reservation {
  const { vcpus, memoryBytes, diskBytes } = vm;
  return { vcpus, memoryBytes, diskBytes };
}

/** What a volume takes of a worker and a quota. */
export function volumeShare(sizeBytes: number): Reservation {
  return { vcpus: 0, memoryBytes: 0, diskBytes: sizeBytes, vmSlots: 0 };
}
