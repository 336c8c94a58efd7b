import { fault } from "@ultracloud/base";
import type { OperationRow, Saga, StepContext, StoredRecord, Tx } from "@ultracloud/platform";
import {
  type Migration as Seen,
  type MigrationEndpoints,
  MigrationPhase,
  MigrationStorage as WireStorage,
} from "@ultracloud/proto/vmagent/v1";
import { toFault } from "@ultracloud/rpc";
import { orAbsent, typed } from "./calls.ts";
import type { Control } from "./control.ts";
import type { Attachment, MigrationStorage, Nic, Vm, VolumeSource } from "./domain/types.ts";
import { vmKind, volumeKind } from "./kinds.ts";
import { give, type Outcome, settle, startTimeoutMs, triesUnbounded, vmSteps } from "./saga_support.ts";
import { placementTurn, shareOf, volumeShare } from "./workers.ts";

export interface MigrateData extends Outcome {
  readonly source: string;
  /** Empty: placement chooses. */
  readonly wantedNode: string;
  readonly target: string;
  readonly storage: MigrationStorage;
  readonly deadlineMs: number;
  /** What the target writes under. */
  readonly epoch: number;
  readonly before: Vm["state"];
  readonly targetNics: readonly Nic[];
  /** How the target reaches each volume, by id. */
  readonly targetSources: Readonly<Record<string, VolumeSource>>;
}

const wireStorages: Record<MigrationStorage, WireStorage> = { shared: WireStorage.SHARED, mirror: WireStorage.MIRROR };
const pollMs = 100;
const callMs = 30_000;
/** Beyond its own deadline a migration is asked about this long. */
const graceMs = 60_000;

/** Volumes that are files of the source and go with the VM. */
async function localVolumes(control: Control, vm: StoredRecord<Vm>) {
  if (control.volumes.everywhere) return [];
  return (await control.volumesOf(vm)).filter((v) => !v.value.shared);
}

/**
 * Live migration. Until the source says COMPLETED the guest is the source's and everything can be undone; from then on
 * it is the target's, whoever died meanwhile: undo asks which of the two it is before it touches anything.
 */
