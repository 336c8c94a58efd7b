import { fault } from "@ultracloud/base";
import type { OperationRow, Saga, SagaStep, StoredRecord, Tx } from "@ultracloud/platform";
import { orAbsent, typed } from "./calls.ts";
import type { Control } from "./control.ts";
import { refusals } from "./domain/placement.ts";
import type { Resources, Vm } from "./domain/types.ts";
import { guestKey, imageUseKey, scheduleKind, snapshotKind, vmKind, volumeKind } from "./kinds.ts";
import {
  give,
  type Outcome,
  outcomeOf,
  settle,
  startTimeoutMs,
  triesUnbounded,
  type VmSteps,
  vmSteps,
} from "./saga_support.ts";
import { freshEpoch } from "./vm_begin.ts";
import { packVm } from "./wire.ts";
import { placementTurn, shareOf } from "./workers.ts";

export interface StopData extends Outcome {
  readonly force: boolean;
  readonly graceMs: number;
}

export interface ResizeData extends Outcome {
  readonly restart: boolean;
  readonly graceMs: number;
  readonly flavor: string;
  readonly wanted: Resources;
  /** What it had, to go back to. */
  readonly had: Resources;
  readonly hadFlavor: string;
}

export interface RebuildData extends Outcome {
  readonly start: boolean;
  readonly image: Pick<Vm, "imageId" | "imageSha256" | "imageFormat" | "imageBytes">;
}

export interface VmSagas {
  readonly create: Saga<Outcome>;
  readonly start: Saga<Outcome>;
  readonly stop: Saga<StopData>;
  readonly reboot: Saga<Outcome>;
  readonly pause: Saga<Outcome>;
  readonly resume: Saga<Outcome>;
  readonly resize: Saga<ResizeData>;
  readonly rebuild: Saga<RebuildData>;
  readonly delete: Saga<Record<string, never>>;
}

/** Removes the VM's record and everything that hangs on it; its volumes stay. */
async function forget(control: Control, tx: Tx, vm: StoredRecord<Vm>): Promise<void> {
  tx.remove(vmKind, vm);
  tx.deleteRow(guestKey(vm.id));
  tx.deleteRow(imageUseKey(vm.value.imageId, vm.id));
  await control.workers.noteGroups(tx, vm, undefined);
  for (const { volumeId } of vm.value.volumes) {
    const volume = await tx.findById(volumeKind, volumeId);
    if (!volume || volume.value.vmId !== vm.id) continue;
    const { epochMax } = vm.value;
    const writerEpoch = Math.max(volume.value.writerEpoch, epochMax);
    const free = { state: "available", reason: "", vmId: "", vmName: "", readOnly: false, operation: "" } as const;
    tx.update(volumeKind, volume, { value: { ...volume.value, ...free, writerEpoch } });
  }
}

