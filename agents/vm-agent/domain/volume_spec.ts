import { invalidField } from "@ultracloud/base";

/** A way to a disk that other workers may have too (`nbd+unix:///<export>?socket=<path>`, `nbd://<address>:<port>/<export>`). */
export interface NbdTarget {
  readonly server:
    | { readonly type: "unix"; readonly path: string }
    | { readonly type: "inet"; readonly host: string; readonly port: string };
  readonly export: string;
}

export interface VolumeSpec {
  readonly volumeId: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** `local`: a volume of this worker. */
  readonly source: { readonly kind: "local" } | { readonly kind: "nbd"; readonly uri: string };
}

/** Hot-plug ports (24) less those of NICs (8) and the root disk. */
export const volumesMax = 15;
export const volumeBytesMax = 64 * 2 ** 40;

/** Volumes, snapshots and migrations are named by their makers: a prefix and a ULID. */
const idPattern = /^[a-z]{2,8}_[0-9A-HJKMNP-TV-Z]{26}$/;
const exportPattern = /^[A-Za-z0-9._-]{1,64}$/;
/** Nothing that would end an option's value or a path of this host's sockets (107 bytes). */
const pathPattern = /^\/[A-Za-z0-9._/-]{1,106}$/;
const hostPattern = /^[A-Za-z0-9.-]{1,253}$/;

/** The id, or an invalid_argument fault; it becomes a directory name, so nothing else gets through. */
export function checkId(id: string, field: string): string {
  if (idPattern.test(id)) return id;
  throw invalidField(field, `Cannot use ${show(id)} as ${field}: wanted an id like vol_01J...`, "invalid_id");
}

export function checkSize(bytes: number, field: string): number {
  if (Number.isSafeInteger(bytes) && bytes > 0 && bytes <= volumeBytesMax && bytes % 512 === 0) return bytes;
  throw invalidField(field, `Cannot use a disk of ${bytes} bytes: wanted a multiple of 512, at most ${volumeBytesMax}`);
}

/** The export that the URI names; a fault at `field` for anything else. */
export function nbdTarget(uri: string, field: string): NbdTarget {
  const unix = /^nbd\+unix:\/\/\/([^?]+)\?socket=(.+)$/.exec(uri);
  if (unix && exportPattern.test(unix[1]!) && pathPattern.test(unix[2]!) && !unix[2]!.includes("..")) {
    return { server: { type: "unix", path: unix[2]! }, export: unix[1]! };
  }
  const inet = /^nbd:\/\/([^:/]+):(\d{1,5})\/(.+)$/.exec(uri);
  if (inet && hostPattern.test(inet[1]!) && exportPattern.test(inet[3]!)) {
    return { server: { type: "inet", host: inet[1]!, port: inet[2]! }, export: inet[3]! };
  }
  throw invalidField(
    field,
    `Cannot use ${show(uri)} as a disk: wanted nbd+unix:///<export>?socket=<path> or nbd://<address>:<port>/<export>`,
  );
}

/** Of an export that QEMUs of other hosts reach. */
export function nbdTcpUri(host: string, port: number, name: string): string {
  return `nbd://${host}:${port}/${name}`;
}

export function nbdUri(socket: string, name: string): string {
  return `nbd+unix:///${name}?socket=${socket}`;
}

export function checkVolumes(volumes: readonly VolumeSpec[], root: VolumeSpec | undefined): void {
  if (volumes.length > volumesMax) {
    throw invalidField("spec.volumes", `Cannot attach ${volumes.length} volumes: wanted at most ${volumesMax}`);
  }
  if (root) checkVolume(root, "spec.root_volume");
  volumes.forEach((volume, i) => checkVolume(volume, `spec.volumes[${i}]`));
  if (root?.readOnly) {
    throw invalidField(
      "spec.root_volume.read_only",
      "Cannot boot from a root disk that is read-only: wanted a writable one",
    );
  }
  const ids = [...root ? [root.volumeId] : [], ...volumes.map((volume) => volume.volumeId)];
  const twice = ids.find((id, i) => ids.indexOf(id) !== i);
  if (twice !== undefined) {
    throw invalidField("spec.volumes", `Cannot attach ${twice} twice to one VM: wanted each volume once`);
  }
}

function checkVolume(volume: VolumeSpec, field: string): void {
  checkId(volume.volumeId, `${field}.volume_id`);
  checkSize(volume.sizeBytes, `${field}.size_bytes`);
  if (volume.source.kind === "nbd") nbdTarget(volume.source.uri, `${field}.nbd_uri`);
}

function show(value: string): string {
  return JSON.stringify(value.slice(0, 80));
}
