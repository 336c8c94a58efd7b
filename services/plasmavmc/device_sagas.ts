import type { OperationRow, Saga } from "@ultracloud/platform";
import type { Control } from "./control.ts";
import type { Attachment, NicWish, Vm } from "./domain/types.ts";
import { vmKind, volumeKind } from "./kinds.ts";
import { give, type Outcome, settle, startTimeoutMs, triesUnbounded, vmSteps } from "./saga_support.ts";

export interface VolumeData extends Outcome {
  readonly attachment: Attachment;
  /** The guest is on: it sees the change at once. */
  readonly live: boolean;
  /** How the VM was; it stays so. */
  readonly before: Vm["state"];
}

export interface NicData extends Outcome {
  readonly wish: NicWish;
  readonly live: boolean;
  readonly before: Vm["state"];
}

export interface DeviceSagas {
  readonly attachVolume: Saga<VolumeData>;
  readonly detachVolume: Saga<VolumeData>;
  readonly attachNic: Saga<NicData>;
  readonly detachNic: Saga<NicData>;
}

/** Changes to the devices of a VM, live where it is on. */
export function deviceSagas(control: Control): DeviceSagas {
  const { platform } = control;
  const steps = vmSteps(control);

  /** Puts the attachment on the VM or takes it away; the worker is told by a higher generation. */
  const setAttachment = (operation: OperationRow, attachment: Attachment, there: boolean) =>
    steps.change(operation, (vm) => {
      const others = vm.volumes.filter((a) => a.volumeId !== attachment.volumeId);
      if ((others.length < vm.volumes.length) === there) return undefined;
      return {
        volumes: there ? [...others, attachment] : others,
        generation: vm.generation + 1,
        ...(there
          ? {
            writerEpoch: Math.max(vm.writerEpoch, attachment.epoch),
            epochMax: Math.max(vm.epochMax, attachment.epoch),
          }
          : {}),
      };
    });

  const setWish = (operation: OperationRow, wish: NicWish, there: boolean) =>
    steps.change(operation, (vm) => {
      const others = vm.nicWishes.filter((w) => w.number !== wish.number);
      if ((others.length < vm.nicWishes.length) === there) return undefined;
      return { nicWishes: there ? [...others, wish] : others };
    });

  /** Tells the worker what the VM's devices are, if it has the guest on. */
  async function apply(operation: OperationRow, live: boolean, signal: AbortSignal): Promise<void> {
    if (live) await control.ensureOnNode(operation.target.id, signal, { applyOnly: true });
  }

  async function closeVolume(attachment: Attachment, signal: AbortSignal): Promise<void> {
    const volume = await platform.findById(volumeKind, attachment.volumeId);
    if (volume) await control.volumes.close(volume, 0, signal);
  }

  /** Hands the volume back with the VM. */
  async function release(
    tx: Parameters<typeof settle>[0],
    operation: OperationRow,
    attachment: Attachment,
    attached: boolean,
  ): Promise<void> {
    const volume = await tx.findById(volumeKind, attachment.volumeId);
    const vm = await tx.findById(vmKind, operation.target.id);
    if (!volume || volume.value.operation !== operation.id) return;
    const writerEpoch = Math.max(volume.value.writerEpoch, attachment.epoch, vm?.value.epochMax ?? 0);
    tx.update(volumeKind, volume, {
      value: {
        ...volume.value,
        writerEpoch,
        operation: "",
        reason: "",
        ...(attached
          ? { state: "in_use" as const, readOnly: attachment.readOnly }
          : { state: "available" as const, vmId: "", vmName: "", readOnly: false }),
      },
    });
  }

  /** Binds the ports the VM wants and keeps what they became with it. */
  async function bindNics(operation: OperationRow, signal: AbortSignal): Promise<void> {
    const record = await steps.vmOf(operation);
    const nics = await control.ports.bindTo(record, record.value.node, signal);
    await steps.change(
      operation,
      (vm) => JSON.stringify(nics) === JSON.stringify(vm.nics) ? undefined : { nics, generation: vm.generation + 1 },
    );
  }

  return {
    attachVolume: {
      kind: "vm.attach_volume",
      cancellable: true,
      steps: [
        {
          title: "Plugging it in",
          timeoutMs: startTimeoutMs,
          async do({ data, operation, signal }) {
            await setAttachment(operation, data.attachment, true);
            await apply(operation, data.live, signal);
          },
          async undo({ data, operation, signal }) {
            if (!await steps.findVm(operation)) return;
            await setAttachment(operation, data.attachment, false);
            await apply(operation, data.live, signal);
            await closeVolume(data.attachment, signal);
          },
        },
      ],
      async finish(tx, data, operation) {
        await release(tx, operation, data.attachment, true);
        return await settle(tx, data, operation, data.before);
      },
      async abandon(tx, data, operation, error) {
        await release(tx, operation, data.attachment, false);
        await give(tx, operation, data.before, error);
      },
    },

    detachVolume: {
      kind: "vm.detach_volume",
      cancellable: false,
      steps: [
        {
          title: "Unplugging it",
          timeoutMs: startTimeoutMs,
          async do({ data, operation, signal }) {
            await setAttachment(operation, data.attachment, false);
            await apply(operation, data.live, signal);
          },
          async undo({ data, operation, signal }) {
            // A guest that does not let go keeps it.
            await setAttachment(operation, data.attachment, true);
            await apply(operation, data.live, signal);
          },
        },
        {
          title: "Closing the volume",
          tries: triesUnbounded,
          do: ({ data, signal }) => closeVolume(data.attachment, signal),
        },
      ],
      async finish(tx, data, operation) {
        await release(tx, operation, data.attachment, false);
        return await settle(tx, data, operation, data.before);
      },
      async abandon(tx, data, operation, error) {
        await release(tx, operation, data.attachment, true);
        await give(tx, operation, data.before, error);
      },
    },

    attachNic: {
      kind: "vm.attach_nic",
      cancellable: true,
      steps: [
        {
          title: "Plugging it in",
          timeoutMs: startTimeoutMs,
          async do({ data, operation, signal }) {
            await setWish(operation, data.wish, true);
            await control.ports.make(await steps.vmOf(operation), signal);
            await bindNics(operation, signal);
            await apply(operation, data.live, signal);
          },
          async undo({ data, operation, signal }) {
            if (!await steps.findVm(operation)) return;
            await setWish(operation, data.wish, false);
            await bindNics(operation, signal);
            await apply(operation, data.live, signal);
            await control.ports.free(await steps.vmOf(operation), signal, [data.wish]);
          },
        },
      ],
      finish: (tx, data, operation) => settle(tx, data, operation, data.before),
      abandon: (tx, data, operation, error) => give(tx, operation, data.before, error),
    },

    detachNic: {
      kind: "vm.detach_nic",
      cancellable: false,
      steps: [
        {
          title: "Unplugging it",
          timeoutMs: startTimeoutMs,
          async do({ data, operation, signal }) {
            await setWish(operation, data.wish, false);
            await bindNics(operation, signal);
            await apply(operation, data.live, signal);
          },
          async undo({ data, operation, signal }) {
            await setWish(operation, data.wish, true);
            if (!await steps.findVm(operation)) return;
            await bindNics(operation, signal);
            await apply(operation, data.live, signal);
          },
        },
        {
          title: "Freeing the port",
          tries: triesUnbounded,
          async do({ data, operation, signal }) {
            const vm = await steps.findVm(operation);
            if (vm) await control.ports.free(vm, signal, [data.wish]);
          },
        },
      ],
      finish: (tx, data, operation) => settle(tx, data, operation, data.before),
      abandon: (tx, data, operation, error) => give(tx, operation, data.before, error),
    },
  };
}
