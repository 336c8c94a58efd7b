import type { Client } from "@connectrpc/connect";
import { fault } from "@ultracloud/base";
import type { Platform, StoredRecord, Tx } from "@ultracloud/platform";
import {
  type PortService,
  PortState,
  type SecurityGroupService,
  type SubnetService,
} from "@ultracloud/proto/prismnet/v1";
import type { VmAgentService } from "@ultracloud/proto/vmagent/v1";
import { toFault } from "@ultracloud/rpc";
import { type Candidate, place, sumOf } from "./domain/placement.ts";
import type { GuestData, Nic, Resources, Vm } from "./domain/types.ts";
import { allocationKey, guestKey, nodeKind, vmKind } from "./kinds.ts";
import type { NodeLeases } from "./node_leases.ts";
import type { QuotaEngine } from "./quota.ts";
import { nicOf, toSpec } from "./wire.ts";

export type AgentClient = Client<typeof VmAgentService>;

export interface NetworkClients {
  readonly ports: Client<typeof PortService>;
  readonly subnets: Client<typeof SubnetService>;
  readonly groups: Client<typeof SecurityGroupService>;
}

export interface ControlDeps {
  readonly platform: Platform;
  readonly quota: QuotaEngine;
  readonly leases: NodeLeases;
  readonly network: NetworkClients;
  /** The agent at the address a worker has registered. */
  readonly agents: (url: string) => AgentClient;
}

/** The switch of a host takes a port in a second; one that restarts its daemons takes a few. */
const portWaitMs = 25_000;
/** QEMU's start on a busy host with an image still to be fetched. */
const ensureTimeoutMs = 170_000;
type Held = Record<string, Resources>;

/** Names of VMs and ports in prismnet are labels, ids are not. */
function portName(vmId: string, index: number): string {
  return `${vmId.toLowerCase().replace("_", "-")}-${index}`;
}

/** What sagas, handlers and the reconciler do to the world: each function is idempotent. */
export class Control {
  readonly platform: Platform;
  readonly quota: QuotaEngine;
  readonly leases: NodeLeases;
  readonly network: NetworkClients;
  readonly #agents: ControlDeps["agents"];

  constructor(deps: ControlDeps) {
    this.platform = deps.platform;
    this.quota = deps.quota;
    this.leases = deps.leases;
    this.network = deps.network;
    this.#agents = deps.agents;
  }

  /** The agent of a node, or not_found. */
  async agentOf(node: string): Promise<AgentClient> {
    return this.#agents((await this.platform.getById(nodeKind, node)).value.agentUrl);
  }

  /** Every registered worker with what is reserved on it. Inside a transaction the reservations are conditions. */
  async candidates(tx?: Tx): Promise<Candidate[]> {
    const [nodes, alive] = await Promise.all([this.platform.list(nodeKind), this.leases.alive()]);
    return await Promise.all(nodes.map(async (record) => ({
      name: record.name,
      node: record.value,
      alive: alive.has(record.name),
      allocated: sumOf(Object.values(await this.held(record.name, tx))),
    })));
  }

  /** What VMs have reserved on a node. */
  async held(node: string, tx?: Tx): Promise<Held> {
    const read = (t: Tx) => t.row<Held>(allocationKey(node));
    return await (tx ? read(tx) : this.platform.transact(read)) ?? {};
  }

  /** Chooses a worker, or says for each why not. */
  choose(name: string, vm: Resources, nodeSelector: Vm["nodeSelector"], candidates: readonly Candidate[]): Candidate {
    const { chosen, whyNot } = place(candidates, { resources: vm, nodeSelector });
    if (chosen) return chosen;
    const reasons = Object.entries(whyNot).map(([node, why]) => `${node}: ${why}`);
    throw fault(
      "resource_exhausted",
      "no_node_fits",
      `Cannot place VM ${name}: ${reasons.length === 0 ? "no worker has registered" : reasons.slice(0, 20).join("; ")}`,
      { metadata: Object.fromEntries(Object.entries(whyNot).slice(0, 50)) },
    );
  }

  /** Places the VM and reserves its share of the worker in one commit; a placed VM stays where it is. */
  placeVm(vmId: string): Promise<string> {
    return this.platform.transact(async (tx) => {
      const vm = await tx.getById(vmKind, vmId);
      if (vm.value.node !== "") return vm.value.node;
      const { vcpus, memoryBytes, diskBytes, nodeSelector } = vm.value;
      const chosen = this.choose(vm.name, vm.value, nodeSelector, await this.candidates(tx));
      const held = await this.held(chosen.name, tx);
      tx.putRow(allocationKey(chosen.name), { ...held, [vmId]: { vcpus, memoryBytes, diskBytes } });
      tx.update(vmKind, vm, {
        value: { ...vm.value, node: chosen.name, accelerator: chosen.node.accelerator, state: "starting" },
      });
      return chosen.name;
    }, { serialize: "placement" });
  }

