import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { invalidField } from "@ultracloud/base";
import {
  ImageFormat as WireFormat,
  type VmObservationSchema,
  VmState as WireState,
} from "@ultracloud/proto/plasmavmc/v1";
import { type PortBinding, Protocol } from "@ultracloud/proto/prismnet/v1";
import type { NicSpec as WireNic, VmInstanceSchema, VmSpec as WireSpec } from "@ultracloud/proto/vmagent/v1";
import type { Binding, ImageFormat, NicSpec, VmSpec } from "./domain/spec.ts";
import type { VmState, VmView } from "./domain/state.ts";

const states: Readonly<Record<VmState, WireState>> = {
  pending: WireState.PENDING,
  starting: WireState.STARTING,
  running: WireState.RUNNING,
  paused: WireState.PAUSED,
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
  };
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
    ...started(view),
  };
}

export function observationOf(view: VmView): MessageInitShape<typeof VmObservationSchema> {
  return { vmId: view.vmId, state: states[view.state], reason: view.reason, ...started(view) };
}

function started(view: VmView) {
  return view.startedAtMs === undefined ? {} : { startedTime: timestampFromMs(view.startedAtMs) };
}
