import { Fault, invalidField, parseId } from "@ultracloud/base";
import { type MachineType, microvmPorts } from "./hardware.ts";
import { checkVolumes, type VolumeSpec } from "./volume_spec.ts";

export type DiskFormat = "raw" | "qcow2";
export type ImageFormat = DiskFormat | "kernel_bundle";

/** Content of an image; the digest is its identity. */
export interface ImageRef {
  /** Lower-case hex. */
  readonly sha256: string;
  readonly format: ImageFormat;
  readonly bytes: number;
}

export interface Forward {
  readonly protocol: "tcp" | "udp";
  readonly hostIp: string;
  readonly hostPort: number;
  readonly guestPort: number;
}

export type Binding =
  | {
    readonly kind: "user";
    readonly cidr: string;
    readonly gatewayIp: string;
    readonly dnsIp: string;
    readonly forwards: readonly Forward[];
    readonly restrict: boolean;
  }
  | { readonly kind: "tap"; readonly device: string; readonly mtu: number };

export interface NicSpec {
  readonly portId: string;
  readonly mac: string;
  readonly ip: string;
  readonly binding: Binding;
}

/** What a VM is to be; plain data, kept as JSON in its record. */
export interface VmSpec {
  readonly vmId: string;
  readonly project: string;
  readonly name: string;
  readonly vcpus: number;
  readonly memoryBytes: number;
  /** 0: no disk beyond what the image brings. */
  readonly diskBytes: number;
  readonly image: ImageRef;
  readonly nics: readonly NicSpec[];
  readonly userData: string;
  readonly sshAuthorizedKeys: readonly string[];
  /** Grows with every change. */
  readonly generation: number;
  /** A higher one has the root disk made anew. */
  readonly rootEpoch: number;
  /** One for each placement; disks refuse a start with a lower one than they have seen. */
  readonly writerEpoch: number;
  readonly volumes: readonly VolumeSpec[];
  /** The root disk when it is a volume; undefined: a file of this worker. */
  readonly rootVolume: VolumeSpec | undefined;
  readonly onLeaseLoss: LeaseLossPolicy;
  /** Absent: q35, as in records of agents that knew no other. */
  readonly machineType?: MachineType;
}

/** `shared`: stopped when another worker can reach one of its disks. */
export type LeaseLossPolicy = "shared" | "stop" | "keep";

/** Bounds of one VM: PCI slots of q35 for NICs, the control plane's limit for user data, sane sizes for the rest. */
export const limits = {
  vcpusMax: 255,
  memoryBytesMin: 16 * 2 ** 20,
  memoryBytesMax: 16 * 2 ** 40,
  diskBytesMax: 64 * 2 ** 40,
  nicsMax: 8,
  forwardsMax: 64,
  userDataBytesMax: 64 * 1024,
  sshKeysMax: 32,
  sshKeyCharsMax: 16 * 1024,
} as const;

const portPattern = /^[A-Za-z0-9_-]{1,64}$/;
const digestPattern = /^[0-9a-f]{64}$/;
const macPattern = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;
const devicePattern = /^[a-zA-Z0-9][a-zA-Z0-9._-]{0,14}$/;
const ipv4Pattern = /^(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3}$/;

/** The id, or an invalid_argument fault; it becomes a directory name, so nothing else gets through. */
export function checkVmId(vmId: string, field = "vm_id"): string {
  return parseId("vm", vmId, field);
}

/** The spec itself when every value may safely reach QEMU's command line and the seed; a fault at the field else. */
export function checkSpec(spec: VmSpec): VmSpec {
  checkVmId(spec.vmId, "spec.vm_id");
  text("spec.project", spec.project, 1, 200);
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(spec.name)) {
    throw invalidField("spec.name", `Cannot use ${show(spec.name)} as a VM name: wanted a DNS label`);
  }
  whole("spec.vcpus", spec.vcpus, 1, limits.vcpusMax);
  whole("spec.memory_bytes", spec.memoryBytes, limits.memoryBytesMin, limits.memoryBytesMax);
  if (spec.memoryBytes % 2 ** 20 !== 0) {
    throw invalidField("spec.memory_bytes", `Cannot give ${spec.memoryBytes} bytes of memory: wanted whole MiB`);
  }
  whole("spec.disk_bytes", spec.diskBytes, 0, limits.diskBytesMax);
  if (spec.diskBytes % 512 !== 0) {
    throw invalidField("spec.disk_bytes", `Cannot make a disk of ${spec.diskBytes} bytes: wanted a multiple of 512`);
  }
  if (!digestPattern.test(spec.image.sha256)) {
    throw invalidField("spec.image_sha256", "Cannot use the image digest: wanted 64 lower-case hexadecimal digits");
  }
  whole("spec.image_bytes", spec.image.bytes, 1, limits.diskBytesMax);
  whole("spec.generation", spec.generation, 0, Number.MAX_SAFE_INTEGER);
  whole("spec.root_epoch", spec.rootEpoch, 0, Number.MAX_SAFE_INTEGER);
  whole("spec.writer_epoch", spec.writerEpoch, 0, Number.MAX_SAFE_INTEGER);
  checkVolumes(spec.volumes, spec.rootVolume);
  atMost("spec.nics", spec.nics.length, limits.nicsMax);
  spec.nics.forEach((nic, i) => checkNic(nic, `spec.nics[${i}]`));
  unique("spec.nics", spec.nics.map((nic) => nic.portId));
  unique("spec.nics", spec.nics.map((nic) => nic.mac));
  if (spec.machineType === "microvm") checkMicrovm(spec);
  const userDataBytes = new TextEncoder().encode(spec.userData).length;
  atMost("spec.user_data", userDataBytes, limits.userDataBytesMax);
  atMost("spec.ssh_authorized_keys", spec.sshAuthorizedKeys.length, limits.sshKeysMax);
  spec.sshAuthorizedKeys.forEach((key, i) => {
    text(`spec.ssh_authorized_keys[${i}]`, key, 1, limits.sshKeyCharsMax);
    if (/[\r\n]/.test(key)) {
      throw invalidField(`spec.ssh_authorized_keys[${i}]`, "Cannot use an SSH key of several lines: wanted one");
    }
  });
  return spec;
}

