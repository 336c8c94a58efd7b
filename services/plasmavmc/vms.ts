import { checkLabels, fault } from "@ultracloud/base";
import {
  idempotencyOf,
  maskedFields,
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
  type UpdateVmRequest,
  UpdateVmRequestSchema,
  VmSchema,
  VmService,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { typed } from "./calls.ts";
import { followConsole, readConsole } from "./console.ts";
import type { Control } from "./control.ts";
import type { Attachment, Vm, Volume } from "./domain/types.ts";
import { groupKind, guestKey, imageUseKey, sshKeyKind, vmKind, volumeKind } from "./kinds.ts";
import { checkMachine } from "./machine_rules.ts";
import { flavorOf, imageOf } from "./names.ts";
import type { Sagas } from "./sagas.ts";
import { vmActions } from "./vm_actions.ts";
import { begin, checkIdle } from "./vm_begin.ts";
import { vmDevices } from "./vm_devices.ts";
import { checkCooldown, checkFits, checkVmRequest } from "./vm_request.ts";
import { vmList } from "./vm_list.ts";
import { vmViews } from "./vm_views.ts";
import { checkFree } from "./volume_rules.ts";
import { toVm } from "./wire.ts";
import { fromNodeLossPolicy, fromRestartPolicy } from "./wire_storage.ts";

export function vmService(control: Control, sagas: Sagas): BoundService {
  const { platform, workers } = control;
  const scope = (project: string, vm: string) => resourceScope("plasmavmc", "vm", project, vm);

  /** Subnets and groups by id, as prismnet knows them in the caller's project. */
  async function resolveNetwork(request: CreateVmRequest) {
    const { project } = request;
    const { subnets, groups } = control.ports.clients;
    const found = await typed(Promise.all([
      Promise.all(request.subnets.map((subnet) => subnets.getSubnet({ project, subnet }))),
      Promise.all(request.securityGroups.map((securityGroup) => groups.getSecurityGroup({ project, securityGroup }))),
    ]));
    const securityGroupIds = found[1].map((g) => g.meta!.id);
    return found[0].map((subnet, number) => ({ number, subnetId: subnet.meta!.id, securityGroupIds }));
  }

  /** The volumes a new VM comes with, free and not named twice. */
  async function resolveVolumes(tx: Tx, request: CreateVmRequest) {
    const found: { volume: StoredRecord<Volume>; readOnly: boolean }[] = [];
    for (const [i, { volume: name, readOnly }] of request.volumes.entries()) {
      const volume = await tx.get(volumeKind, request.project, name);
      checkFree(volume, request.name, `volumes.${i}`, found.map((f) => f.volume.id));
      found.push({ volume, readOnly });
    }
    return found;
  }

  async function create(tx: Tx, request: CreateVmRequest, requestId: string): Promise<OperationRow> {
    const { name, labels, nodeSelector, guest, restart, nodeLoss, machineType } = checkVmRequest(request);
    const { project } = request;
    const flavor = await flavorOf(tx, platform, request.flavor);
    const image = await imageOf(tx, project, request.image);
    checkFits(image.value, flavor);
    const devices = { nics: request.subnets.length, volumes: request.volumes.length };
    checkMachine({ machineType, diskBytes: flavor.diskBytes }, image.value, devices);
    if (await tx.find(vmKind, project, name)) {
      throw fault("already_exists", "vm_exists", `Cannot create VM ${name} in ${project} as the name is taken`, {
        field: "name",
      });
    }
    const keys = await Promise.all(request.sshKeys.map((key) => tx.get(sshKeyKind, project, key)));
    const groups = await Promise.all(request.groups.map((group) => tx.get(groupKind, project, group)));
    const volumes = await resolveVolumes(tx, request);
    const home = await control.homeOf(tx, volumes.map((v) => ({ volumeId: v.volume.id })));
    const nicWishes = await resolveNetwork(request);
    // Told at once rather than by the operation; the operation reserves.
    await control.quota.check(project, flavor);
    const groupIds = [...new Set(groups.map((g) => g.id))];
    const target = { kind: "vm", project, name, id: "" };
    if (request.dryRun) {
      const wanted = {
        resources: flavor,
        nodeSelector,
        groups: await workers.groupWishes(tx, groupIds, ""),
        ...(home === undefined ? {} : { only: home }),
      };
      workers.choose(`VM ${name}`, wanted, await workers.candidates());
      return platform.operations.finished(tx, { kind: sagas.vm.create.kind, project, target, requestId });
    }
    const id = tx.newId("vm");
    const start = { project, target: { ...target, id }, data: {}, requestId };
    const operation = platform.sagas.start(tx, sagas.vm.create, start);
    const epoch = Math.max(1, ...volumes.map((v) => v.volume.value.writerEpoch + 1));
    const attachments: Attachment[] = volumes.map(({ volume, readOnly }) => ({
      volumeId: volume.id,
      name: volume.name,
      readOnly,
      epoch,
    }));
    const value: Vm = {
      flavor: flavor.name,
      vcpus: flavor.vcpus,
      memoryBytes: flavor.memoryBytes,
      diskBytes: flavor.diskBytes,
      imageId: image.id,
      imageSha256: image.value.sha256,
      imageFormat: image.value.format,
      imageBytes: image.value.bytes,
      nicWishes,
      volumes: attachments,
      groupIds,
      nodeSelector,
      desired: "running",
      state: "pending",
      reason: "",
      node: "",
      accelerator: "",
      nics: [],
      generation: 1,
      operation: operation.id,
      restart,
      nodeLoss,
      deleteProtection: request.deleteProtection,
      writerEpoch: epoch,
      epochMax: epoch,
      rootEpoch: 1,
      machineType,
    };
    const vm = await tx.create(vmKind, { id, project, name, labels, value });
    for (const { volume, readOnly } of volumes) {
      const taken = { state: "in_use", vmId: id, vmName: name, readOnly, writerEpoch: epoch } as const;
      tx.update(volumeKind, volume, { value: { ...volume.value, ...taken } });
    }
    await workers.noteGroups(tx, vm, "");
    const stored = keys.map((key) => key.value.publicKey);
    tx.putRow(guestKey(id), { ...guest, sshAuthorizedKeys: [...guest.sshAuthorizedKeys, ...stored] });
    tx.putRow(imageUseKey(image.id, id), id);
    tx.touch(image.id);
    return operation;
  }

  async function update(tx: Tx, request: UpdateVmRequest) {
    const vm = await tx.get(vmKind, request.project, request.vm);
    const fields = maskedFields(
      request.updateMask,
      ["labels", "restartPolicy", "restartCooldownMs", "nodeLossPolicy", "deleteProtection"] as const,
    );
    const { value } = vm;
    const restart = {
      ...value.restart,
      ...(fields.has("restartPolicy") ? { policy: fromRestartPolicy(request.restartPolicy) } : {}),
      ...(fields.has("restartCooldownMs") ? { cooldownMs: checkCooldown(request.restartCooldownMs) } : {}),
    };
    const nodeLoss = fields.has("nodeLossPolicy") ? fromNodeLossPolicy(request.nodeLossPolicy) : value.nodeLoss;
    if (nodeLoss !== value.nodeLoss && value.state !== "stopped") {
      throw fault(
        "failed_precondition",
        "vm_not_stopped",
        `Cannot change what happens when VM ${vm.name} loses its worker as it is ${value.state}: wanted it stopped, ` +
          "as its worker must know from power-on",
        { field: "nodeLossPolicy" },
      );
    }
    if (fields.has("labels")) checkLabels(request.labels);
    return tx.update(vmKind, vm, {
      etag: request.etag,
      ...(fields.has("labels") ? { labels: request.labels } : {}),
      value: {
        ...value,
        restart,
        nodeLoss,
        deleteProtection: fields.has("deleteProtection") ? request.deleteProtection : value.deleteProtection,
      },
    });
  }

  return bind(VmService, {
    createVm: (request, context) =>
      platform.transact(async (tx) => toOperation(await create(tx, request, context.requestId)), {
        idempotency: idempotencyOf(context, CreateVmRequestSchema, request, OperationSchema),
      }),
    getVm: async (request) => toVm(await platform.get(vmKind, request.project, request.vm)),
    updateVm: (request, context) =>
      platform.transact(async (tx) => toVm(await update(tx, request)), {
        idempotency: idempotencyOf(context, UpdateVmRequestSchema, request, VmSchema),
      }),
    deleteVm: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        tx.checkEtag(vmKind, vm, request.etag);
        if (vm.value.desired === "deleted" && vm.value.operation !== "") {
          const running = await platform.operations.read(tx, vm.project, vm.value.operation);
          if (running) return toOperation(running);
        }
        checkIdle(vm, "delete");
        if (vm.value.deleteProtection) {
          throw fault(
            "failed_precondition",
            "vm_protected",
            `Cannot delete VM ${vm.name} as it is protected: wanted delete protection off`,
          );
        }
        const change = { desired: "deleted", state: "deleting", reason: "" } as const;
        return toOperation(
          begin(control, tx, vm, sagas.vm.delete, { data: {}, requestId: context.requestId, change }),
        );
      }, { idempotency: idempotencyOf(context, DeleteVmRequestSchema, request, OperationSchema) }),
    getConsoleLog: (request, context) => readConsole(control, request, 0, context.signal),
    followConsole: (request, context) => followConsole(control, request, context.signal),
    ...vmActions(control, sagas),
    ...vmDevices(control, sagas),
    ...vmList(control),
    ...vmViews(control),
  }, {
    createVm: { resource: "vm", action: "create", scope: (r) => projectScope(r.project) },
    getVm: { resource: "vm", action: "get", scope: (r) => scope(r.project, r.vm) },
    listVms: { resource: "vm", action: "list", scope: (r) => projectScope(r.project) },
    startVm: { resource: "vm", action: "start", scope: (r) => scope(r.project, r.vm) },
    stopVm: { resource: "vm", action: "stop", scope: (r) => scope(r.project, r.vm) },
    rebootVm: { resource: "vm", action: "reboot", scope: (r) => scope(r.project, r.vm) },
    pauseVm: { resource: "vm", action: "pause", scope: (r) => scope(r.project, r.vm) },
    resumeVm: { resource: "vm", action: "pause", scope: (r) => scope(r.project, r.vm) },
    resizeVm: { resource: "vm", action: "resize", scope: (r) => scope(r.project, r.vm) },
    rebuildVm: { resource: "vm", action: "rebuild", scope: (r) => scope(r.project, r.vm) },
    updateVm: { resource: "vm", action: "update", scope: (r) => scope(r.project, r.vm) },
    attachVolume: { resource: "vm", action: "attach", scope: (r) => scope(r.project, r.vm) },
    detachVolume: { resource: "vm", action: "attach", scope: (r) => scope(r.project, r.vm) },
    attachNic: { resource: "vm", action: "attach", scope: (r) => scope(r.project, r.vm) },
    detachNic: { resource: "vm", action: "attach", scope: (r) => scope(r.project, r.vm) },
    migrateVm: { resource: "migration", action: "start", scope: (r) => scope(r.project, r.vm) },
    deleteVm: { resource: "vm", action: "delete", scope: (r) => scope(r.project, r.vm) },
    getConsoleLog: { resource: "vm", action: "console", scope: (r) => scope(r.project, r.vm) },
    followConsole: { resource: "vm", action: "console", scope: (r) => scope(r.project, r.vm) },
    writeConsole: { resource: "vm", action: "type", scope: (r) => scope(r.project, r.vm) },
    screenshot: { resource: "vm", action: "console", scope: (r) => scope(r.project, r.vm) },
    getVmMetrics: { resource: "vm", action: "get", scope: (r) => scope(r.project, r.vm) },
    listVmMetrics: { resource: "vm", action: "list", scope: (r) => projectScope(r.project) },
  });
}
