import { fault, invalidField } from "@ultracloud/base";
import {
  idempotencyOf,
  type OperationRow,
  projectScope,
  resourceScope,
  type StoredRecord,
  toOperation,
  type Tx,
} from "@ultracloud/platform";
import { OperationSchema } from "@ultracloud/proto/common/v1";
import {
  type CreateVmRequest,
  CreateVmRequestSchema,
  DeleteVmRequestSchema,
  StopVmRequestSchema,
  VmRequestSchema,
  VmService,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService, toFault } from "@ultracloud/rpc";
import { followConsole, readConsole } from "./console.ts";
import type { Control } from "./control.ts";
import type { Vm } from "./domain/types.ts";
import { guestKey, imageKind, imageUseKey, vmKind } from "./kinds.ts";
import { checkFits, checkVmRequest } from "./vm_request.ts";
import type { VmSagas } from "./vm_sagas.ts";
import { packVm, toVm, views } from "./wire.ts";

export const graceMsDefault = 30_000;
// With the margin for its answer this stays below what a server grants one call.
const graceMsMax = 500_000;

function targetOf(vm: Pick<StoredRecord, "project" | "name" | "id">) {
  return { kind: "vm", project: vm.project, name: vm.name, id: vm.id };
}

/** Operations have a VM one at a time. */
function checkIdle(vm: StoredRecord<Vm>, doing: string): void {
  if (vm.value.operation === "") return;
  throw fault(
    "failed_precondition",
    "vm_busy",
    `Cannot ${doing} VM ${vm.name} as operation ${vm.value.operation} has it: wanted that to be over`,
    { metadata: { operation: vm.value.operation }, retryAfterMs: 1000 },
  );
}

