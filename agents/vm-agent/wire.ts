import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { invalidField } from "@ultracloud/base";
import {
  ImageFormat as WireFormat,
  MachineType as WireMachine,
  type VmObservationSchema,
  VmState as WireState,
} from "@ultracloud/proto/plasmavmc/v1";
import { type PortBinding, Protocol } from "@ultracloud/proto/prismnet/v1";
import {
  type CreateVolumeRequest,
  LeaseLossPolicy as WirePolicy,
  type MachineLayout as WireLayout,
  type MachineLayoutSchema,
  type MigrationEndpoints as WireEndpoints,
  MigrationPhase as WirePhase,
  type MigrationSchema,
  MigrationStorage as WireStorage,
  type NicSpec as WireNic,
  type SnapshotSchema,
  SnapshotState,
  type VmInstanceSchema,
  type VmSpec as WireSpec,
  type VmStatsSchema,
  type VolumeSchema,
  type VolumeSpec as WireVolume,
} from "@ultracloud/proto/vmagent/v1";
import { hotPlugPorts } from "./domain/hardware.ts";
import type { Layout } from "./domain/layout.ts";
import {
  type Endpoints,
  type MigrationPhase,
  type MigrationStorage,
  type MigrationView,
  percentOf,
} from "./domain/migration.ts";
import {
  type Binding,
  type ImageFormat,
  type ImageRef,
  type LeaseLossPolicy,
  limits,
  type NicSpec,
  type VmSpec,
} from "./domain/spec.ts";
import { checkSize, type VolumeSpec } from "./domain/volume_spec.ts";
import { memoryUnitBytes } from "./domain/written_pages.ts";
import type { SnapshotView } from "./snapshots.ts";
import type { VmStatsView } from "./stats.ts";
import type { VolumeView } from "./volumes.ts";
import type { VmState, VmView } from "./domain/state.ts";

const states: Readonly<Record<VmState, WireState>> = {
  pending: WireState.PENDING,
  starting: WireState.STARTING,
  running: WireState.RUNNING,
  paused: WireState.PAUSED,
  migrating: WireState.MIGRATING,
  stopping: WireState.STOPPING,
  stopped: WireState.STOPPED,
  failed: WireState.FAILED,
  unknown: WireState.UNKNOWN,
};

const formats: Readonly<Partial<Record<WireFormat, ImageFormat>>> = {
  [WireFormat.RAW]: "raw",
  [WireFormat.QCOW2]: "qcow2",
  [WireFormat.KERNEL_BUNDLE]: "kernel_bundle",
};

const policies: Readonly<Record<WirePolicy, LeaseLossPolicy>> = {
  [WirePolicy.UNSPECIFIED]: "shared",
  [WirePolicy.STOP]: "stop",
  [WirePolicy.KEEP]: "keep",
};

const phases: Readonly<Record<MigrationPhase, WirePhase>> = {
  prepared: WirePhase.PREPARED,
  mirroring: WirePhase.MIRRORING,
  memory: WirePhase.MEMORY,
  switchover: WirePhase.SWITCHOVER,
  completed: WirePhase.COMPLETED,
  failed: WirePhase.FAILED,
  cancelled: WirePhase.CANCELLED,
};

/** The spec of a request; values are checked later, by `checkSpec`. */
export function specOf(wire: WireSpec | undefined): VmSpec {
  if (!wire) throw invalidField("spec", "Cannot run a VM without a spec", "spec_missing");
  const format = formats[wire.imageFormat];
  if (!format) throw invalidField("spec.image_format", `Cannot run an image of format ${wire.imageFormat}`);
  return {
    vmId: wire.vmId,
    project: wire.project,
    name: wire.name,
    vcpus: wire.vcpus,
    memoryBytes: Number(wire.memoryBytes),
    diskBytes: Number(wire.diskBytes),
    image: { sha256: wire.imageSha256, format, bytes: Number(wire.imageBytes) },
    nics: wire.nics.map((nic, i) => nicOf(nic, `spec.nics[${i}]`)),
    userData: wire.userData,
    sshAuthorizedKeys: [...wire.sshAuthorizedKeys],
    generation: Number(wire.generation),
    rootEpoch: Number(wire.rootEpoch),
    writerEpoch: Number(wire.writerEpoch),
    volumes: wire.volumes.map((volume, i) => volumeOf(volume, `spec.volumes[${i}]`)),
    rootVolume: wire.rootVolume && volumeOf(wire.rootVolume, "spec.root_volume"),
    onLeaseLoss: policies[wire.onLeaseLoss] ?? "shared",
    ...(wire.machineType === WireMachine.MICROVM ? { machineType: "microvm" } : {}),
  };
}

