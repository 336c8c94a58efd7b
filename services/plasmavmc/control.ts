import { fault } from "@ultracloud/base";
import type { NodeLeases, Platform, StoredRecord, Tx } from "@ultracloud/platform";
import { orAbsent, typed } from "./calls.ts";
import type { Wanted } from "./domain/placement.ts";
import type { Attachment, GuestData, Nic, Vm, Volume } from "./domain/types.ts";
import { guestKey, vmKind, volumeKind } from "./kinds.ts";
import type { QuotaEngine } from "./quota.ts";
import { type NetworkClients, VmPorts } from "./vm_ports.ts";
import type { VolumeEngine, VolumeSource } from "./volume_engine.ts";
import { toSpec } from "./wire.ts";
import { type AgentClient, placementTurn, shareOf, Workers } from "./workers.ts";

export interface ControlDeps {
  readonly platform: Platform;
  readonly quota: QuotaEngine;
  readonly leases: NodeLeases;
  readonly network: NetworkClients;
  readonly volumes: (workers: Workers) => VolumeEngine;
  readonly agents: (url: string) => AgentClient;
}

/** QEMU's start on a busy host with an image still to be fetched. */
const ensureTimeoutMs = 170_000;

/** What a spec differs in from the VM's record while a VM moves. */
export interface SpecChange {
  readonly nics?: readonly Nic[];
  readonly writerEpoch?: number;
  readonly sources?: ReadonlyMap<string, VolumeSource>;
}

/** What sagas, handlers and the reconciler do to the world: each function is idempotent. */
export class Control {
  readonly platform: Platform;
  readonly quota: QuotaEngine;
  readonly workers: Workers;
  readonly ports: VmPorts;
  readonly volumes: VolumeEngine;

  constructor(deps: ControlDeps) {
    this.platform = deps.platform;
    this.quota = deps.quota;
    this.workers = new Workers(deps);
    this.ports = new VmPorts(deps.network, deps.platform);
    this.volumes = deps.volumes(this.workers);
  }

  /** What a VM wants of a worker, volumes that are files of one worker included. */
  async wantedOf(tx: Tx, vm: StoredRecord<Vm>): Promise<Wanted> {
    const only = await this.homeOf(tx, vm.value.volumes);
    return {
      resources: vm.value,
      nodeSelector: vm.value.nodeSelector,
      groups: await this.workers.groupWishes(tx, vm.value.groupIds, vm.id),
      ...(only === undefined ? {} : { only }),
    };
  }

  /** The one worker that can have these volumes; undefined: any. */
  async homeOf(tx: Tx, volumes: readonly Pick<Attachment, "volumeId">[]): Promise<string | undefined> {
    if (this.volumes.everywhere) return undefined;
    let home: StoredRecord<Volume> | undefined;
    for (const { volumeId } of volumes) {
      const volume = await tx.getById(volumeKind, volumeId);
      if (volume.value.shared) continue;
      if (home && home.value.node !== volume.value.node) {
        throw fault(
          "failed_precondition",
          "volumes_apart",
          `Cannot use volumes ${home.name} and ${volume.name} in one VM as they are files of two workers: wanted ` +
            "them on one, or shared",
        );
      }
      home = volume;
    }
    return home?.value.node;
  }

  /** Places the VM and reserves its share of the worker in one commit; a placed VM stays where it is. */
  placeVm(vmId: string): Promise<string> {
    return this.platform.transact(async (tx) => {
      const vm = await tx.getById(vmKind, vmId);
      if (vm.value.node !== "") return vm.value.node;
      const wanted = await this.wantedOf(tx, vm);
      const chosen = this.workers.choose(`VM ${vm.name}`, wanted, await this.workers.candidates(tx));
      await this.workers.reserve(tx, chosen.name, vmId, shareOf(vm.value));
      await this.workers.noteGroups(tx, vm, chosen.name);
      tx.update(vmKind, vm, {
        value: { ...vm.value, node: chosen.name, accelerator: chosen.node.accelerator, state: "starting" },
      });
      return chosen.name;
    }, placementTurn);
  }

