import type { OperationRow, Saga } from "@ultracloud/platform";
import type { Control } from "./control.ts";
import type { Image, Volume } from "./domain/types.ts";
import { imageKind, imageUseKey, vmKind, volumeKind } from "./kinds.ts";
import { triesUnbounded } from "./saga_support.ts";
import { packVolume } from "./wire_storage.ts";
import { placementTurn, volumeShare } from "./workers.ts";

export interface CreateVolumeData {
  /** Its first content; empty: blank. */
  readonly imageId: string;
}

export interface GrowVolumeData {
  readonly sizeBytes: number;
  readonly before: Volume["state"];
  readonly had: number;
}

export interface VolumeSagas {
  readonly create: Saga<CreateVolumeData>;
  readonly grow: Saga<GrowVolumeData>;
  readonly delete: Saga<Record<string, never>>;
}

/** The life of volumes. */
export function volumeSagas(control: Control): VolumeSagas {
  const { platform, workers } = control;
  const volumeOf = (operation: OperationRow) => platform.getById(volumeKind, operation.target.id);
  const findVolume = (operation: OperationRow) => platform.findById(volumeKind, operation.target.id);

  /** Chooses the volume's worker and reserves its size there. */
  const placeVolume = (id: string) =>
    platform.transact(async (tx) => {
      const volume = await tx.getById(volumeKind, id);
      if (volume.value.node !== "") return;
      const { sizeBytes, wantedNode } = volume.value;
      const wanted = {
        resources: volumeShare(sizeBytes),
        nodeSelector: {},
        vmSlots: 0,
        ...(wantedNode === "" ? {} : { only: wantedNode }),
      };
      const chosen = workers.choose(`volume ${volume.name}`, wanted, await workers.candidates(tx));
      await workers.reserve(tx, chosen.name, id, volumeShare(sizeBytes));
      tx.update(volumeKind, volume, { value: { ...volume.value, node: chosen.name } });
    }, placementTurn);

  const unplaceVolume = (id: string) =>
    platform.transact(async (tx) => {
      const volume = await tx.findById(volumeKind, id);
      if (!volume || volume.value.node === "") return;
      await workers.reserve(tx, volume.value.node, id, undefined);
      tx.update(volumeKind, volume, { value: { ...volume.value, node: "" } });
    }, placementTurn);

  const removeContent = async (operation: OperationRow, signal: AbortSignal) => {
    const volume = await findVolume(operation);
    if (volume && volume.value.node !== "") await control.volumes.remove(volume, signal);
  };

  async function hold(operation: OperationRow, sizeBytes: number): Promise<void> {
    const volume = await volumeOf(operation);
    await control.quota.reserve(volume.project, volume.id, volumeShare(sizeBytes));
    await platform.transact(async (tx) => {
      const current = await tx.getById(volumeKind, volume.id);
      const { [volume.id]: now } = await workers.held(current.value.node, tx);
      const more = sizeBytes - (now?.diskBytes ?? 0);
      if (more > 0) {
        const here = (await workers.candidates(tx)).filter((c) => c.name === current.value.node)
          .map((c) => ({ ...c, node: { ...c.node, cordoned: false, draining: "" } }));
        workers.choose(
          `volume ${volume.name}`,
          { resources: volumeShare(more), nodeSelector: {}, vmSlots: 0 },
          here,
        );
      }
      await workers.reserve(tx, current.value.node, volume.id, volumeShare(sizeBytes));
    }, placementTurn);
  }

  return {
    create: {
      kind: "volume.create",
      cancellable: true,
      steps: [
        {
          title: "Reserving quota",
          async do({ operation }) {
            const volume = await volumeOf(operation);
            await control.quota.reserve(volume.project, volume.id, volumeShare(volume.value.sizeBytes));
          },
          undo: ({ operation }) => control.quota.release(operation.project, operation.target.id),
        },
        {
          title: "Choosing a worker",
          do: ({ operation }) => placeVolume(operation.target.id),
          undo: ({ operation }) => unplaceVolume(operation.target.id),
        },
        {
          title: "Making the volume",
          timeoutMs: 180_000,
          async do({ data, operation, signal }) {
            const image: Image | undefined = data.imageId === ""
              ? undefined
              : (await platform.getById(imageKind, data.imageId)).value;
            await control.volumes.create(await volumeOf(operation), image, signal);
          },
          undo: ({ operation, signal }) => removeContent(operation, signal),
        },
      ],
      async finish(tx, data, operation) {
        const volume = await tx.getById(volumeKind, operation.target.id);
        if (data.imageId !== "") tx.deleteRow(imageUseKey(data.imageId, volume.id));
        return packVolume(
          tx.update(volumeKind, volume, { value: { ...volume.value, state: "available", operation: "" } }),
        );
      },
      async abandon(tx, data, operation) {
        const volume = await tx.findById(volumeKind, operation.target.id);
        if (volume) tx.remove(volumeKind, volume);
        if (data.imageId !== "") tx.deleteRow(imageUseKey(data.imageId, operation.target.id));
      },
    },

    grow: {
      kind: "volume.grow",
      cancellable: false,
      steps: [
        {
          title: "Reserving the new size",
          do: ({ data, operation }) => hold(operation, data.sizeBytes),
          undo: ({ data, operation }) => hold(operation, data.had),
        },
        {
          // From here on it is not undone: a disk cannot shrink under a guest.
          title: "Growing the volume",
          tries: triesUnbounded,
          async do({ data, operation, signal }) {
            await control.volumes.grow(await volumeOf(operation), data.sizeBytes, signal);
            await platform.transact(async (tx) => {
              const volume = await tx.getById(volumeKind, operation.target.id);
              if (volume.value.sizeBytes === data.sizeBytes) return;
              tx.update(volumeKind, volume, { value: { ...volume.value, sizeBytes: data.sizeBytes } });
              const vm = volume.value.vmId === "" ? undefined : await tx.findById(vmKind, volume.value.vmId);
              if (vm) tx.update(vmKind, vm, { value: { ...vm.value, generation: vm.value.generation + 1 } });
            });
          },
        },
        {
          title: "Telling the guest",
          tries: triesUnbounded,
          async do({ operation, signal }) {
            const { vmId } = (await volumeOf(operation)).value;
            const vm = vmId === "" ? undefined : await platform.findById(vmKind, vmId);
            if (!vm || !["running", "paused"].includes(vm.value.state)) return;
            if (await workers.isAlive(vm.value.node)) await control.ensureOnNode(vm.id, signal, { applyOnly: true });
          },
        },
      ],
      async finish(tx, data, operation) {
        const volume = await tx.getById(volumeKind, operation.target.id);
        const value = { ...volume.value, state: data.before, reason: "", operation: "" };
        const vm = value.vmId === "" ? undefined : await tx.findById(vmKind, value.vmId);
        if (vm?.value.operation === operation.id) tx.update(vmKind, vm, { value: { ...vm.value, operation: "" } });
        return packVolume(tx.update(volumeKind, volume, { value }));
      },
      async abandon(tx, data, operation, error) {
        const volume = await tx.findById(volumeKind, operation.target.id);
        if (!volume) return;
        const value = { ...volume.value, state: data.before, reason: error.message, operation: "" };
        tx.update(volumeKind, volume, { value });
        const vm = value.vmId === "" ? undefined : await tx.findById(vmKind, value.vmId);
        if (vm?.value.operation === operation.id) tx.update(vmKind, vm, { value: { ...vm.value, operation: "" } });
      },
    },

    delete: {
      kind: "volume.delete",
      cancellable: false,
      steps: [
        {
          title: "Closing the volume",
          tries: triesUnbounded,
          async do({ operation, signal }) {
            const volume = await findVolume(operation);
            if (volume) await control.volumes.close(volume, 0, signal);
          },
        },
        {
          title: "Removing its content",
          tries: triesUnbounded,
          do: ({ operation, signal }) => removeContent(operation, signal),
        },
        {
          title: "Freeing capacity",
          tries: triesUnbounded,
          do: ({ operation }) => unplaceVolume(operation.target.id),
        },
        {
          title: "Freeing quota",
          tries: triesUnbounded,
          do: ({ operation }) => control.quota.release(operation.project, operation.target.id),
        },
      ],
      async finish(tx, _data, operation) {
        const volume = await tx.findById(volumeKind, operation.target.id);
        if (volume) tx.remove(volumeKind, volume);
        return undefined;
      },
    },
  };
}