function volumeOf(wire: WireVolume, field: string): VolumeSpec {
  const { volumeId, readOnly, source } = wire;
  const base = { volumeId, sizeBytes: Number(wire.sizeBytes), readOnly };
  if (source.case === "local") return { ...base, source: { kind: "local" } };
  if (source.case === "nbdUri") return { ...base, source: { kind: "nbd", uri: source.value } };
  throw invalidField(field, `Cannot attach ${field} without a source: wanted local or nbd_uri`);
}

/** The hardware that a migration's target is to be started with; values are checked here. */
export function layoutOf(wire: WireLayout | undefined): Layout {
  if (!wire || !/^[a-z0-9.-]{1,40}$/.test(wire.machineType)) {
    throw invalidField("layout", "Cannot take in a guest without the layout of its source: wanted what GetVm answers");
  }
  const { vcpus, machineType } = wire;
  const memoryBytes = Number(wire.memoryBytes);
  if (vcpus < 1 || vcpus > limits.vcpusMax) throw invalidField("layout.vcpus", `Cannot give a guest ${vcpus} vCPUs`);
  if (
    memoryBytes < limits.memoryBytesMin || memoryBytes > limits.memoryBytesMax || memoryBytes % memoryUnitBytes !== 0
  ) {
    throw invalidField("layout.memory_bytes", `Cannot give a guest ${memoryBytes} bytes of memory: wanted whole 8 KiB`);
  }
  const ports: Record<string, number> = {};
  const sizes: Record<string, number> = {};
  for (const { device, port, sizeBytes } of wire.devices) {
    if (port >= hotPlugPorts || Object.values(ports).includes(port)) {
      throw invalidField(
        "layout.devices",
        `Cannot plug a device in port ${port}: wanted one of its own below ${hotPlugPorts}`,
      );
    }
    ports[device] = port;
    if (sizeBytes !== 0n) sizes[device] = checkSize(Number(sizeBytes), "layout.devices");
  }
  return { machineType, vcpus, memoryBytes, ports, sizes };
}

function wireLayout(layout: Layout): MessageInitShape<typeof MachineLayoutSchema> {
  const { machineType, vcpus, memoryBytes, ports, sizes } = layout;
  const devices = Object.entries(ports).map(([device, port]) => ({
    device,
    port,
    sizeBytes: BigInt(sizes[device] ?? 0),
  }));
  return { machineType, vcpus, memoryBytes: BigInt(memoryBytes), devices };
}

function nicOf(wire: WireNic, field: string): NicSpec {
  return {
    portId: wire.portId,
    mac: wire.macAddress.toLowerCase(),
    ip: wire.ipAddress,
    binding: bindingOf(wire.binding, `${field}.binding`),
  };
}

function bindingOf(wire: PortBinding | undefined, field: string): Binding {
  const engine = wire?.engine;
  if (engine?.case === "tap") return { kind: "tap", device: engine.value.device, mtu: engine.value.mtu };
  if (engine?.case !== "user") throw invalidField(field, `Cannot attach a NIC without ${field}: wanted user or tap`);
  const { cidr, gatewayIp, dnsIp, restrict, forwards } = engine.value;
  return {
    kind: "user",
    cidr,
    gatewayIp,
    dnsIp,
    restrict,
    forwards: forwards.map((forward, i) => ({
      protocol: protocolOf(forward.protocol, `${field}.user.forwards[${i}].protocol`),
      hostIp: forward.hostIp,
      hostPort: forward.hostPort,
      guestPort: forward.guestPort,
    })),
  };
}

function protocolOf(wire: Protocol, field: string): "tcp" | "udp" {
  if (wire === Protocol.TCP) return "tcp";
  if (wire === Protocol.UDP) return "udp";
  throw invalidField(field, `Cannot forward protocol ${wire}: wanted TCP or UDP`);
}

export function instanceOf(view: VmView): MessageInitShape<typeof VmInstanceSchema> {
  return {
    vmId: view.vmId,
    state: states[view.state],
    reason: view.reason,
    generation: BigInt(view.generation),
    pid: view.pid,
    writerEpoch: BigInt(view.writerEpoch),
    rootEpoch: BigInt(view.rootEpoch),
    migrationId: view.migrationId,
    ...view.layout === undefined ? {} : {
      layout: wireLayout(view.layout),
      attached: Object.keys(view.layout.ports).filter((id) => id !== "root").sort(),
    },
    ...started(view),
  };
}

export function observationOf(view: VmView): MessageInitShape<typeof VmObservationSchema> {
  return { vmId: view.vmId, state: states[view.state], reason: view.reason, ...started(view) };
}

function started(view: VmView) {
  return view.startedAtMs === undefined ? {} : { startedTime: timestampFromMs(view.startedAtMs) };
}

export function storageOf(wire: WireStorage): MigrationStorage {
  if (wire === WireStorage.SHARED) return "shared";
  if (wire === WireStorage.MIRROR) return "mirror";
  throw invalidField("storage", `Cannot migrate with storage ${wire}: wanted SHARED or MIRROR`);
}

