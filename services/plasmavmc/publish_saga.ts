import { packMessage, type Saga } from "@ultracloud/platform";
import { ImageSchema } from "@ultracloud/proto/plasmavmc/v1";
import { orAbsent, typed } from "./calls.ts";
import type { Control } from "./control.ts";
import type { ImageEngine } from "./image_engine.ts";
import { dropImage, type ImageOptions, storeImage } from "./image_store.ts";
import { imageKind, snapshotKind, vmKind } from "./kinds.ts";
import { triesUnbounded } from "./saga_support.ts";
import { toImage } from "./wire.ts";

export interface PublishData {
  readonly snapshotId: string;
  /** The snapshot is only for this: it is taken first and removed afterwards. */
  readonly own: boolean;
  readonly vmId: string;
  /** "root" or a volume's id. */
  readonly device: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

const copyTimeoutMs = 1_800_000;

/** One disk of a snapshot becomes an image; the operation's target is the image to be. */
export function publishSaga(control: Control, o: ImageOptions, engine: ImageEngine): Saga<PublishData> {
  const { platform, workers } = control;

  async function agentOf(data: PublishData) {
    const snapshot = await platform.getById(snapshotKind, data.snapshotId);
    return await workers.agentOf(snapshot.value.node);
  }

  async function dropSnapshot(data: PublishData, signal: AbortSignal): Promise<void> {
    if (!data.own) return;
    const snapshot = await platform.findById(snapshotKind, data.snapshotId);
    if (!snapshot) return;
    if (await workers.isAlive(snapshot.value.node)) {
      const agent = await workers.agentOf(snapshot.value.node);
      await orAbsent(agent.deleteSnapshot({ snapshotId: snapshot.id }, { signal, timeoutMs: 60_000 }));
    }
    await platform.transact(async (tx) => {
      const current = await tx.findById(snapshotKind, data.snapshotId);
      if (current) tx.remove(snapshotKind, current);
    });
  }

  return {
    kind: "image.publish",
    cancellable: true,
    steps: [
      {
        title: "Copying disks",
        timeoutMs: copyTimeoutMs,
        async do({ data, operation, signal }) {
          if (!data.own) return;
          const agent = await agentOf(data);
          const { vmId, snapshotId } = data;
          await typed(agent.createSnapshot({ vmId, snapshotId }, { signal, timeoutMs: copyTimeoutMs }));
          await platform.transact(async (tx) => {
            const vm = await tx.findById(vmKind, vmId);
            if (vm?.value.operation === operation.id) tx.update(vmKind, vm, { value: { ...vm.value, operation: "" } });
          });
        },
        undo: ({ data, signal }) => dropSnapshot(data, signal),
      },
      {
        title: "Storing the image",
        timeoutMs: copyTimeoutMs,
        async do({ data, operation, signal }) {
          if (await platform.findById(imageKind, operation.target.id)) return;
          const agent = await agentOf(data);
          const { snapshotId, device, name, labels } = data;
          const stream = agent.readSnapshot({ snapshotId, device }, { signal, timeoutMs: copyTimeoutMs });
          const chunks = (async function* () {
            for await (const part of stream) yield part.chunk;
          })();
          const { project } = operation;
          const fresh = {
            project,
            name,
            labels,
            format: "qcow2",
            sha256: "",
            bytes: 0,
            id: operation.target.id,
          } as const;
          await typed(storeImage(platform, engine, o, fresh, chunks));
        },
        // A cancel may come when it is stored already.
        undo: ({ operation }) => dropImage(platform, engine, operation.target.id),
      },
      {
        title: "Removing the copy",
        tries: triesUnbounded,
        do: ({ data, signal }) => dropSnapshot(data, signal),
      },
    ],
    async finish(tx, _data, operation) {
      const image = await tx.findById(imageKind, operation.target.id);
      return image && packMessage(ImageSchema, toImage(image));
    },
    async abandon(tx, data, operation) {
      const vm = data.vmId === "" ? undefined : await tx.findById(vmKind, data.vmId);
      if (vm?.value.operation === operation.id) tx.update(vmKind, vm, { value: { ...vm.value, operation: "" } });
    },
  };
}