export function migrateSaga(control: Control): Saga<MigrateData> {
  const { platform, workers } = control;
  const steps = vmSteps(control);

  /** Takes room on the target beside that on the source. */
  const reserve = (operation: OperationRow, data: MigrateData) =>
    platform.transact(async (tx) => {
      const vm = await tx.getById(vmKind, operation.target.id);
      if (vm.value.migration?.operation === operation.id && vm.value.migration.target !== "") {
        return vm.value.migration.target;
      }
      const groups = await workers.groupWishes(tx, vm.value.groupIds, vm.id);
      // Disks that are files move too.
      const volumes = await Promise.all(vm.value.volumes.map((a) => tx.getById(volumeKind, a.volumeId)));
      const moving = volumes.filter((v) => !v.value.shared && !control.volumes.everywhere);
      const disk = moving.reduce((sum, v) => sum + v.value.sizeBytes, 0);
      const chosen = workers.choose(`VM ${vm.name}`, {
        resources: { ...shareOf(vm.value), diskBytes: vm.value.diskBytes + disk },
        nodeSelector: vm.value.nodeSelector,
        groups,
        not: { [data.source]: "the VM is there" },
        ...(data.wantedNode === "" ? {} : { only: data.wantedNode }),
      }, await workers.candidates(tx));
      await workers.reserve(tx, chosen.name, vm.id, shareOf(vm.value));
      for (const v of moving) await workers.reserve(tx, chosen.name, v.id, volumeShare(v.value.sizeBytes));
      tx.update(vmKind, vm, {
        value: {
          ...vm.value,
          // Stamped on disks from now on: nobody gets it again, whatever becomes of this.
          epochMax: Math.max(vm.value.epochMax, data.epoch),
          migration: {
            operation: operation.id,
            source: data.source,
            target: chosen.name,
            storage: data.storage,
            active: true,
          },
        },
      });
      return chosen.name;
    }, placementTurn);

  /** Gives one side's room back. */
  const freeSide = (operation: OperationRow, node: string) =>
    platform.transact(async (tx) => {
      const vm = await tx.findById(vmKind, operation.target.id);
      if (!vm || node === "" || vm.value.node === node) return;
      await workers.reserve(tx, node, vm.id, undefined);
      for (const { volumeId } of vm.value.volumes) {
        const volume = await tx.findById(volumeKind, volumeId);
        if (volume && volume.value.node !== node) await workers.reserve(tx, node, volumeId, undefined);
      }
    }, placementTurn);

  /** What a side knows of the migration; undefined: nothing, or it cannot be asked because it is lost. */
  async function ask(node: string, vmId: string, migrationId: string, signal: AbortSignal): Promise<Seen | undefined> {
    if (node === "" || !await workers.isAlive(node)) return undefined;
    const agent = await workers.agentOf(node);
    return await orAbsent(agent.getMigration({ vmId, migrationId }, { signal, timeoutMs: callMs }));
  }

  /** Has the target wait for the guest, or finds it waiting; answers where. */
  async function prepare(
    operation: OperationRow,
    data: MigrateData,
    sources: ReadonlyMap<string, VolumeSource>,
    signal: AbortSignal,
  ): Promise<MigrationEndpoints> {
    const vm = await steps.vmOf(operation);
    const source = await workers.agentOf(data.source);
    const { layout } = await typed(source.getVm({ vmId: vm.id }, { signal, timeoutMs: callMs }));
    if (!layout) {
      throw fault("failed_precondition", "vm_not_running", `Cannot migrate VM ${vm.name} as its guest is off`);
    }
    const target = await workers.agentOf(data.target);
    const { endpoints } = await typed(target.prepareIncoming({
      spec: await control.specOf(vm, { nics: data.targetNics, writerEpoch: data.epoch, sources }),
      migrationId: operation.id,
      storage: wireStorages[data.storage],
      layout,
      deadlineMs: data.deadlineMs + graceMs,
    }, { signal, timeoutMs: startTimeoutMs }));
    if (!endpoints) {
      throw fault("internal", "no_endpoints", `Cannot migrate VM ${vm.name} as its target says not where`);
    }
    return endpoints;
  }

  /** Whether the guest is the target's by now. Waits as long as it cannot be known. */
  async function arrived(operation: OperationRow, data: MigrateData, signal: AbortSignal): Promise<boolean> {
    const vm = await steps.findVm(operation);
    if (!vm) return false;
    if (vm.value.node !== data.source) return true;
    const atSource = await ask(data.source, vm.id, operation.id, signal);
    if (atSource) return atSource.phase === MigrationPhase.COMPLETED;
    if (await workers.isAlive(data.source)) return false;
    // The source is lost: the guest is where its processors are.
    if (data.target === "" || !await workers.isAlive(data.target)) return false;
    const atTarget = await ask(data.target, vm.id, operation.id, signal);
    return atTarget?.phase === MigrationPhase.COMPLETED;
  }

  /** Makes the target the VM's worker in the records; the source's share is given back with the same commit. */
  const commit = (operation: OperationRow, data: MigrateData, seen: Seen | undefined) =>
    platform.transact(async (tx: Tx) => {
      const vm = await tx.getById(vmKind, operation.target.id);
      if (vm.value.node === data.target) return;
      const target = (await workers.candidates(tx)).find((c) => c.name === data.target);
      await workers.reserve(tx, data.source, vm.id, undefined);
      await workers.noteGroups(tx, vm, data.target);
      const volumes: Attachment[] = [];
      for (const attachment of vm.value.volumes) {
        const volume = await tx.getById(volumeKind, attachment.volumeId);
        const moves = !volume.value.shared && !control.volumes.everywhere;
        if (moves) await workers.reserve(tx, data.source, volume.id, undefined);
        tx.update(volumeKind, volume, {
          value: { ...volume.value, writerEpoch: data.epoch, ...(moves ? { node: data.target } : {}) },
        });
        const source = data.targetSources[volume.id];
        volumes.push({ ...attachment, epoch: data.epoch, ...(source ? { source } : {}) });
      }
      tx.update(vmKind, vm, {
        value: {
          ...vm.value,
          node: data.target,
          accelerator: target?.node.accelerator ?? vm.value.accelerator,
          nics: data.targetNics,
          volumes,
          writerEpoch: data.epoch,
          epochMax: Math.max(vm.value.epochMax, data.epoch),
          migration: {
            operation: operation.id,
            source: data.source,
            target: data.target,
            storage: data.storage,
            active: true,
            ...(seen ? { downtimeMs: seen.downtimeMs, totalMs: Number(seen.totalMs) } : {}),
          },
        },
      });
    }, placementTurn);

  /** Ends both sides' part of a finished move: the target's VM is an ordinary one, the source has nothing left. */
  async function tidy(operation: OperationRow, data: MigrateData, signal: AbortSignal): Promise<void> {
    const vm = await steps.findVm(operation);
    if (!vm) return;
    await control.ports.leave(vm, data.source, signal);
    const target = await workers.agentOf(data.target);
    try {
      await orAbsent(target.finishMigration({ vmId: vm.id, migrationId: operation.id }, { signal, timeoutMs: callMs }));
    } catch (error) {
      // Its QEMU died as the guest arrived: it is off there, with all that its disks hold, and as any other that ended so.
      const { kind, code } = toFault(error);
      // With the kind `unavailable` it says that the guest is only just arriving: it is asked again.
      if (kind !== "failed_precondition" || code !== "migration_not_completed") throw error;
    }
    if (await workers.isAlive(data.source)) {
      const source = await workers.agentOf(data.source);
      await orAbsent(source.deleteVm({ vmId: vm.id }, { signal, timeoutMs: 60_000 }));
      for (const volume of await localVolumes(control, vm)) {
        await orAbsent(source.deleteVolume({ volumeId: volume.id }, { signal, timeoutMs: 60_000 }));
      }
    }
    for (const volume of await control.volumesOf(vm)) {
      await control.volumes.close(volume, data.epoch - 1, signal);
    }
  }

  /** Lets the source go on and ends the target's part, unless the guest has arrived: then finishes instead. */
  async function turnBack(context: StepContext<MigrateData>): Promise<void> {
    const { data, operation, signal } = context;
    const vm = await steps.findVm(operation);
    if (!vm) return;
    if (!await arrived(operation, data, signal) && await workers.isAlive(data.source)) {
      const source = await workers.agentOf(data.source);
      try {
        const request = { vmId: vm.id, migrationId: operation.id };
        await orAbsent(source.cancelMigration(request, { signal, timeoutMs: callMs }));
      } catch (error) {
        const known = toFault(error);
        // It has crossed the line meanwhile: what follows finds it arrived.
        if (known.kind !== "failed_precondition") throw known;
        if (!await arrived(operation, data, signal)) throw known;
      }
    }
    if (await arrived(operation, data, signal)) {
      await commit(operation, data, await ask(data.source, vm.id, operation.id, signal));
      await tidy(operation, data, signal);
    }
  }

  const moved = async (operation: OperationRow, data: MigrateData) =>
    (await steps.findVm(operation))?.value.node === data.target && data.target !== "";

  return {
    kind: "vm.migrate",
    cancellable: true,
    steps: [
      {
        title: "Choosing a worker",
        do: async ({ data, operation }) => ({ target: await reserve(operation, data) }),
        async undo({ data, operation }) {
          // A crash may have lost the answer: the record knows the target.
          const vm = await steps.findVm(operation);
          const target = data.target !== "" ? data.target : vm?.value.migration?.target ?? "";
          await freeSide(operation, await moved(operation, data) ? data.source : target);
        },
      },
      {
        title: "Moving ports",
        timeoutMs: 90_000,
        async do({ data, operation, signal }) {
          const vm = await steps.vmOf(operation);
          return { targetNics: await control.ports.bindTo(vm, data.target, signal, { beside: true }) };
        },
        async undo({ data, operation, signal }) {
          const vm = await steps.findVm(operation);
          if (!vm || await moved(operation, data)) return;
          // A crash may have lost the answer of the step before: the record knows the target.
          const target = data.target || vm.value.migration?.target;
          if (target) await control.ports.leave(vm, target, signal);
          if (!await workers.isAlive(data.source)) return;
          const nics = await control.ports.bindTo(vm, data.source, signal);
          if (JSON.stringify(nics) === JSON.stringify(vm.value.nics)) return;
          await steps.change(operation, (v) => ({ nics, generation: v.generation + 1 }));
          await control.ensureOnNode(vm.id, signal, { applyOnly: true });
        },
      },
      {
        title: "Preparing the target",
        timeoutMs: startTimeoutMs,
        async do({ data, operation, signal }) {
          const vm = await steps.vmOf(operation);
          const open = { node: data.target, writerEpoch: data.epoch, keepOlder: true };
          const sources = new Map<string, VolumeSource>();
          for (const volume of await control.volumesOf(vm)) {
            // One that is a file of the source is mirrored into one of the target's.
            const local = !volume.value.shared && !control.volumes.everywhere;
            sources.set(volume.id, local ? { kind: "local" } : await control.volumes.open(volume, open, signal));
          }
          await prepare(operation, data, sources, signal);
          return { targetSources: Object.fromEntries(sources) };
        },
        async undo({ data, operation, signal }) {
          const vm = await steps.findVm(operation);
          if (!vm || await moved(operation, data)) return;
          if (await workers.isAlive(data.target)) {
            const target = await workers.agentOf(data.target);
            const request = { vmId: vm.id, migrationId: operation.id };
            await orAbsent(target.abortIncoming(request, { signal, timeoutMs: 60_000 }));
            for (const volume of await localVolumes(control, vm)) {
              await orAbsent(target.deleteVolume({ volumeId: volume.id }, { signal, timeoutMs: 60_000 }));
            }
          }
          // The source's own way to the disks stays open: its guest has them.
          for (const volume of await control.volumesOf(vm)) {
            await control.volumes.close(volume, data.epoch, signal, { only: true });
          }
        },
      },
      {
        title: "Moving the guest",
        timeoutMs: 2 * 3600 * 1000,
        async do({ data, operation, signal, report }) {
          const vm = await steps.vmOf(operation);
          if (vm.value.node === data.target) return;
          const source = await workers.agentOf(data.source);
          const id = { vmId: vm.id, migrationId: operation.id };
          const call = { signal, timeoutMs: callMs };
          let seen = await orAbsent(source.getMigration(id, call));
          if (!seen) {
            seen = await typed(source.startMigration({
              ...id,
              storage: wireStorages[data.storage],
              // Asked again rather than kept: the key in it is nobody else's.
              endpoints: await prepare(operation, data, new Map(Object.entries(data.targetSources)), signal),
              targetWriterEpoch: BigInt(data.epoch),
              deadlineMs: data.deadlineMs,
            }, call));
          }
          const deadline = platform.clock.monotonicMs() + data.deadlineMs + graceMs;
          let failures = 0;
          while (seen.phase !== MigrationPhase.COMPLETED) {
            if (seen.phase === MigrationPhase.FAILED || seen.phase === MigrationPhase.CANCELLED) {
              throw fault(
                "failed_precondition",
                "migration_failed",
                `Cannot migrate VM ${vm.name} from ${data.source} to ${data.target}: ${
                  seen.reason || "it was cancelled"
                }`,
              );
            }
            if (platform.clock.monotonicMs() > deadline) {
              throw fault("failed_precondition", "migration_late", `Cannot migrate VM ${vm.name} within its deadline`);
            }
            await report(seen.progressPercent / 100, `Moving the guest: ${seen.progressPercent}%`);
            await platform.clock.sleep(pollMs, signal);
            try {
              seen = await typed(source.getMigration(id, call));
              failures = 0;
            } catch (error) {
              const known = toFault(error);
              if (known.kind !== "unavailable" && known.kind !== "deadline_exceeded") throw known;
              // Its agent may be starting again; when its lease ends the target is asked.
              if (!await workers.isAlive(data.source)) {
                if (await arrived(operation, data, signal)) break;
                throw fault(
                  "failed_precondition",
                  "source_lost",
                  `Cannot migrate VM ${vm.name} as worker ${data.source} is lost`,
                );
              }
              if (++failures % 50 === 0) {
                platform.log.warn("migration's source does not answer", { vm: vm.id, node: data.source });
              }
            }
          }
          await commit(operation, data, seen);
        },
        undo: turnBack,
      },
      {
        title: "Leaving the source",
        tries: triesUnbounded,
        do: ({ data, operation, signal }) => tidy(operation, data, signal),
      },
    ],
    async finish(tx, data, operation) {
      const vm = await tx.findById(vmKind, operation.target.id);
      const migration = vm?.value.migration && { ...vm.value.migration, active: false };
      return await settle(tx, data, operation, data.before, migration ? { migration } : {});
    },
    // A cancel, or a failure, that came when the guest had gone: undo has finished the move.
    async isDone(tx, data, operation) {
      return data.target !== "" && (await tx.findById(vmKind, operation.target.id))?.value.node === data.target;
    },
    async abandon(tx, data, operation, error) {
      const vm = await tx.findById(vmKind, operation.target.id);
      if (!vm) return;
      const { migration: _, ...rest } = vm.value;
      // The target may have stamped disks: the guest's next start comes with a higher one.
      const epochMax = Math.max(vm.value.epochMax, data.epoch) + 1;
      tx.update(vmKind, vm, { value: { ...rest, epochMax } });
      // The guest runs where it was; why it did not move stands in the operation.
      await give(tx, operation, data.before, { ...error, message: "" });
    },
  };
}
