import { checkLabels, checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, projectScope, type StoredRecord, toOperation, type Tx } from "@ultracloud/platform";
import { OperationSchema } from "@ultracloud/proto/common/v1";
import {
  ImageIntakeService,
  type PublishImageRequest,
  PublishImageRequestSchema,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import type { Snapshot, Vm } from "./domain/types.ts";
import { imageKind, snapshotKind, vmKind, volumeKind } from "./kinds.ts";
import type { Sagas } from "./sagas.ts";
import { checkIdle, checkState } from "./vm_begin.ts";

/** Images that come from elsewhere than a caller's upload. */
export function imageIntakeService(control: Control, sagas: Sagas): BoundService {
  const { platform } = control;

  /** Which disk of the VM: the root disk, or a volume that is part of it. */
  async function deviceOf(
    tx: Tx,
    request: PublishImageRequest,
    vm: StoredRecord<Vm>,
    { volumeIds, volumesOnly }: Pick<Snapshot, "volumeIds" | "volumesOnly">,
  ) {
    if (request.volume === "") {
      if (volumesOnly) {
        throw invalidField("volume", "Cannot publish a root disk that is no part of the snapshot: wanted a volume");
      }
      if (vm.value.diskBytes > 0) return "root";
      throw invalidField("volume", `Cannot publish the root disk of VM ${vm.name} as it has none: wanted a volume`);
    }
    const volume = await tx.get(volumeKind, request.project, request.volume);
    if (volumeIds.includes(volume.id)) return volume.id;
    throw invalidField("volume", `Cannot publish volume ${volume.name} as it is no part of it: wanted it attached`);
  }

  return bind(ImageIntakeService, {
    fetchImage() {
      // Fetching goes to arbitrary hosts, which this process has no permission for, by design.
      throw fault(
        "unimplemented",
        "fetch_unsupported",
        "Cannot fetch an image from a URL: wanted its content imported, as `uc image import --url` does",
      );
    },
    publishImage(request, context) {
      const name = checkName(request.name, "name");
      checkLabels(request.labels);
      if ((request.vm === "") === (request.snapshot === "")) {
        throw invalidField("vm", "Cannot publish without a source: wanted either a VM or a snapshot");
      }
      return platform.transact(async (tx) => {
        const { project, labels } = request;
        if (await tx.find(imageKind, project, name)) {
          throw fault(
            "already_exists",
            "image_exists",
            `Cannot create image ${name} in ${project} as the name is taken`,
            {
              field: "name",
            },
          );
        }
        const own = request.snapshot === "";
        let snapshot: StoredRecord<Snapshot> | undefined;
        let vm: StoredRecord<Vm>;
        if (own) {
          vm = await tx.get(vmKind, project, request.vm);
          checkIdle(vm, "publish a disk of");
          checkState(vm, "publish a disk of", ["running", "paused", "stopped"]);
        } else {
          snapshot = await tx.get(snapshotKind, project, request.snapshot);
          vm = await tx.getById(vmKind, snapshot.value.vmId);
          if (snapshot.value.state !== "ready") {
            throw fault(
              "failed_precondition",
              "snapshot_busy",
              `Cannot publish snapshot ${snapshot.name} as it is ${snapshot.value.state}: wanted it ready`,
            );
          }
        }
        const volumeIds = snapshot?.value.volumeIds ?? vm.value.volumes.map((a) => a.volumeId);
        const device = await deviceOf(tx, request, vm, snapshot?.value ?? { volumeIds });
        const snapshotId = snapshot?.id ?? tx.newId("snap");
        const operation = platform.sagas.start(tx, sagas.publish, {
          project,
          target: { kind: "image", project, name, id: tx.newId("img") },
          data: { snapshotId, own, vmId: own ? vm.id : "", device, name, labels: request.labels },
          requestId: context.requestId,
        });
        if (own) {
          const value: Snapshot = {
            state: "creating",
            reason: "",
            vmId: vm.id,
            volumeIds,
            sizeBytes: 0,
            node: vm.value.node,
            scheduleId: "",
            operation: operation.id,
          };
          const unique = `publish-${snapshotId.slice(-12).toLowerCase()}`;
          await tx.create(snapshotKind, { id: snapshotId, project, name: unique, labels, value });
          tx.update(vmKind, vm, { value: { ...vm.value, operation: operation.id } });
        }
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, PublishImageRequestSchema, request, OperationSchema) });
    },
  }, {
    fetchImage: { resource: "image", action: "create", scope: (r) => projectScope(r.project) },
    publishImage: { resource: "image", action: "create", scope: (r) => projectScope(r.project) },
  });
}