export function vmService(control: Control, sagas: VmSagas): BoundService {
  const { platform } = control;
  const scope = (project: string, vm: string) => resourceScope("plasmavmc", "vm", project, vm);

  /** Subnets and groups by id, as prismnet knows them in the caller's project. */
  async function resolveNetwork(request: CreateVmRequest) {
    const { project } = request;
    try {
      const subnets = await Promise.all(
        request.subnets.map((subnet) => control.network.subnets.getSubnet({ project, subnet })),
      );
      const groups = await Promise.all(
        request.securityGroups.map((securityGroup) =>
          control.network.groups.getSecurityGroup({ project, securityGroup })
        ),
      );
      return { subnetIds: subnets.map((s) => s.meta!.id), securityGroupIds: groups.map((g) => g.meta!.id) };
    } catch (error) {
      throw toFault(error);
    }
  }

  async function create(tx: Tx, request: CreateVmRequest, requestId: string): Promise<OperationRow> {
    const { name, flavor, labels, nodeSelector, guest } = checkVmRequest(request);
    const { project } = request;
    const image = await tx.get(imageKind, project, request.image);
    checkFits(image.value, flavor);
    if (await tx.find(vmKind, project, name)) {
      throw fault("already_exists", "vm_exists", `Cannot create VM ${name} in ${project} as the name is taken`, {
        field: "name",
      });
    }
    const network = await resolveNetwork(request);
    // Told at once rather than by the operation; the operation reserves.
    await control.quota.check(project, flavor);
    const target = { kind: "vm", project, name, id: "" };
    if (request.dryRun) {
      control.choose(name, flavor, nodeSelector, await control.candidates());
      return platform.operations.finished(tx, { kind: sagas.create.kind, project, target, requestId });
    }
    const id = tx.newId("vm");
    const operation = platform.sagas.start(tx, sagas.create, {
      project,
      target: { ...target, id },
      data: {},
      requestId,
    });
    await tx.create(vmKind, {
      id,
      project,
      name,
      labels,
      value: {
        flavor: flavor.name,
        vcpus: flavor.vcpus,
        memoryBytes: flavor.memoryBytes,
        diskBytes: flavor.diskBytes,
        imageId: image.id,
        imageSha256: image.value.sha256,
        imageFormat: image.value.format,
        imageBytes: image.value.bytes,
        ...network,
        nodeSelector,
        desired: "running",
        state: "pending",
        reason: "",
        node: "",
        accelerator: "",
        nics: [],
        generation: 1,
        operation: operation.id,
      },
    });
    tx.putRow(guestKey(id), guest);
    tx.putRow(imageUseKey(image.id, id), id);
    tx.touch(image.id);
    return operation;
  }

  /** An operation that found nothing to do. */
  function already(tx: Tx, kind: string, vm: StoredRecord<Vm>, requestId: string): OperationRow {
    const done = platform.operations.finished(tx, { kind, project: vm.project, target: targetOf(vm), requestId });
    return { ...done, result: packVm(vm) };
  }

  return bind(VmService, {
    createVm: (request, context) =>
      platform.transact(async (tx) => toOperation(await create(tx, request, context.requestId)), {
        idempotency: idempotencyOf(context, CreateVmRequestSchema, request, OperationSchema),
      }),
    getVm: async (request) => toVm(await platform.get(vmKind, request.project, request.vm)),
    async listVms(request) {
      const page = await platform.page(vmKind, { project: request.project, page: request.page, view: views.vm });
      return { vms: page.items.map(toVm), page: { nextPageToken: page.nextPageToken } };
    },
    startVm: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        checkIdle(vm, "start");
        if (vm.value.state === "running") return toOperation(already(tx, sagas.start.kind, vm, context.requestId));
        const operation = platform.sagas.start(tx, sagas.start, {
          project: vm.project,
          target: targetOf(vm),
          data: {},
          requestId: context.requestId,
        });
        tx.update(vmKind, vm, {
          value: {
            ...vm.value,
            desired: "running",
            state: "starting",
            reason: "",
            generation: vm.value.generation + 1,
            operation: operation.id,
          },
        });
        return toOperation(operation);
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
          return toOperation(already(tx, sagas.stop.kind, vm, context.requestId));
        }
        return toOperation(beginStop(tx, vm, { force: request.force, graceMs }, context.requestId));
      }, { idempotency: idempotencyOf(context, StopVmRequestSchema, request, OperationSchema) });
    },
    rebootVm: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        checkIdle(vm, "reboot");
        if (vm.value.state !== "running" && vm.value.state !== "paused") {
          throw fault(
            "failed_precondition",
            "vm_not_running",
            `Cannot reboot VM ${vm.name} as it is ${vm.value.state}: wanted it running`,
          );
        }
        const operation = platform.sagas.start(tx, sagas.reboot, {
          project: vm.project,
          target: targetOf(vm),
          data: {},
          requestId: context.requestId,
        });
        tx.update(vmKind, vm, { value: { ...vm.value, desired: "running", operation: operation.id } });
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, VmRequestSchema, request, OperationSchema) }),
    deleteVm: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        tx.checkEtag(vmKind, vm, request.etag);
        if (vm.value.desired === "deleted" && vm.value.operation !== "") {
          const running = await platform.operations.read(tx, vm.project, vm.value.operation);
          if (running) return toOperation(running);
        }
        checkIdle(vm, "delete");
        const operation = platform.sagas.start(tx, sagas.delete, {
          project: vm.project,
          target: targetOf(vm),
          data: {},
          requestId: context.requestId,
        });
        tx.update(vmKind, vm, {
          value: { ...vm.value, desired: "deleted", state: "deleting", reason: "", operation: operation.id },
        });
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, DeleteVmRequestSchema, request, OperationSchema) }),
    getConsoleLog: (request, context) => readConsole(control, request, 0, context.signal),
    followConsole: (request, context) => followConsole(control, request, context.signal),
  }, {
    createVm: { resource: "vm", action: "create", scope: (r) => projectScope(r.project) },
    getVm: { resource: "vm", action: "get", scope: (r) => scope(r.project, r.vm) },
    listVms: { resource: "vm", action: "list", scope: (r) => projectScope(r.project) },
    startVm: { resource: "vm", action: "start", scope: (r) => scope(r.project, r.vm) },
    stopVm: { resource: "vm", action: "stop", scope: (r) => scope(r.project, r.vm) },
    rebootVm: { resource: "vm", action: "reboot", scope: (r) => scope(r.project, r.vm) },
    deleteVm: { resource: "vm", action: "delete", scope: (r) => scope(r.project, r.vm) },
    getConsoleLog: { resource: "vm", action: "console", scope: (r) => scope(r.project, r.vm) },
    followConsole: { resource: "vm", action: "console", scope: (r) => scope(r.project, r.vm) },
  });

  function beginStop(
    tx: Tx,
    vm: StoredRecord<Vm>,
    data: { force: boolean; graceMs: number },
    requestId: string,
  ): OperationRow {
    const operation = platform.sagas.start(tx, sagas.stop, {
      project: vm.project,
      target: targetOf(vm),
      data,
      requestId,
    });
    tx.update(vmKind, vm, {
      value: { ...vm.value, desired: "stopped", state: "stopping", reason: "", operation: operation.id },
    });
    return operation;
  }
}