  /** Gives a VM's share of its worker back. */
  async unplaceVm(vmId: string): Promise<void> {
    await this.platform.transact(async (tx) => {
      const vm = await tx.findById(vmKind, vmId);
      if (!vm || vm.value.node === "") return;
      await this.workers.reserve(tx, vm.value.node, vmId, undefined);
      await this.workers.noteGroups(tx, vm, "");
      tx.update(vmKind, vm, { value: { ...vm.value, node: "", accelerator: "" } });
    }, placementTurn);
  }

  /** Records of the VM's volumes, in its order. */
  async volumesOf(vm: StoredRecord<Vm>): Promise<StoredRecord<Volume>[]> {
    return await Promise.all(vm.value.volumes.map((a) => this.platform.getById(volumeKind, a.volumeId)));
  }

  /** Opens what the VM's guest has not yet opened, under each attachment's epoch, and keeps how it is reached. */
  async openVolumes(vmId: string, signal: AbortSignal): Promise<void> {
    const vm = await this.platform.getById(vmKind, vmId);
    const opened = new Map<string, VolumeSource>();
    for (const [i, volume] of (await this.volumesOf(vm)).entries()) {
      const { source, epoch } = vm.value.volumes[i]!;
      if (source) continue;
      const o = { node: vm.value.node, writerEpoch: epoch, keepOlder: false };
      opened.set(volume.id, await this.volumes.open(volume, o, signal));
    }
    if (opened.size === 0) return;
    await this.platform.transact(async (tx) => {
      const current = await tx.getById(vmKind, vmId);
      const volumes = current.value.volumes.map((a) => {
        const source = opened.get(a.volumeId);
        return source ? { ...a, source } : a;
      });
      tx.update(vmKind, current, { value: { ...current.value, volumes } });
    });
  }

  /** Everything a worker needs; volumes must be open, or the change names how they are reached. */
  async specOf(vm: StoredRecord<Vm>, change: SpecChange = {}) {
    const guest = await this.platform.transact((tx) => tx.row<GuestData>(guestKey(vm.id)));
    const { nics, writerEpoch } = vm.value;
    const volumes = (await this.volumesOf(vm)).map((record, i) => {
      const source = change.sources?.get(record.id) ?? vm.value.volumes[i]!.source;
      if (!source) throw fault("internal", "volume_closed", `Cannot use volume ${record.name} as it is not open`);
      return { record, source };
    });
    return toSpec(vm, guest ?? { userData: "", sshAuthorizedKeys: [] }, {
      volumes,
      writerEpoch: change.writerEpoch ?? writerEpoch,
      nics: change.nics ?? nics,
    });
  }

  /** Starts the VM on its worker as its record says; answers what the worker sees. */
  async ensureOnNode(vmId: string, signal: AbortSignal, o: { readonly applyOnly?: boolean } = {}) {
    await this.openVolumes(vmId, signal);
    const vm = await this.platform.getById(vmKind, vmId);
    const spec = await this.specOf(vm);
    const agent = await this.workers.agentOf(vm.value.node);
    const request = { spec, applyOnly: o.applyOnly ?? false };
    return await typed(agent.ensureVm(request, { signal, timeoutMs: ensureTimeoutMs }));
  }

  /** Ends the VM on a worker and removes what it has there. A lost worker does so itself when it comes back. */
  async removeFromNode(node: string, vmId: string, signal: AbortSignal): Promise<void> {
    if (node === "") return;
    if (!await this.workers.isAlive(node)) {
      this.platform.log.warn("VM left to a lost worker, which removes it when it returns", { vm: vmId, node });
      return;
    }
    const agent = await this.workers.agentOf(node);
    await orAbsent(agent.deleteVm({ vmId }, { signal, timeoutMs: 60_000 }));
  }
}
