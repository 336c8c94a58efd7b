import { fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, type StoredRecord, toOperation } from "@ultracloud/platform";
import { OperationSchema } from "@ultracloud/proto/common/v1";
import {
  AttachNicRequestSchema,
  AttachVolumeRequestSchema,
  DetachNicRequestSchema,
  DetachVolumeRequestSchema,
  type VmService,
} from "@ultracloud/proto/plasmavmc/v1";
import type { Handlers } from "@ultracloud/rpc";
import { typed } from "./calls.ts";
import type { Control } from "./control.ts";
import type { NicWish, Vm } from "./domain/types.ts";
import { vmKind, volumeKind } from "./kinds.ts";
import { checkPluggable } from "./machine_rules.ts";
import type { Sagas } from "./sagas.ts";
import { begin, checkIdle, checkState } from "./vm_begin.ts";
import { checkNames, nicsMax, securityGroupsMax, volumesMax } from "./vm_request.ts";
import { checkFree, checkVolumeIdle } from "./volume_rules.ts";

type Devices = Pick<Handlers<typeof VmService>, "attachVolume" | "detachVolume" | "attachNic" | "detachNic">;

/** The states in which devices change: on, where the worker plugs, and off, where the next start does. */
const changeable: readonly Vm["state"][] = ["running", "paused", "stopped"];

export function vmDevices(control: Control, sagas: Sagas): Devices {
  const { platform } = control;
  const isLive = (vm: StoredRecord<Vm>) => vm.value.state !== "stopped";

  return {
    attachVolume: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        const volume = await tx.get(volumeKind, request.project, request.volume);
        checkIdle(vm, "attach a volume to");
        checkState(vm, "attach a volume to", changeable);
        checkPluggable(vm, "attach a volume to", 1);
        checkFree(volume, vm.name, "volume", vm.value.volumes.map((a) => a.volumeId));
        if (vm.value.volumes.length >= volumesMax) {
          throw fault(
            "resource_exhausted",
            "too_many_volumes",
            `Cannot attach volume ${volume.name} to VM ${vm.name} as it has ${volumesMax}: wanted fewer`,
          );
        }
        if (!volume.value.shared && !control.volumes.everywhere && volume.value.node !== vm.value.node) {
          throw fault(
            "failed_precondition",
            "volume_elsewhere",
            `Cannot attach volume ${volume.name} to VM ${vm.name} as it is a file of worker ${volume.value.node} and ` +
              `the VM is on ${vm.value.node || "none"}: wanted a shared volume, or one made near the VM`,
            { field: "volume" },
          );
        }
        const epoch = Math.max(vm.value.writerEpoch, volume.value.writerEpoch + 1);
        const attachment = { volumeId: volume.id, name: volume.name, readOnly: request.readOnly, epoch };
        const operation = begin(control, tx, vm, sagas.device.attachVolume, {
          data: { attachment, live: isLive(vm), before: vm.value.state },
          requestId: context.requestId,
        });
        const taken = { vmId: vm.id, vmName: vm.name, readOnly: request.readOnly, operation: operation.id };
        tx.update(volumeKind, volume, { value: { ...volume.value, ...taken, state: "attaching" } });
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, AttachVolumeRequestSchema, request, OperationSchema) }),

    detachVolume: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        const volume = await tx.get(volumeKind, request.project, request.volume);
        checkIdle(vm, "detach a volume from");
        checkState(vm, "detach a volume from", changeable);
        checkPluggable(vm, "detach a volume from", 0);
        checkVolumeIdle(volume, "detach");
        const attachment = vm.value.volumes.find((a) => a.volumeId === volume.id);
        if (!attachment) {
          throw fault(
            "failed_precondition",
            "volume_not_attached",
            `Cannot detach volume ${volume.name} from VM ${vm.name} as it is attached to ${
              volume.value.vmName || "nothing"
            }`,
            { field: "volume" },
          );
        }
        const operation = begin(control, tx, vm, sagas.device.detachVolume, {
          data: { attachment, live: isLive(vm), before: vm.value.state },
          requestId: context.requestId,
        });
        tx.update(volumeKind, volume, {
          value: { ...volume.value, state: "detaching", operation: operation.id },
        });
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, DetachVolumeRequestSchema, request, OperationSchema) }),

    attachNic(request, context) {
      checkNames([request.subnet], "subnet");
      checkNames(request.securityGroups, "securityGroups");
      if (request.securityGroups.length > securityGroupsMax) {
        throw invalidField("securityGroups", `Cannot use more than ${securityGroupsMax} groups`);
      }
      return platform.transact(async (tx) => {
        const { project, subnet } = request;
        const vm = await tx.get(vmKind, project, request.vm);
        checkIdle(vm, "attach a NIC to");
        checkState(vm, "attach a NIC to", changeable);
        checkPluggable(vm, "attach a NIC to", 1);
        const { nicWishes } = vm.value;
        if (nicWishes.length >= nicsMax) {
          throw fault(
            "resource_exhausted",
            "too_many_nics",
            `Cannot attach a NIC to VM ${vm.name} as it has ${nicsMax}: wanted fewer`,
          );
        }
        const { subnets, groups } = control.ports.clients;
        const found = await typed(subnets.getSubnet({ project, subnet }));
        const own = await typed(
          Promise.all(
            request.securityGroups.map((securityGroup) => groups.getSecurityGroup({ project, securityGroup })),
          ),
        );
        const wish: NicWish = {
          number: Math.max(-1, ...nicWishes.map((w) => w.number)) + 1,
          subnetId: found.meta!.id,
          securityGroupIds: own.length > 0 ? own.map((g) => g.meta!.id) : nicWishes[0]?.securityGroupIds ?? [],
        };
        return toOperation(begin(control, tx, vm, sagas.device.attachNic, {
          data: { wish, live: isLive(vm), before: vm.value.state },
          requestId: context.requestId,
        }));
      }, { idempotency: idempotencyOf(context, AttachNicRequestSchema, request, OperationSchema) });
    },

    detachNic: (request, context) =>
      platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        checkIdle(vm, "detach a NIC from");
        checkState(vm, "detach a NIC from", changeable);
        checkPluggable(vm, "detach a NIC from", 0);
        const at = vm.value.nics.findIndex((nic) => nic.portId === request.portId);
        const wish = vm.value.nicWishes[at];
        if (at < 0 || !wish) {
          throw fault(
            "not_found",
            "nic_not_found",
            `Cannot find a NIC of VM ${vm.name} with port ${JSON.stringify(request.portId.slice(0, 40))}`,
            { field: "portId" },
          );
        }
        return toOperation(begin(control, tx, vm, sagas.device.detachNic, {
          data: { wish, live: isLive(vm), before: vm.value.state },
          requestId: context.requestId,
        }));
      }, { idempotency: idempotencyOf(context, DetachNicRequestSchema, request, OperationSchema) }),
  };
}
