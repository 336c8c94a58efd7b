import { create, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { invalidField } from "@ultracloud/base";
import { packMessage, type StoredRecord, toMeta } from "@ultracloud/platform";
import type { VmSpecSchema } from "@ultracloud/proto/vmagent/v1";
import {
  DesiredState,
  type FlavorSchema,
  HypervisorType,
  ImageFormat,
  ImageSchema,
  ImageState,
  MigrationStorage,
  type Node as NodeMessage,
  NodeSchema,
  NodeState,
  SnapshotSchema,
  type VmObservation,
  VmSchema,
  VmState,
  VolumeSchema,
} from "@ultracloud/proto/plasmavmc/v1";
import { LeaseLossPolicy } from "@ultracloud/proto/vmagent/v1";
import { type Port, Protocol } from "@ultracloud/proto/prismnet/v1";
import type * as domain from "./domain/types.ts";
import type { VolumeSource } from "./volume_engine.ts";
import { machineTypes, nodeLossPolicies, restartPolicies, toSnapshot, toVolume } from "./wire_storage.ts";

/** Between messages and domain types: messages stop here. */

export type VmInit = MessageInitShape<typeof VmSchema>;
export type ImageInit = MessageInitShape<typeof ImageSchema>;
export type NodeInit = MessageInitShape<typeof NodeSchema>;

const formats: Record<domain.ImageFormat, ImageFormat> = {
  raw: ImageFormat.RAW,
  qcow2: ImageFormat.QCOW2,
  kernel_bundle: ImageFormat.KERNEL_BUNDLE,
};

export function fromFormat(format: ImageFormat, field: string): domain.ImageFormat {
  const found = (Object.keys(formats) as domain.ImageFormat[]).find((f) => formats[f] === format);
  if (!found) throw invalidField(field, `Cannot use image format ${format}: wanted raw, qcow2 or kernel bundle`);
  return found;
}

export function toFormat(format: domain.ImageFormat): ImageFormat {
  return formats[format];
}

const states: Record<domain.VmState, VmState> = {
  pending: VmState.PENDING,
  starting: VmState.STARTING,
  running: VmState.RUNNING,
  paused: VmState.PAUSED,
  stopping: VmState.STOPPING,
  stopped: VmState.STOPPED,
  migrating: VmState.MIGRATING,
  failed: VmState.FAILED,
  unknown: VmState.UNKNOWN,
  deleting: VmState.DELETING,
  deleted: VmState.DELETED,
};

const desired: Record<domain.DesiredState, DesiredState> = {
  running: DesiredState.RUNNING,
  stopped: DesiredState.STOPPED,
  deleted: DesiredState.DELETED,
  paused: DesiredState.PAUSED,
};

export function toImage(record: StoredRecord<domain.Image>): ImageInit {
  const { format, bytes, sha256, virtualBytes } = record.value;
  return {
    meta: toMeta(record),
    format: formats[format],
    state: ImageState.READY,
    bytes: BigInt(bytes),
    sha256,
    virtualBytes: BigInt(virtualBytes),
  };
}

export function toFlavor(flavor: domain.Flavor): MessageInitShape<typeof FlavorSchema> {
  const { name, vcpus, memoryBytes, diskBytes, builtin, description } = flavor;
  return { name, vcpus, memoryBytes: BigInt(memoryBytes), diskBytes: BigInt(diskBytes), builtin, description };
}

function toNic(nic: domain.Nic) {
  const forwards = nic.binding.engine === "user" ? nic.binding.forwards : [];
  return {
    portId: nic.portId,
    macAddress: nic.macAddress,
    ipAddress: nic.ipAddress,
    subnetId: nic.subnetId,
    endpoints: forwards.map((f) => ({
      protocol: f.protocol,
      guestPort: f.guestPort,
      address: `${f.hostIp}:${f.hostPort}`,
    })),
  };
}

export const migrationStorages: Record<domain.MigrationStorage, MigrationStorage> = {
  shared: MigrationStorage.SHARED,
  mirror: MigrationStorage.MIRROR,
};

function toMigration(migration: domain.Migration) {
  const { storage, downtimeMs, totalMs, ...rest } = migration;
  return {
    ...rest,
    storage: migrationStorages[storage],
    downtimeMs: BigInt(downtimeMs ?? 0),
    totalMs: BigInt(totalMs ?? 0),
  };
}

export function toVm(record: StoredRecord<domain.Vm>): VmInit {
  const vm = record.value;
  return {
    meta: toMeta(record),
    flavor: vm.flavor,
    imageId: vm.imageId,
    imageSha256: vm.imageSha256,
    desiredState: desired[vm.desired],
    state: states[vm.state],
    stateReason: vm.reason,
    node: vm.node,
    nics: vm.nics.map(toNic),
    accelerator: vm.accelerator,
    vcpus: vm.vcpus,
    memoryBytes: BigInt(vm.memoryBytes),
    diskBytes: BigInt(vm.diskBytes),
    volumes: vm.volumes.map(({ volumeId, name, readOnly }) => ({ volumeId, volume: name, readOnly })),
    groupIds: [...vm.groupIds],
    restartPolicy: restartPolicies[vm.restart.policy],
    restartCooldownMs: BigInt(vm.restart.cooldownMs),
    restarts: vm.restart.count,
    nodeLossPolicy: nodeLossPolicies[vm.nodeLoss],
    deleteProtection: vm.deleteProtection,
    operation: vm.operation,
    writerEpoch: BigInt(vm.writerEpoch),
    machineType: machineTypes[vm.machineType ?? "q35"],
    ...(vm.migration ? { migration: toMigration(vm.migration) } : {}),
    ...(vm.restart.lastMs === undefined ? {} : { lastRestartTime: timestampFromMs(vm.restart.lastMs) }),
    ...(vm.startedMs === undefined ? {} : { startedTime: timestampFromMs(vm.startedMs) }),
  };
}

export function packVm(record: StoredRecord<domain.Vm>) {
  return packMessage(VmSchema, toVm(record));
}

const protocolNames = { [Protocol.TCP]: "tcp", [Protocol.UDP]: "udp" } as const;
const protocols = { tcp: Protocol.TCP, udp: Protocol.UDP } as const;

/** What a bound port gives a VM; undefined while it is not bound. */
export function nicOf(port: Port, subnetId: string): domain.Nic | undefined {
  const engine = port.binding?.engine;
  const base = { portId: port.meta?.id ?? "", macAddress: port.macAddress, ipAddress: port.ipAddress, subnetId };
  if (engine?.case === "user") {
    const { cidr, gatewayIp, dnsIp, forwards, restrict } = engine.value;
    const known = forwards.map((f): domain.Forward => ({
      protocol: f.protocol === Protocol.UDP ? protocolNames[Protocol.UDP] : protocolNames[Protocol.TCP],
      hostIp: f.hostIp,
      hostPort: f.hostPort,
      guestPort: f.guestPort,
    }));
    return { ...base, binding: { engine: "user", cidr, gatewayIp, dnsIp, forwards: known, restrict } };
  }
  if (engine?.case === "tap") {
    return { ...base, binding: { engine: "tap", device: engine.value.device, mtu: engine.value.mtu } };
  }
  return undefined;
}

function toBinding(binding: domain.Binding) {
  if (binding.engine === "tap") {
    return { engine: { case: "tap" as const, value: { device: binding.device, mtu: binding.mtu } } };
  }
  const { engine: _, forwards, ...rest } = binding;
  const wire = forwards.map((f) => ({ ...f, protocol: protocols[f.protocol] }));
  return { engine: { case: "user" as const, value: { ...rest, forwards: wire } } };
}

/** What a spec has that is not in the VM's own record. */
export interface SpecParts {
  readonly volumes: readonly { readonly record: StoredRecord<domain.Volume>; readonly source: VolumeSource }[];
  readonly writerEpoch: number;
  readonly nics: readonly domain.Nic[];
}

/** A VM that may be started elsewhere must be off by then; others outlive the control plane. */
function onLeaseLoss(vm: domain.Vm, parts: SpecParts): LeaseLossPolicy {
  const shared = parts.volumes.some((v) => v.source.kind === "nbd");
  return vm.nodeLoss === "evacuate" || shared ? LeaseLossPolicy.STOP : LeaseLossPolicy.KEEP;
}

/** Everything a worker needs. */
export function toSpec(
  record: StoredRecord<domain.Vm>,
  guest: domain.GuestData,
  parts: SpecParts,
): MessageInitShape<typeof VmSpecSchema> {
  const vm = record.value;
  return {
    vmId: record.id,
    project: record.project,
    name: record.name,
    vcpus: vm.vcpus,
    memoryBytes: BigInt(vm.memoryBytes),
    diskBytes: BigInt(vm.diskBytes),
    imageSha256: vm.imageSha256,
    imageFormat: formats[vm.imageFormat],
    imageBytes: BigInt(vm.imageBytes),
    nics: parts.nics.map(({ portId, macAddress, ipAddress, binding }) => ({
      portId,
      macAddress,
      ipAddress,
      binding: toBinding(binding),
    })),
    userData: guest.userData,
    sshAuthorizedKeys: [...guest.sshAuthorizedKeys],
    generation: BigInt(vm.generation),
    rootEpoch: BigInt(vm.rootEpoch),
    writerEpoch: BigInt(parts.writerEpoch),
    volumes: parts.volumes.map(({ record: volume, source }) => ({
      volumeId: volume.id,
      sizeBytes: BigInt(volume.value.sizeBytes),
      readOnly: vm.volumes.find((a) => a.volumeId === volume.id)?.readOnly ?? false,
      source: source.kind === "local"
        ? { case: "local" as const, value: {} }
        : { case: "nbdUri" as const, value: source.uri },
    })),
    onLeaseLoss: onLeaseLoss(vm, parts),
    machineType: machineTypes[vm.machineType ?? "q35"],
  };
}

/** What a worker says about a VM. */
export function fromObservation(
  observed: Pick<VmObservation, "vmId" | "state" | "reason" | "startedTime">,
): domain.Observation {
  const state = (Object.keys(states) as domain.VmState[]).find((s) => states[s] === observed.state) ?? "unknown";
  return {
    vmId: observed.vmId,
    state,
    reason: observed.reason,
    ...(observed.startedTime ? { startedMs: timestampMs(observed.startedTime) } : {}),
  };
}

function toCapacity(capacity: domain.Capacity) {
  return {
    vcpus: capacity.vcpus,
    memoryBytes: BigInt(capacity.memoryBytes),
    diskBytes: BigInt(capacity.diskBytes),
    vmSlots: capacity.vmSlots,
  };
}

export interface NodeView {
  readonly alive: boolean;
  readonly allocated: domain.Capacity;
  readonly lastHeartbeatMs: number;
}

export function toNode(record: StoredRecord<domain.Node>, view: NodeView): NodeInit {
  const node = record.value;
  return {
    name: record.name,
    agentUrl: node.agentUrl,
    hypervisorType: HypervisorType.KVM,
    accelerator: node.accelerator,
    capacity: toCapacity(node.capacity),
    allocated: toCapacity(view.allocated),
    labels: { ...node.labels },
    state: !view.alive
      ? NodeState.LOST
      : node.draining !== ""
      ? NodeState.DRAINING
      : node.cordoned
      ? NodeState.CORDONED
      : NodeState.READY,
    lastHeartbeatTime: timestampFromMs(view.lastHeartbeatMs),
    agentVersion: node.agentVersion,
  };
}

/** What a worker registers, checked. */
export function fromNode(node: NodeMessage | undefined): Omit<domain.Node, "cordoned" | "draining" | "registeredMs"> {
  if (!node) throw invalidField("node", "Cannot register a node that is not given");
  if (node.hypervisorType !== HypervisorType.KVM) {
    throw invalidField("node.hypervisorType", "Cannot use the node's hypervisor: wanted HYPERVISOR_TYPE_KVM");
  }
  if (node.accelerator !== "kvm" && node.accelerator !== "tcg") {
    throw invalidField(
      "node.accelerator",
      `Cannot use accelerator ${JSON.stringify(node.accelerator.slice(0, 20))}: wanted kvm or tcg`,
    );
  }
  if (!/^https?:\/\/[^/\s]+$/.test(node.agentUrl) || node.agentUrl.length > 512) {
    throw invalidField("node.agentUrl", "Cannot use the agent's address: wanted http(s)://host:port");
  }
  const capacity = {
    vcpus: node.capacity?.vcpus ?? 0,
    memoryBytes: Number(node.capacity?.memoryBytes ?? 0n),
    diskBytes: Number(node.capacity?.diskBytes ?? 0n),
    vmSlots: node.capacity?.vmSlots ?? 0,
  };
  for (const [name, value] of Object.entries(capacity)) {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw invalidField(`node.capacity.${name}`, `Cannot use capacity ${value}: wanted 0 or more`);
    }
  }
  return {
    agentUrl: node.agentUrl,
    accelerator: node.accelerator,
    capacity,
    labels: { ...node.labels },
    agentVersion: node.agentVersion.slice(0, 64),
  };
}

/** Public JSON per kind, for events and field filters. */
export const views = {
  image: (r: StoredRecord) => toJson(ImageSchema, create(ImageSchema, toImage(r as StoredRecord<domain.Image>))),
  vm: (r: StoredRecord) => toJson(VmSchema, create(VmSchema, toVm(r as StoredRecord<domain.Vm>))),
  volume: (r: StoredRecord) => toJson(VolumeSchema, create(VolumeSchema, toVolume(r as StoredRecord<domain.Volume>))),
  snapshot: (r: StoredRecord) =>
    toJson(SnapshotSchema, create(SnapshotSchema, toSnapshot(r as StoredRecord<domain.Snapshot>))),
};
