import type { Hardware } from "./hardware.ts";
import { nbdTarget, type VolumeSpec } from "./volume_spec.ts";

/** A disk of a VM as QEMU is to open it. */
export interface Disk {
  /** Volume id, or "root". */
  readonly device: string;
  readonly source: { readonly kind: "file"; readonly path: string } | { readonly kind: "nbd"; readonly uri: string };
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}

/**
 * How long a guest's requests wait for an export that is away: its daemon restarts, or the volume grows. Beyond it the
 * guest gets errors. Short, as QEMU's `quit` waits for it too.
 */
const reconnectDelayS = 8;

/** The disk of a volume; `pathOf` says where this worker keeps one. */
export function diskOf(volume: VolumeSpec, pathOf: (volumeId: string) => string, device = volume.volumeId): Disk {
  const { sizeBytes, readOnly, source } = volume;
  return {
    device,
    source: source.kind === "local" ? { kind: "file", path: pathOf(volume.volumeId) } : source,
    sizeBytes,
    readOnly,
  };
}

/** The format is said, never guessed: a raw disk whose guest wrote a qcow2 header would be believed. */
export function qcow2Node(nodeName: string, path: string, readOnly: boolean): Record<string, unknown> {
  const access = readOnly ? { "read-only": true } : { discard: "unmap" };
  return { driver: "qcow2", "node-name": nodeName, ...access, file: { driver: "file", filename: path, ...access } };
}

export function nbdNode(nodeName: string, uri: string, readOnly: boolean): Record<string, unknown> {
  const { server, export: name } = nbdTarget(uri, "nbd_uri");
  return {
    driver: "nbd",
    "node-name": nodeName,
    ...(readOnly ? { "read-only": true } : { discard: "unmap" }),
    server,
    export: name,
    "reconnect-delay": reconnectDelayS,
  };
}

export function blockNode(disk: Disk, nodeName = nodeOf(disk.device)): Record<string, unknown> {
  return disk.source.kind === "file"
    ? qcow2Node(nodeName, disk.source.path, disk.readOnly)
    : nbdNode(nodeName, disk.source.uri, disk.readOnly);
}

/** Names of nodes have at most 31 characters: the ULID of an id is what tells volumes apart. */
export function nodeOf(device: string): string {
  return device === "root" ? "root" : `v-${device.slice(device.indexOf("_") + 1)}`;
}

/** The other name of a disk's node, for when one takes the other's place. */
export function spareNodeOf(device: string): string {
  return device === "root" ? "root-b" : `w-${device.slice(device.indexOf("_") + 1)}`;
}

/** Id of the device in QEMU. */
export function blockDeviceOf(device: string): string {
  return `disk-${device}`;
}

/** True when QEMU's path of a device (`qdev` of a block device) is the disk's, or of the half of it that does the work. */
export function isDisk(qdev: string | undefined, device: string): boolean {
  const path = `/machine/peripheral/${blockDeviceOf(device)}`;
  return qdev === path || qdev?.startsWith(`${path}/`) === true;
}

/** Arguments of `device_add` for the disk. The guest knows it by its serial, of which virtio has 20 characters. */
export function blockDevice(disk: Disk, port: number, { transport, busOf, isPci }: Hardware): Record<string, unknown> {
  return {
    driver: `virtio-blk-${transport}`,
    id: blockDeviceOf(disk.device),
    drive: nodeOf(disk.device),
    bus: busOf(port),
    serial: disk.device.slice(-20),
    ...(disk.device === "root" && isPci ? { bootindex: 1 } : {}),
  };
}
