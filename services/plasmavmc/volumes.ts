import { checkLabels, checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, projectScope, resourceScope, toOperation } from "@ultracloud/platform";
import { OperationSchema } from "@ultracloud/proto/common/v1";
import {
  CreateVolumeRequestSchema,
  DeleteVolumeRequestSchema,
  GrowVolumeRequestSchema,
  UpdateVolumeRequestSchema,
  VolumeSchema,
  VolumeService,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import type { Volume } from "./domain/types.ts";
import { imageUseKey, nodeKind, vmKind, volumeKind } from "./kinds.ts";
import { imageOf } from "./names.ts";
import type { Sagas } from "./sagas.ts";
import { checkIdle, targetOf } from "./vm_begin.ts";
import { checkVolumeIdle } from "./volume_rules.ts";
import { views } from "./wire.ts";
import { toVolume } from "./wire_storage.ts";
import { volumeShare } from "./workers.ts";

const mib = 1024 ** 2;
/** Largest file that every file system of a host takes. */
const sizeBytesMax = 16 * 1024 ** 4;

function sizeOf(bytes: bigint): number {
  const size = Number(bytes);
  if (Number.isSafeInteger(size) && size >= mib && size <= sizeBytesMax && size % mib === 0) return size;
  throw invalidField(
    "sizeBytes",
    `Cannot make a volume of ${bytes} bytes: wanted ${mib} to ${sizeBytesMax} in multiples of ${mib}`,
  );
}

/** Disks that outlive VMs. */
export function volumeService(control: Control, sagas: Sagas): BoundService {
  const { platform } = control;
  const scope = (project: string, volume: string) => resourceScope("plasmavmc", "volume", project, volume);

  return bind(VolumeService, {
    createVolume(request, context) {
      const name = checkName(request.name, "name");
      const sizeBytes = sizeOf(request.sizeBytes);
      checkLabels(request.labels);
      if (request.node !== "" && request.nearVm !== "") {
        throw invalidField("nearVm", "Cannot use both a worker and a VM as the place: wanted one");
      }
      return platform.transact(async (tx) => {
        const { project, labels } = request;
        let wantedNode = request.node;
        if (request.node !== "") await tx.get(nodeKind, "", request.node);
        if (request.nearVm !== "") wantedNode = (await tx.get(vmKind, project, request.nearVm)).value.node;
        const image = request.image === "" ? undefined : await imageOf(tx, project, request.image);
        if (image && image.value.format === "kernel_bundle") {
          throw invalidField("image", `Cannot make a volume of image ${image.name} as it is no disk`);
        }
        if (image && image.value.virtualBytes > sizeBytes) {
          throw invalidField(
            "sizeBytes",
            `Cannot put image ${image.name} of ${image.value.virtualBytes} bytes on ${sizeBytes}: wanted at least that`,
          );
        }
        await control.quota.check(project, volumeShare(sizeBytes));
        const id = tx.newId("vol");
        const operation = platform.sagas.start(tx, sagas.volume.create, {
          project,
          target: { kind: "volume", project, name, id },
          data: { imageId: image?.id ?? "" },
          requestId: context.requestId,
        });
        const value: Volume = {
          sizeBytes,
          state: "creating",
          reason: "",
          node: "",
          wantedNode,
          shared: request.shared,
          vmId: "",
          vmName: "",
          readOnly: false,
          deleteProtection: request.deleteProtection,
          operation: operation.id,
          writerEpoch: 0,
        };
        await tx.create(volumeKind, { id, project, name, labels, value });
        if (image) {
          tx.putRow(imageUseKey(image.id, id), id);
          tx.touch(image.id);
        }
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, CreateVolumeRequestSchema, request, OperationSchema) });
    },
    getVolume: async (request) => toVolume(await platform.get(volumeKind, request.project, request.volume)),
    async listVolumes(request) {
      const { project, page: asked } = request;
      const page = await platform.page(volumeKind, { project, page: asked, view: views.volume });
      return { volumes: page.items.map(toVolume), page: { nextPageToken: page.nextPageToken } };
    },
    growVolume(request, context) {
      const sizeBytes = sizeOf(request.sizeBytes);
      return platform.transact(async (tx) => {
        const volume = await tx.get(volumeKind, request.project, request.volume);
        checkVolumeIdle(volume, "grow");
        const { value } = volume;
        if (value.state !== "available" && value.state !== "in_use") {
          throw fault(
            "failed_precondition",
            "volume_not_available",
            `Cannot grow volume ${volume.name} as it is ${value.state}`,
          );
        }
        if (sizeBytes <= value.sizeBytes) {
          throw invalidField(
            "sizeBytes",
            `Cannot grow volume ${volume.name} of ${value.sizeBytes} bytes to ${sizeBytes}: wanted more`,
          );
        }
        const vm = value.vmId === "" ? undefined : await tx.getById(vmKind, value.vmId);
        if (vm) checkIdle(vm, "grow a volume of");
        const operation = platform.sagas.start(tx, sagas.volume.grow, {
          project: volume.project,
          target: targetOf(volume),
          data: { sizeBytes, before: value.state, had: value.sizeBytes },
          requestId: context.requestId,
        });
        tx.update(volumeKind, volume, { value: { ...value, state: "growing", operation: operation.id } });
        if (vm) tx.update(vmKind, vm, { value: { ...vm.value, operation: operation.id } });
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, GrowVolumeRequestSchema, request, OperationSchema) });
    },
    updateVolume: (request, context) =>
      platform.transact(async (tx) => {
        const volume = await tx.get(volumeKind, request.project, request.volume);
        const value = { ...volume.value, deleteProtection: request.deleteProtection };
        return toVolume(tx.update(volumeKind, volume, { value, etag: request.etag }));
      }, { idempotency: idempotencyOf(context, UpdateVolumeRequestSchema, request, VolumeSchema) }),
    deleteVolume: (request, context) =>
      platform.transact(async (tx) => {
        const volume = await tx.get(volumeKind, request.project, request.volume);
        tx.checkEtag(volumeKind, volume, request.etag);
        const { value } = volume;
        if (value.state === "deleting" && value.operation !== "") {
          const running = await platform.operations.read(tx, volume.project, value.operation);
          if (running) return toOperation(running);
        }
        checkVolumeIdle(volume, "delete");
        if (value.vmId !== "") {
          throw fault(
            "failed_precondition",
            "volume_in_use",
            `Cannot delete volume ${volume.name} as it is attached to ${value.vmName}: wanted it detached`,
          );
        }
        if (value.deleteProtection) {
          throw fault(
            "failed_precondition",
            "volume_protected",
            `Cannot delete volume ${volume.name} as it is protected: wanted delete protection off`,
          );
        }
        const operation = platform.sagas.start(tx, sagas.volume.delete, {
          project: volume.project,
          target: targetOf(volume),
          data: {},
          requestId: context.requestId,
        });
        tx.update(volumeKind, volume, { value: { ...value, state: "deleting", operation: operation.id } });
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, DeleteVolumeRequestSchema, request, OperationSchema) }),
  }, {
    createVolume: { resource: "volume", action: "create", scope: (r) => projectScope(r.project) },
    getVolume: { resource: "volume", action: "get", scope: (r) => scope(r.project, r.volume) },
    listVolumes: { resource: "volume", action: "list", scope: (r) => projectScope(r.project) },
    growVolume: { resource: "volume", action: "grow", scope: (r) => scope(r.project, r.volume) },
    updateVolume: { resource: "volume", action: "update", scope: (r) => scope(r.project, r.volume) },
    deleteVolume: { resource: "volume", action: "delete", scope: (r) => scope(r.project, r.volume) },
  });
}
