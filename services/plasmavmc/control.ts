import { fault } from "@ultracloud/base";
import type { Platform, StoredRecord, Tx } from "@ultracloud/platform";
import { orAbsent, typed } from "./calls.ts";
import type { Wanted } from "./domain/placement.ts";
import type { Attachment, GuestData, Nic, Vm, Volume } from "./domain/types.ts";
import { guestKey, vmKind, volumeKind } from "./kinds.ts";
import type { NodeLeases } from "./node_leases.ts";
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

  /** Admits the VM as the writer of its volumes on a worker; answers how each is reached. */
  async openVolumes(
    vm: StoredRecord<Vm>,
    o: {
      readonly node: string;
      /** Instead of those the attachments have. */
      readonly writerEpoch?: number;
      readonly keepOlder: boolean;
    },
    signal: AbortSignal,
  ): Promise<Map<string, VolumeSource>> {
    const sources = new Map<string, VolumeSource>();
    for (const [i, volume] of (await this.volumesOf(vm)).entries()) {
      const writerEpoch = o.writerEpoch ?? vm.value.volumes[i]!.epoch;
      sources.set(volume.id, await this.volumes.open(volume, { ...o, writerEpoch }, signal));
    }
    return sources;
  }

  /** Everything the VM's worker needs; volumes are opened for the VM's own worker unless the change names sources. */
  async specOf(vm: StoredRecord<Vm>, change: SpecChange, signal: AbortSignal) {
    const guest = await this.platform.transact((tx) => tx.row<GuestData>(guestKey(vm.id)));
    const { node, migration, nics, writerEpoch } = vm.value;
    const sources = change.sources ??
      await this.openVolumes(vm, { node, keepOlder: migration?.active === true }, signal);
    const volumes = (await this.volumesOf(vm)).map((record) => ({ record, source: sources.get(record.id)! }));
    return toSpec(vm, guest ?? { userData: "", sshAuthorizedKeys: [] }, {
      volumes,
      writerEpoch: change.writerEpoch ?? writerEpoch,
      nics: change.nics ?? nics,
    });
  }

  /** Starts the VM on its worker as its record says; answers what the worker sees. */
  async ensureOnNode(vmId: string, signal: AbortSignal, o: { readonly applyOnly?: boolean } = {}) {
    const vm = await this.platform.getById(vmKind, vmId);
    const spec = await this.specOf(vm, {}, signal);
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
