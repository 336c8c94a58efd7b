import { fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, type OperationRow, type StoredRecord, toOperation, type Tx } from "@ultracloud/platform";
import { OperationSchema } from "@ultracloud/proto/common/v1";
import {
  MigrateVmRequestSchema,
  MigrationStorage,
  RebuildVmRequestSchema,
  ResizeVmRequestSchema,
  StopVmRequestSchema,
  VmRequestSchema,
  type VmService,
} from "@ultracloud/proto/plasmavmc/v1";
import type { Handlers } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import type { Vm } from "./domain/types.ts";
import { imageUseKey, vmKind } from "./kinds.ts";
import { checkMachine, refuseMicrovm } from "./machine_rules.ts";
import { flavorOf, imageOf } from "./names.ts";
import type { Sagas } from "./sagas.ts";
import {
  begin,
  beginMigrate,
  beginStart,
  checkIdle,
  checkState,
  movedByHand,
  storageOf,
  targetOf,
} from "./vm_begin.ts";
import { checkFits } from "./vm_request.ts";
import { packVm } from "./wire.ts";
import { shareOf } from "./workers.ts";

export const graceMsDefault = 30_000;
// With the margin for its answer this stays below what a server grants one call.
const graceMsMax = 500_000;
const deadlineMsDefault = 600_000;
const deadlineMsMin = 1_000;
const deadlineMsMax = 6 * 3600 * 1000;

type Actions = Pick<
  Handlers<typeof VmService>,
  "startVm" | "stopVm" | "rebootVm" | "pauseVm" | "resumeVm" | "resizeVm" | "rebuildVm" | "migrateVm"
>;

