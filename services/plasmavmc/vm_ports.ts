import type { Client } from "@connectrpc/connect";
import { fault } from "@ultracloud/base";
import type { Platform, StoredRecord } from "@ultracloud/platform";
import {
  type Port,
  type PortService,
  PortState,
  type SecurityGroupService,
  type SubnetService,
} from "@ultracloud/proto/prismnet/v1";
import type { Nic, NicWish, Vm } from "./domain/types.ts";
import { orAbsent, typed } from "./calls.ts";
import { vmKind } from "./kinds.ts";
import { nicOf } from "./wire.ts";

export interface NetworkClients {
  readonly ports: Client<typeof PortService>;
  readonly subnets: Client<typeof SubnetService>;
  readonly groups: Client<typeof SecurityGroupService>;
}

/** The switch of a host takes a port in a second; one that restarts its daemons takes a few. */
const portWaitMs = 25_000;

/** A tap stands by itself; forwards of a host are that host's. */
function isCarriedTwice(port: Port): boolean {
  return port.binding?.engine.case === "tap";
}

/** Names of VMs and ports in prismnet are labels, ids are not. */
function portName(vmId: string, wish: Pick<NicWish, "number">): string {
  return `${vmId.toLowerCase().replace("_", "-")}-${wish.number}`;
}

/** Ports of VMs in prismnet. Each function is idempotent. */
export class VmPorts {
  readonly clients: NetworkClients;
  readonly #platform: Platform;

  constructor(clients: NetworkClients, platform: Platform) {
    this.clients = clients;
    this.#platform = platform;
  }

  /** One port per wanted NIC, owned by the VM. */
  async make(vm: StoredRecord<Vm>, signal: AbortSignal): Promise<void> {
    const { ports } = this.clients;
    for (const wish of vm.value.nicWishes) {
      const port = portName(vm.id, wish);
      const present = await orAbsent(ports.getPort({ project: vm.project, port }, { signal }));
      if (present) continue;
      await typed(ports.createPort({
        project: vm.project,
        name: port,
        subnet: wish.subnetId,
        securityGroups: [...wish.securityGroupIds],
        owner: { service: "plasmavmc", kind: "vm", project: vm.project, name: vm.name, id: vm.id },
      }, { signal }));
    }
  }

  /**
   * Binds the VM's ports to its worker, waits until the worker's network carries them, so that the guest's first packet
   * finds its way, and keeps what they became with the VM.
   */
  async bind(vm: StoredRecord<Vm>, signal: AbortSignal): Promise<void> {
    const nics = await this.bindTo(vm, vm.value.node, signal);
    if (JSON.stringify(nics) === JSON.stringify(vm.value.nics)) return;
    await this.#platform.transact(async (tx) => {
      const current = await tx.getById(vmKind, vm.id);
      tx.update(vmKind, current, { value: { ...current.value, nics } });
    });
  }

  /**
   * The VM's NICs as a host carries them. Ports another host carries are taken from it; with `beside` they stay there too
   * where the network can have them on both, and `leave` takes them from one.
   */
  async bindTo(
    vm: StoredRecord<Vm>,
    host: string,
    signal: AbortSignal,
    o: { readonly beside: boolean } = { beside: false },
  ): Promise<Nic[]> {
    const { ports } = this.clients;
    const nics: Nic[] = [];
    for (const wish of vm.value.nicWishes) {
      const port = portName(vm.id, wish);
      const present = await typed(ports.getPort({ project: vm.project, port }, { signal }));
      const beside = present.host !== "" && present.host !== host && o.beside && isCarriedTwice(present);
      if (present.host !== "" && present.host !== host && !beside) {
        await typed(ports.unbindPort({ project: vm.project, port }, { signal }));
      }
      const request = { project: vm.project, port, host, beside };
      const nic = nicOf(await typed(ports.bindPort(request, { signal })), wish.subnetId);
      if (!nic) throw fault("internal", "port_not_bound", `Cannot use port ${port} as it came back without a binding`);
      nics.push(nic);
    }
    for (const wish of vm.value.nicWishes) await this.#active(vm, portName(vm.id, wish), host, signal);
    return nics;
  }

  /** Takes ports that two hosts carry from one of them; others stay as they are. */
  async leave(vm: StoredRecord<Vm>, host: string, signal: AbortSignal): Promise<void> {
    const { ports } = this.clients;
    for (const wish of vm.value.nicWishes) {
      const port = portName(vm.id, wish);
      const present = await orAbsent(ports.getPort({ project: vm.project, port }, { signal }));
      if (present?.arrivingHost) await typed(ports.unbindPort({ project: vm.project, port, host }, { signal }));
    }
  }

  /** Unbinds and removes ports of the VM: all of them, or those of these wishes. */
  async free(
    vm: StoredRecord<Vm>,
    signal: AbortSignal,
    wishes: readonly Pick<NicWish, "number">[] = vm.value.nicWishes,
  ): Promise<void> {
    const { ports } = this.clients;
    for (const wish of wishes) {
      const port = portName(vm.id, wish);
      await orAbsent(ports.unbindPort({ project: vm.project, port }, { signal }));
      await orAbsent(ports.deletePort({ project: vm.project, port }, { signal }));
    }
  }

  async #active(vm: StoredRecord<Vm>, port: string, host: string, signal: AbortSignal): Promise<void> {
    const wait = { project: vm.project, port, timeoutMs: portWaitMs };
    const { state, stateReason } = await typed(
      this.clients.ports.waitPort(wait, { signal, timeoutMs: portWaitMs + 5_000 }),
    );
    if (state === PortState.ACTIVE) return;
    throw fault(
      "unavailable",
      "port_not_active",
      `Cannot start VM ${vm.name} as worker ${host} does not carry its port ${port}: ${stateReason}`,
    );
  }
}