export function endpointsOf(wire: WireEndpoints | undefined): Endpoints {
  if (!wire) {
    throw invalidField("endpoints", "Cannot send a guest without endpoints: wanted what PrepareIncoming answers");
  }
  return {
    stateUri: wire.stateUri,
    mirrors: wire.mirrors.map(({ device, nbdUri }) => ({ device, uri: nbdUri })),
    ...(wire.psk === "" ? {} : { psk: wire.psk }),
  };
}

export function wireEndpoints(endpoints: Endpoints) {
  return {
    stateUri: endpoints.stateUri,
    mirrors: endpoints.mirrors.map(({ device, uri }) => ({ device, nbdUri: uri })),
    psk: endpoints.psk ?? "",
  };
}

export function migrationOf({ vmId, record, progress }: MigrationView): MessageInitShape<typeof MigrationSchema> {
  return {
    migrationId: record.id,
    vmId,
    incoming: record.role === "target",
    phase: phases[record.phase],
    reason: record.reason,
    progressPercent: percentOf(record.phase, progress),
    downtimeMs: record.downtimeMs,
    totalMs: BigInt(Math.round(record.totalMs)),
    memoryTransferredBytes: BigInt(progress.memoryTransferredBytes),
    memoryRemainingBytes: BigInt(progress.memoryRemainingBytes),
    diskTransferredBytes: BigInt(progress.diskTransferredBytes),
    diskTotalBytes: BigInt(progress.diskTotalBytes),
    throttlePercent: progress.throttlePercent,
  };
}

/** The image a volume is to hold at first; undefined: blank. */
export function contentOf(wire: CreateVolumeRequest): ImageRef | undefined {
  if (wire.imageSha256 === "") return undefined;
  const format = formats[wire.imageFormat];
  if (!format || format === "kernel_bundle") {
    throw invalidField("image_format", `Cannot fill a volume from format ${wire.imageFormat}: wanted RAW or QCOW2`);
  }
  if (!/^[0-9a-f]{64}$/.test(wire.imageSha256)) {
    throw invalidField("image_sha256", "Cannot use the image digest: wanted 64 lower-case hexadecimal digits");
  }
  return { sha256: wire.imageSha256, format, bytes: checkImageBytes(Number(wire.imageBytes)) };
}

function checkImageBytes(bytes: number): number {
  if (Number.isSafeInteger(bytes) && bytes > 0 && bytes <= limits.diskBytesMax) return bytes;
  throw invalidField("image_bytes", `Cannot use an image of ${bytes} bytes: wanted 1 to ${limits.diskBytesMax}`);
}

export function wireVolume(view: VolumeView): MessageInitShape<typeof VolumeSchema> {
  return {
    volumeId: view.volumeId,
    sizeBytes: BigInt(view.sizeBytes),
    allocatedBytes: BigInt(view.allocatedBytes),
    writerEpoch: BigInt(view.writerEpoch),
    exports: view.exports.map(wireExport),
    vmId: view.vmId,
  };
}

export function wireExport(view: { readonly uri: string; readonly writerEpoch: number }) {
  return { nbdUri: view.uri, writerEpoch: BigInt(view.writerEpoch) };
}

export function wireSnapshot(view: SnapshotView): MessageInitShape<typeof SnapshotSchema> {
  return {
    snapshotId: view.snapshotId,
    vmId: view.vmId,
    state: view.state === "ready" ? SnapshotState.READY : SnapshotState.CREATING,
    createTime: timestampFromMs(view.createdAtMs),
    disks: view.disks.map(({ device, sizeBytes, bytes }) => ({
      device,
      sizeBytes: BigInt(sizeBytes),
      bytes: BigInt(bytes),
    })),
  };
}

export function wireStats(view: VmStatsView, nowMs: number): MessageInitShape<typeof VmStatsSchema> {
  return {
    vmId: view.vmId,
    sampledTime: timestampFromMs(nowMs),
    cpuTimeMs: BigInt(view.cpuTimeMs),
    memoryBytes: BigInt(view.memoryBytes),
    memoryResidentBytes: BigInt(view.memoryResidentBytes),
    disks: view.disks.map((disk) => ({
      device: disk.device,
      readBytes: BigInt(disk.readBytes),
      writeBytes: BigInt(disk.writeBytes),
      readOperations: BigInt(disk.readOperations),
      writeOperations: BigInt(disk.writeOperations),
      flushOperations: BigInt(disk.flushOperations),
    })),
    nics: view.nics.map((nic) => ({
      portId: nic.portId,
      counted: nic.counted,
      receivedBytes: BigInt(nic.receivedBytes),
      sentBytes: BigInt(nic.sentBytes),
      receivedPackets: BigInt(nic.receivedPackets),
      sentPackets: BigInt(nic.sentPackets),
    })),
  };
}