/** No firmware of a microvm finds a disk, and it has few places for devices. */
function checkMicrovm(spec: VmSpec): void {
  if (spec.image.format !== "kernel_bundle") {
    throw invalidField("spec.machine_type", `Cannot boot ${spec.image.format} on a microvm: wanted a kernel bundle`);
  }
  const root = spec.diskBytes > 0 || spec.rootVolume !== undefined ? 1 : 0;
  atMost("the devices of a microvm", root + spec.nics.length + spec.volumes.length, microvmPorts);
}

function checkNic(nic: NicSpec, field: string): void {
  if (!portPattern.test(nic.portId)) {
    throw invalidField(`${field}.port_id`, `Cannot use ${show(nic.portId)} as a port id: wanted letters and digits`);
  }
  if (!macPattern.test(nic.mac)) {
    throw invalidField(`${field}.mac_address`, `Cannot use ${show(nic.mac)} as a MAC: wanted like 52:54:00:01:02:03`);
  }
  ipv4(`${field}.ip_address`, nic.ip);
  const { binding } = nic;
  if (binding.kind === "tap") {
    if (!devicePattern.test(binding.device)) {
      throw invalidField(`${field}.binding.tap.device`, `Cannot use ${show(binding.device)} as a device name`);
    }
    if (binding.mtu !== 0) whole(`${field}.binding.tap.mtu`, binding.mtu, 576, 65535);
    return;
  }
  const [network, prefix, ...rest] = binding.cidr.split("/");
  ipv4(`${field}.binding.user.cidr`, network ?? "");
  if (rest.length > 0 || !/^\d{1,2}$/.test(prefix ?? "")) {
    throw invalidField(`${field}.binding.user.cidr`, `Cannot use ${show(binding.cidr)} as a network: wanted a CIDR`);
  }
  whole(`${field}.binding.user.cidr`, Number(prefix), 8, 30);
  ipv4(`${field}.binding.user.gateway_ip`, binding.gatewayIp);
  if (binding.dnsIp !== "") ipv4(`${field}.binding.user.dns_ip`, binding.dnsIp);
  atMost(`${field}.binding.user.forwards`, binding.forwards.length, limits.forwardsMax);
  binding.forwards.forEach((forward, i) => {
    const at = `${field}.binding.user.forwards[${i}]`;
    ipv4(`${at}.host_ip`, forward.hostIp);
    whole(`${at}.host_port`, forward.hostPort, 1, 65535);
    whole(`${at}.guest_port`, forward.guestPort, 1, 65535);
  });
}

function unique(field: string, values: readonly string[]): void {
  const twice = values.find((value, i) => values.indexOf(value) !== i);
  if (twice !== undefined) throw invalidField(field, `Cannot use ${show(twice)} twice in ${field}: wanted it once`);
}

function ipv4(field: string, value: string): void {
  if (!ipv4Pattern.test(value)) {
    throw invalidField(field, `Cannot use ${show(value)} as ${field}: wanted an IPv4 address`);
  }
}

function whole(field: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw invalidField(field, `Cannot use ${value} as ${field}: wanted ${min} to ${max}`);
  }
}

function atMost(field: string, count: number, max: number): void {
  if (count > max) throw invalidField(field, `Cannot use ${count} as the size of ${field}: wanted at most ${max}`);
}

function text(field: string, value: string, min: number, max: number): void {
  if (value.length < min || value.length > max) {
    throw invalidField(field, `Cannot use ${value.length} characters as ${field}: wanted ${min} to ${max}`);
  }
}

function show(value: string): string {
  return JSON.stringify(value.slice(0, 80));
}

/** Refuses a spec older than the one known. The same one again, and newer ones, pass. */
export function checkGeneration(known: number, asked: number, vmId: string): void {
  if (asked >= known) return;
  throw new Fault(
    "aborted",
    "stale_generation",
    `Cannot apply generation ${asked} of ${vmId} as generation ${known} is known`,
    { metadata: { known: String(known) } },
  );
}