/** The VM's life as sagas; `define` them before the runner starts. */
export function vmSagas(control: Control): VmSagas {
  const { platform, workers } = control;
  const steps: VmSteps = vmSteps(control);
  const { vmOf, findVm } = steps;

  const bind: SagaStep<Outcome> = {
    title: "Binding ports",
    do: ({ operation, signal }) => steps.bindPorts(operation, signal),
  };
  const ensure: SagaStep<Outcome> = {
    title: "Starting on the worker",
    timeoutMs: startTimeoutMs,
    do: ({ operation, signal }) => steps.ensure(operation, signal),
  };

  /** Asks the worker to stop the VM; one that has no such VM runs none. */
  async function stop(vm: StoredRecord<Vm>, o: { force: boolean; graceMs: number }, signal: AbortSignal) {
    const agent = await workers.agentOf(vm.value.node);
    const timeoutMs = (o.force ? 0 : o.graceMs) + 30_000;
    const seen = await orAbsent(
      agent.stopVm({ vmId: vm.id, force: o.force, graceMs: o.graceMs }, { signal, timeoutMs }),
    );
    return seen ? outcomeOf(seen) : { state: "stopped" as const };
  }

  /** Once its guest is off the VM may open its disks anew: under an epoch none of them has seen a higher one of. */
  const renewEpoch = (operation: OperationRow) => steps.change(operation, async (vm, tx) => await freshEpoch(tx, vm));

  async function closeVolumes(operation: OperationRow, signal: AbortSignal): Promise<void> {
    const vm = await findVm(operation);
    if (!vm) return;
    for (const volume of await control.volumesOf(vm)) await control.volumes.close(volume, 0, signal);
  }

  /** One call to the worker that answers how the VM is. */
  function verb(title: string, call: "rebootVm" | "pauseVm" | "resumeVm"): SagaStep<Outcome> {
    return {
      title,
      async do({ operation, signal }) {
        const vm = await vmOf(operation);
        const agent = await workers.agentOf(vm.value.node);
        return outcomeOf(await typed(agent[call]({ vmId: vm.id }, { signal, timeoutMs: 60_000 })));
      },
    };
  }

  /** Holds this share of quota and worker for the VM, if there is room for what is more than now. */
  async function hold(vmId: string, share: Resources): Promise<void> {
    const vm = await platform.getById(vmKind, vmId);
    await control.quota.reserve(vm.project, vmId, share);
    await platform.transact(async (tx) => {
      const { [vmId]: now } = await workers.held(vm.value.node, tx);
      const here = (await workers.candidates(tx)).find((c) => c.name === vm.value.node);
      if (!here || !now) {
        throw fault("failed_precondition", "vm_not_placed", `Cannot resize VM ${vm.name} as it is on no worker`);
      }
      const more = {
        vcpus: share.vcpus - now.vcpus,
        memoryBytes: share.memoryBytes - now.memoryBytes,
        diskBytes: share.diskBytes - now.diskBytes,
      };
      // It is there already: whether others may come is another question.
      const open = { ...here, alive: true, node: { ...here.node, cordoned: false, draining: "" } };
      const [why] = refusals(open, { resources: more, nodeSelector: {}, vmSlots: 0 });
      if (why !== undefined) {
        throw fault("resource_exhausted", "no_room", `Cannot resize VM ${vm.name} on worker ${here.name}: ${why}`);
      }
      await workers.reserve(tx, here.name, vmId, shareOf(share));
    }, placementTurn);
  }

  /** Writes the size the VM has from its next start on. */
  const writeSize = (vmId: string, flavor: string, size: Resources) =>
    platform.transact(async (tx) => {
      const vm = await tx.findById(vmKind, vmId);
      if (!vm) return;
      const next = { flavor, ...shareOf(size) };
      const { flavor: f, vcpus, memoryBytes, diskBytes } = vm.value;
      if (JSON.stringify({ flavor: f, vcpus, memoryBytes, diskBytes }) === JSON.stringify(next)) return;
      tx.update(vmKind, vm, { value: { ...vm.value, ...next, generation: vm.value.generation + 1 } });
    });

  /** Going back must find its room: until the end the VM holds the larger of both sizes. */
  const largerOf = (a: Resources, b: Resources): Resources => ({
    vcpus: Math.max(a.vcpus, b.vcpus),
    memoryBytes: Math.max(a.memoryBytes, b.memoryBytes),
    diskBytes: Math.max(a.diskBytes, b.diskBytes),
  });

  return {
    create: {
      kind: "vm.create",
      cancellable: true,
      steps: [
        {
          title: "Reserving quota",
          do: async ({ operation }) => {
            const vm = await vmOf(operation);
            await control.quota.reserve(vm.project, vm.id, vm.value);
          },
          undo: ({ operation }) => control.quota.release(operation.project, operation.target.id),
        },
        {
          title: "Choosing a worker",
          do: async ({ operation }) => void await control.placeVm(operation.target.id),
          undo: ({ operation }) => control.unplaceVm(operation.target.id),
        },
        {
          title: "Making ports",
          do: async ({ operation, signal }) => await control.ports.make(await vmOf(operation), signal),
          undo: ({ operation, signal }) => steps.freePorts(operation, signal),
        },
        bind,
        {
          ...ensure,
          async undo({ operation, signal }) {
            await steps.removeFromNode(operation, signal);
            await closeVolumes(operation, signal);
          },
        },
      ],
      finish: (tx, data, operation) => settle(tx, data, operation, "running"),
      async abandon(tx, _data, operation) {
        const vm = await tx.findById(vmKind, operation.target.id);
        if (vm) await forget(control, tx, vm);
      },
    },

    start: {
      kind: "vm.start",
      cancellable: false,
      steps: [bind, ensure],
      finish: (tx, data, operation) => settle(tx, data, operation, "running"),
      abandon: (tx, _data, operation, error) => give(tx, operation, "failed", error),
    },

    stop: {
      kind: "vm.stop",
      cancellable: false,
      steps: [{
        title: "Stopping on the worker",
        timeoutMs: 660_000,
        do: async ({ data, operation, signal }) => await stop(await vmOf(operation), data, signal),
      }],
      finish: (tx, data, operation) => settle(tx, data, operation, "stopped"),
      abandon: (tx, _data, operation, error) => give(tx, operation, "unknown", error),
    },

    reboot: {
      kind: "vm.reboot",
      cancellable: false,
      steps: [verb("Rebooting on the worker", "rebootVm")],
      finish: (tx, data, operation) => settle(tx, data, operation, "running"),
      abandon: (tx, _data, operation, error) => give(tx, operation, "unknown", error),
    },

    pause: {
      kind: "vm.pause",
      cancellable: false,
      steps: [verb("Pausing on the worker", "pauseVm")],
      finish: (tx, data, operation) => settle(tx, data, operation, "paused"),
      abandon: (tx, _data, operation, error) => give(tx, operation, "unknown", error),
    },

    resume: {
      kind: "vm.resume",
      cancellable: false,
      steps: [verb("Resuming on the worker", "resumeVm")],
      finish: (tx, data, operation) => settle(tx, data, operation, "running"),
      abandon: (tx, _data, operation, error) => give(tx, operation, "unknown", error),
    },

    resize: {
      kind: "vm.resize",
      cancellable: false,
      steps: [
        {
          title: "Reserving the new size",
          async do({ data, operation }) {
            await hold(operation.target.id, largerOf(data.had, data.wanted));
            await writeSize(operation.target.id, data.flavor, data.wanted);
          },
          async undo({ data, operation, signal }) {
            if (!await findVm(operation)) return;
            await writeSize(operation.target.id, data.hadFlavor, data.had);
            if (data.restart) await steps.ensure(operation, signal);
            await hold(operation.target.id, data.had);
          },
        },
        {
          title: "Stopping on the worker",
          timeoutMs: 660_000,
          async do({ data, operation, signal }): Promise<Partial<ResizeData>> {
            if (!data.restart) return {};
            const seen = await stop(await vmOf(operation), { force: false, graceMs: data.graceMs }, signal);
            await renewEpoch(operation);
            return seen;
          },
        },
        {
          title: "Starting with the new size",
          timeoutMs: startTimeoutMs,
          async do({ data, operation, signal }): Promise<Partial<ResizeData>> {
            return data.restart ? await steps.ensure(operation, signal) : {};
          },
        },
        {
          title: "Giving back what is not needed",
          tries: triesUnbounded,
          do: ({ data, operation }) => hold(operation.target.id, data.wanted),
        },
      ],
      finish: (tx, data, operation) => settle(tx, data, operation, "stopped"),
      abandon: (tx, _data, operation, error) => give(tx, operation, "unknown", error),
    },

    rebuild: {
      kind: "vm.rebuild",
      cancellable: false,
      steps: [
        {
          title: "Stopping on the worker",
          timeoutMs: 660_000,
          async do({ operation, signal }) {
            const seen = await stop(await vmOf(operation), { force: true, graceMs: 0 }, signal);
            await renewEpoch(operation);
            return seen;
          },
        },
        {
          title: "Taking the image",
          do: ({ data, operation }) =>
            platform.transact(async (tx) => {
              // Twice is a second fresh disk: no guest has written to the first.
              const vm = await tx.getById(vmKind, operation.target.id);
              if (vm.value.imageId !== data.image.imageId) {
                tx.deleteRow(imageUseKey(vm.value.imageId, vm.id));
              }
              tx.update(vmKind, vm, {
                value: {
                  ...vm.value,
                  ...data.image,
                  rootEpoch: vm.value.rootEpoch + 1,
                  generation: vm.value.generation + 1,
                },
              });
            }),
        },
        {
          title: "Starting on the worker",
          timeoutMs: startTimeoutMs,
          async do({ data, operation, signal }): Promise<Partial<RebuildData>> {
            return data.start ? await steps.ensure(operation, signal) : { state: "stopped" };
          },
        },
      ],
      finish: (tx, data, operation) => settle(tx, data, operation, "running"),
      async abandon(tx, data, operation, error) {
        const vm = await tx.findById(vmKind, operation.target.id);
        if (vm && vm.value.imageId !== data.image.imageId) tx.deleteRow(imageUseKey(data.image.imageId, vm.id));
        await give(tx, operation, "failed", error);
      },
    },

    delete: {
      kind: "vm.delete",
      cancellable: false,
      steps: [
        {
          title: "Removing from the worker",
          tries: triesUnbounded,
          do: ({ operation, signal }) => steps.removeFromNode(operation, signal),
        },
        {
          title: "Removing snapshots",
          tries: triesUnbounded,
          async do({ operation, signal }) {
            const vm = await findVm(operation);
            if (!vm) return;
            for (const snapshot of await platform.list(snapshotKind, vm.project)) {
              if (snapshot.value.vmId !== vm.id) continue;
              if (await workers.isAlive(snapshot.value.node)) {
                const agent = await workers.agentOf(snapshot.value.node);
                await orAbsent(agent.deleteSnapshot({ snapshotId: snapshot.id }, { signal, timeoutMs: 60_000 }));
              }
              await platform.transact(async (tx) => {
                const current = await tx.findById(snapshotKind, snapshot.id);
                if (current) tx.remove(snapshotKind, current);
              });
            }
          },
        },
        {
          title: "Closing volumes",
          tries: triesUnbounded,
          do: ({ operation, signal }) => closeVolumes(operation, signal),
        },
        {
          title: "Freeing ports",
          tries: triesUnbounded,
          do: ({ operation, signal }) => steps.freePorts(operation, signal),
        },
        {
          title: "Freeing capacity",
          tries: triesUnbounded,
          do: ({ operation }) => control.unplaceVm(operation.target.id),
        },
        {
          title: "Freeing quota",
          tries: triesUnbounded,
          do: ({ operation }) => control.quota.release(operation.project, operation.target.id),
        },
      ],
      async finish(tx, _data, operation) {
        const vm = await tx.findById(vmKind, operation.target.id);
        if (!vm) return undefined;
        for (const schedule of await tx.list(scheduleKind, vm.project)) {
          if (schedule.value.vmId === vm.id) tx.remove(scheduleKind, schedule);
        }
        await forget(control, tx, vm);
        return packVm({ ...vm, value: { ...vm.value, state: "deleted", operation: "", node: "", volumes: [] } });
      },
      abandon: (tx, _data, operation, error) => give(tx, operation, "failed", error),
    },
  };
}
