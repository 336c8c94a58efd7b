import { checkLabels, checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, projectScope, type StoredRecord, toOperation, type Tx } from "@ultracloud/platform";
import { OperationSchema } from "@ultracloud/proto/common/v1";
import {
  FetchImageRequestSchema,
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
import { fromFormat } from "./wire.ts";

const urlCharsMax = 2_048;

/** Where an image may come from. Whether the address may be reached is the fetcher's to judge. */
function checkSource(url: string, sha256: string): void {
  const parsed = url.length <= urlCharsMax && URL.canParse(url) ? new URL(url) : undefined;
  if (!parsed || !["https:", "http:"].includes(parsed.protocol) || parsed.username !== "") {
    throw invalidField("url", `Cannot fetch ${JSON.stringify(url.slice(0, 80))}: wanted https://host/path`);
  }
  if (sha256 !== "" && !/^[0-9a-f]{64}$/.test(sha256)) {
    throw invalidField("sha256", "Cannot use the digest: wanted 64 lower-case hex digits");
  }
  if (parsed.protocol === "http:" && sha256 === "") {
    throw invalidField("sha256", "Cannot trust content over plain http: wanted its sha256");
  }
}

/** Images that come from elsewhere than a caller's upload. */
export function imageIntakeService(
  control: Control,
  sagas: Sagas,
  o: { readonly canFetch: boolean },
): BoundService {
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

  async function refuseTaken(tx: Tx, project: string, name: string): Promise<void> {
    if (!await tx.find(imageKind, project, name)) return;
    const message = `Cannot create image ${name} in ${project} as the name is taken`;
    throw fault("already_exists", "image_exists", message, { field: "name" });
  }

  return bind(ImageIntakeService, {
    fetchImage(request, context) {
      const name = checkName(request.name, "name");
      checkLabels(request.labels);
      const format = fromFormat(request.format, "format");
      const { project, url, sha256, labels } = request;
      checkSource(url, sha256);
      if (!o.canFetch) {
        throw fault(
          "failed_precondition",
          "no_fetcher",
          "Cannot fetch an image as this cloud has no fetcher: wanted its content, as `uc image import` sends it",
        );
      }
      return platform.transact(async (tx) => {
        await refuseTaken(tx, project, name);
        return toOperation(platform.sagas.start(tx, sagas.fetch, {
          project,
          target: { kind: "image", project, name, id: tx.newId("img") },
          data: { name, url, format, sha256, labels },
          requestId: context.requestId,
        }));
      }, { idempotency: idempotencyOf(context, FetchImageRequestSchema, request, OperationSchema) });
    },
    publishImage(request, context) {
      const name = checkName(request.name, "name");
      checkLabels(request.labels);
      if ((request.vm === "") === (request.snapshot === "")) {
        throw invalidField("vm", "Cannot publish without a source: wanted either a VM or a snapshot");
      }
      return platform.transact(async (tx) => {
        const { project, labels } = request;
        await refuseTaken(tx, project, name);
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