  /** Gives a VM's share of its worker back. */
  async unplaceVm(vmId: string): Promise<void> {
    await this.platform.transact(async (tx) => {
      const vm = await tx.findById(vmKind, vmId);
      if (!vm || vm.value.node === "") return;
      const { [vmId]: _, ...others } = await this.held(vm.value.node, tx);
      tx.putRow(allocationKey(vm.value.node), others);
      tx.update(vmKind, vm, { value: { ...vm.value, node: "", accelerator: "" } });
    }, { serialize: "placement" });
  }

  /** One port per subnet, owned by the VM. */
  async makePorts(vm: StoredRecord<Vm>, signal: AbortSignal): Promise<void> {
    const { ports } = this.network;
    for (const [i, subnet] of vm.value.subnetIds.entries()) {
      const port = portName(vm.id, i);
      const present = await this.#orAbsent(ports.getPort({ project: vm.project, port }, { signal }));
      if (present) continue;
      await this.#typed(ports.createPort({
        project: vm.project,
        name: port,
        subnet,
        securityGroups: [...vm.value.securityGroupIds],
        owner: { service: "plasmavmc", kind: "vm", project: vm.project, name: vm.name, id: vm.id },
      }, { signal }));
    }
  }

  /**
   * Binds the VM's ports to its worker, waits until the worker's network carries them, so that the guest's first packet
   * finds its way, and keeps what they became with the VM.
   */
  async bindPorts(vm: StoredRecord<Vm>, signal: AbortSignal): Promise<void> {
    const nics: Nic[] = [];
    for (const i of vm.value.subnetIds.keys()) {
      const name = portName(vm.id, i);
      const request = { project: vm.project, port: name, host: vm.value.node };
      const nic = nicOf(await this.#typed(this.network.ports.bindPort(request, { signal })));
      if (!nic) throw fault("internal", "port_not_bound", `Cannot use port ${name} as it came back without a binding`);
      nics.push(nic);
    }
    for (const i of vm.value.subnetIds.keys()) await this.#portActive(vm, portName(vm.id, i), signal);
    if (JSON.stringify(nics) === JSON.stringify(vm.value.nics)) return;
    await this.platform.transact(async (tx) => {
      const current = await tx.getById(vmKind, vm.id);
      tx.update(vmKind, current, { value: { ...current.value, nics } });
    });
  }

  /** Unbinds and removes the VM's ports. */
  async freePorts(vm: StoredRecord<Vm>, signal: AbortSignal): Promise<void> {
    const { ports } = this.network;
    for (const i of vm.value.subnetIds.keys()) {
      const port = portName(vm.id, i);
      await this.#orAbsent(ports.unbindPort({ project: vm.project, port }, { signal }));
      await this.#orAbsent(ports.deletePort({ project: vm.project, port }, { signal }));
    }
  }

  /** Starts the VM on its worker as its record says; answers what the worker sees. */
  async ensureOnNode(vmId: string, signal: AbortSignal) {
    const vm = await this.platform.getById(vmKind, vmId);
    const guest = await this.platform.transact((tx) => tx.row<GuestData>(guestKey(vmId)));
    const spec = toSpec(vm, guest ?? { userData: "", sshAuthorizedKeys: [] });
    const agent = await this.agentOf(vm.value.node);
    return await this.#typed(agent.ensureVm({ spec }, { signal, timeoutMs: ensureTimeoutMs }));
  }

  /** Ends the VM on a worker and removes what it has there. A lost worker does so itself when it comes back. */
  async removeFromNode(node: string, vmId: string, signal: AbortSignal): Promise<void> {
    if (node === "") return;
    const record = await this.platform.findById(nodeKind, node);
    if (!record || !(await this.leases.alive()).has(node)) {
      this.platform.log.warn("VM left to a lost worker, which removes it when it returns", { vm: vmId, node });
      return;
    }
    const agent = this.#agents(record.value.agentUrl);
    await this.#orAbsent(agent.deleteVm({ vmId }, { signal, timeoutMs: 60_000 }));
  }

  async #portActive(vm: StoredRecord<Vm>, port: string, signal: AbortSignal): Promise<void> {
    const wait = { project: vm.project, port, timeoutMs: portWaitMs };
    const { state, stateReason } = await this.#typed(
      this.network.ports.waitPort(wait, { signal, timeoutMs: portWaitMs + 5_000 }),
    );
    if (state === PortState.ACTIVE) return;
    throw fault(
      "unavailable",
      "port_not_active",
      `Cannot start VM ${vm.name} as worker ${vm.value.node} does not carry its port ${port}: ${stateReason}`,
    );
  }

  async #typed<T>(call: Promise<T>): Promise<T> {
    try {
      return await call;
    } catch (error) {
      throw toFault(error);
    }
  }

  /** The answer, undefined when what was asked for is not there. */
  async #orAbsent<T>(call: Promise<T>): Promise<T | undefined> {
    try {
      return await call;
    } catch (error) {
      const known = toFault(error);
      if (known.kind === "not_found") return undefined;
      throw known;
    }
  }
}