/** What callers may have done to one VM. */
export function vmActions(control: Control, sagas: Sagas): Actions {
  const { platform, workers } = control;

  /** An operation that found nothing to do. */
  function already(tx: Tx, kind: string, vm: StoredRecord<Vm>, requestId: string): OperationRow {
    const done = platform.operations.finished(tx, { kind, project: vm.project, target: targetOf(vm), requestId });
    return { ...done, result: packVm(vm) };
  }

  return {
    startVm: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        checkIdle(vm, "start");
        if (vm.value.state === "running") return toOperation(already(tx, sagas.vm.start.kind, vm, context.requestId));
        if (vm.value.state === "paused") {
          throw fault(
            "failed_precondition",
            "vm_paused",
            `Cannot start VM ${vm.name} as it is paused: wanted it resumed`,
          );
        }
        return toOperation(await beginStart(control, sagas, tx, vm, context.requestId));
      }, { idempotency: idempotencyOf(context, VmRequestSchema, request, OperationSchema) }),

    stopVm(request, context) {
      if (request.graceMs < 0 || request.graceMs > graceMsMax) {
        throw invalidField("graceMs", `Cannot wait ${request.graceMs} ms for the guest: wanted 0 to ${graceMsMax}`);
      }
      const graceMs = request.graceMs === 0 ? graceMsDefault : request.graceMs;
      return platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        checkIdle(vm, "stop");
        if (vm.value.state === "stopped" && vm.value.desired === "stopped") {
          return toOperation(already(tx, sagas.vm.stop.kind, vm, context.requestId));
        }
        if (!request.force) refuseMicrovm(vm, "stop", "force, as it has no power button");
        return toOperation(begin(control, tx, vm, sagas.vm.stop, {
          data: { force: request.force, graceMs },
          requestId: context.requestId,
          change: { desired: "stopped", state: "stopping", reason: "" },
        }));
      }, { idempotency: idempotencyOf(context, StopVmRequestSchema, request, OperationSchema) });
    },

    rebootVm: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        checkIdle(vm, "reboot");
        checkState(vm, "reboot", ["running", "paused"]);
        refuseMicrovm(vm, "reboot", "it stopped by force and started, as it has no power button");
        const change = { desired: "running" } as const;
        return toOperation(
          begin(control, tx, vm, sagas.vm.reboot, { data: {}, requestId: context.requestId, change }),
        );
      }, { idempotency: idempotencyOf(context, VmRequestSchema, request, OperationSchema) }),

    pauseVm: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        checkIdle(vm, "pause");
        if (vm.value.state === "paused" && vm.value.desired === "paused") {
          return toOperation(already(tx, sagas.vm.pause.kind, vm, context.requestId));
        }
        checkState(vm, "pause", ["running", "paused"]);
        const change = { desired: "paused" } as const;
        return toOperation(begin(control, tx, vm, sagas.vm.pause, { data: {}, requestId: context.requestId, change }));
      }, { idempotency: idempotencyOf(context, VmRequestSchema, request, OperationSchema) }),

    resumeVm: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        checkIdle(vm, "resume");
        if (vm.value.state === "running") return toOperation(already(tx, sagas.vm.resume.kind, vm, context.requestId));
        checkState(vm, "resume", ["paused"]);
        const change = { desired: "running" } as const;
        return toOperation(
          begin(control, tx, vm, sagas.vm.resume, { data: {}, requestId: context.requestId, change }),
        );
      }, { idempotency: idempotencyOf(context, VmRequestSchema, request, OperationSchema) }),

    resizeVm: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        checkIdle(vm, "resize");
        checkState(vm, "resize", request.restart ? ["running", "stopped"] : ["stopped"]);
        const { value } = vm;
        if (value.state === "running") refuseMicrovm(vm, "restart", "it stopped by force, as it has no power button");
        const flavor = await flavorOf(tx, platform, request.flavor);
        if (flavor.diskBytes !== value.diskBytes) {
          throw fault(
            "failed_precondition",
            "disk_differs",
            `Cannot resize VM ${vm.name} to flavor ${flavor.name} as its root disk has ${value.diskBytes} bytes and ` +
              `the flavor's ${flavor.diskBytes}: wanted the same`,
            { field: "flavor" },
          );
        }
        const restart = value.state === "running";
        return toOperation(begin(control, tx, vm, sagas.vm.resize, {
          data: {
            restart,
            graceMs: graceMsDefault,
            flavor: flavor.name,
            wanted: shareOf(flavor),
            had: shareOf(value),
            hadFlavor: value.flavor,
          },
          requestId: context.requestId,
          change: restart ? { state: "stopping" } : {},
        }));
      }, { idempotency: idempotencyOf(context, ResizeVmRequestSchema, request, OperationSchema) }),

    rebuildVm: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        checkIdle(vm, "rebuild");
        checkState(vm, "rebuild", ["running", "paused", "stopped", "failed"]);
        const { value } = vm;
        const image = await imageOf(tx, vm.project, request.image === "" ? value.imageId : request.image);
        checkFits(image.value, { name: value.flavor, diskBytes: value.diskBytes });
        checkMachine(value, image.value, { nics: value.nicWishes.length, volumes: value.volumes.length });
        const operation = begin(control, tx, vm, sagas.vm.rebuild, {
          data: {
            start: value.desired === "running",
            image: {
              imageId: image.id,
              imageSha256: image.value.sha256,
              imageFormat: image.value.format,
              imageBytes: image.value.bytes,
            },
          },
          requestId: context.requestId,
          change: { state: "stopping", reason: "" },
        });
        tx.putRow(imageUseKey(image.id, vm.id), vm.id);
        tx.touch(image.id);
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, RebuildVmRequestSchema, request, OperationSchema) }),

    migrateVm(request, context) {
      const deadlineMs = request.deadlineMs === 0n ? deadlineMsDefault : Number(request.deadlineMs);
      if (deadlineMs < deadlineMsMin || deadlineMs > deadlineMsMax) {
        throw invalidField(
          "deadlineMs",
          `Cannot migrate within ${deadlineMs} ms: wanted ${deadlineMsMin} to ${deadlineMsMax}`,
        );
      }
      const storage = request.storage === MigrationStorage.SHARED
        ? "shared" as const
        : request.storage === MigrationStorage.MIRROR
        ? "mirror" as const
        : undefined;
      const wish = { node: request.node, storage, deadlineMs };
      return platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        if (!request.dryRun) {
          return toOperation(await beginMigrate(control, sagas, tx, vm, wish, context.requestId));
        }
        checkIdle(vm, "migrate");
        checkState(vm, "migrate", ["running"]);
        refuseMicrovm(vm, "migrate", movedByHand);
        await storageOf(control, tx, vm, storage);
        const wanted = {
          ...await control.wantedOf(tx, vm),
          not: { [vm.value.node]: "the VM is there" },
        };
        const { only: _, ...anywhere } = wanted;
        const asked = request.node === "" ? anywhere : { ...anywhere, only: request.node };
        workers.choose(`VM ${vm.name}`, asked, await workers.candidates());
        return toOperation(already(tx, sagas.migrate.kind, vm, context.requestId));
      }, { idempotency: idempotencyOf(context, MigrateVmRequestSchema, request, OperationSchema) });
    },
  };
}
