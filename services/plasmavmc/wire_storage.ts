import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { invalidField } from "@ultracloud/base";
import { packMessage, type StoredRecord, toMeta } from "@ultracloud/platform";
import {
  GroupStrictness,
  type ImageAliasSchema,
  MachineType,
  NodeLossPolicy,
  type PlacementGroupSchema,
  RestartPolicy,
  type SnapshotScheduleSchema,
  SnapshotSchema,
  SnapshotState,
  type SshKeySchema,
  VolumeSchema,
  VolumeState,
} from "@ultracloud/proto/plasmavmc/v1";
import type * as domain from "./domain/types.ts";

/** Between messages and domain types of what is neither VM, image nor node. */

export const restartPolicies: Record<domain.RestartPolicy, RestartPolicy> = {
  never: RestartPolicy.NEVER,
  on_failure: RestartPolicy.ON_FAILURE,
  always: RestartPolicy.ALWAYS,
};

export const nodeLossPolicies: Record<domain.NodeLossPolicy, NodeLossPolicy> = {
  stay: NodeLossPolicy.STAY,
  evacuate: NodeLossPolicy.EVACUATE,
};

export const machineTypes: Record<domain.MachineType, MachineType> = {
  q35: MachineType.Q35,
  microvm: MachineType.MICROVM,
};

const strictness: Record<domain.PlacementGroup["strictness"], GroupStrictness> = {
  hard: GroupStrictness.HARD,
  soft: GroupStrictness.SOFT,
};

const volumeStates: Record<domain.VolumeState, VolumeState> = {
  creating: VolumeState.CREATING,
  available: VolumeState.AVAILABLE,
  attaching: VolumeState.ATTACHING,
  in_use: VolumeState.IN_USE,
  detaching: VolumeState.DETACHING,
  growing: VolumeState.GROWING,
  deleting: VolumeState.DELETING,
  failed: VolumeState.FAILED,
};

const snapshotStates: Record<domain.SnapshotState, SnapshotState> = {
  creating: SnapshotState.CREATING,
  ready: SnapshotState.READY,
  restoring: SnapshotState.RESTORING,
  deleting: SnapshotState.DELETING,
  failed: SnapshotState.FAILED,
};

/** The domain's word for a wire value; `fallback` stands for unspecified. */
function pick<K extends string>(table: Record<K, number>, value: number, field: string, fallback?: K): K {
  if (value === 0 && fallback !== undefined) return fallback;
  const found = (Object.keys(table) as K[]).find((key) => table[key] === value);
  if (found) return found;
  throw invalidField(field, `Cannot use ${value} as ${field}: wanted one of ${Object.keys(table).join(", ")}`);
}

export function fromRestartPolicy(policy: RestartPolicy): domain.RestartPolicy {
  return pick(restartPolicies, policy, "restartPolicy", "never");
}

export function fromNodeLossPolicy(policy: NodeLossPolicy): domain.NodeLossPolicy {
  return pick(nodeLossPolicies, policy, "nodeLossPolicy", "stay");
}

export function fromMachineType(value: MachineType): domain.MachineType {
  return pick(machineTypes, value, "machineType", "q35");
}

export function fromStrictness(value: GroupStrictness): domain.PlacementGroup["strictness"] {
  return pick(strictness, value, "strictness");
}

export function toVolume(record: StoredRecord<domain.Volume>): MessageInitShape<typeof VolumeSchema> {
  const { state, reason, sizeBytes, node, shared, vmId, vmName, readOnly, deleteProtection, operation, writerEpoch } =
    record.value;
  return {
    meta: toMeta(record),
    sizeBytes: BigInt(sizeBytes),
    state: volumeStates[state],
    stateReason: reason,
    node,
    shared,
    vmId,
    vm: vmName,
    readOnly,
    deleteProtection,
    operation,
    writerEpoch: BigInt(writerEpoch),
  };
}

export function packVolume(record: StoredRecord<domain.Volume>) {
  return packMessage(VolumeSchema, toVolume(record));
}

export function toSnapshot(record: StoredRecord<domain.Snapshot>): MessageInitShape<typeof SnapshotSchema> {
  const { state, reason, vmId, volumeIds, volumesOnly, sizeBytes, node, scheduleId, operation } = record.value;
  return {
    meta: toMeta(record),
    state: snapshotStates[state],
    stateReason: reason,
    vmId,
    volumeIds: [...volumeIds],
    volumesOnly: volumesOnly ?? false,
    sizeBytes: BigInt(sizeBytes),
    node,
    scheduleId,
    operation,
  };
}

export function packSnapshot(record: StoredRecord<domain.Snapshot>) {
  return packMessage(SnapshotSchema, toSnapshot(record));
}

export function toSchedule(
  record: StoredRecord<domain.SnapshotSchedule>,
): MessageInitShape<typeof SnapshotScheduleSchema> {
  const { vmId, intervalMs, keep, nextMs, lastFailure } = record.value;
  return {
    meta: toMeta(record),
    vmId,
    intervalMs: BigInt(intervalMs),
    keep,
    nextTime: timestampFromMs(nextMs),
    lastFailure,
  };
}

export function toSshKey(record: StoredRecord<domain.SshKey>): MessageInitShape<typeof SshKeySchema> {
  return { meta: toMeta(record), ...record.value };
}

export function toGroup(
  record: StoredRecord<domain.PlacementGroup>,
  vmIds: readonly string[],
): MessageInitShape<typeof PlacementGroupSchema> {
  const { strictness: kind, domainLabel } = record.value;
  return { meta: toMeta(record), strictness: strictness[kind], domainLabel, vmIds: [...vmIds] };
}

export function toAlias(record: StoredRecord<domain.ImageAlias>): MessageInitShape<typeof ImageAliasSchema> {
  return { meta: toMeta(record), versions: record.value.versions.map((v) => ({ ...v })) };
}
