import { type Fault, fault } from "@ultracloud/base";
import type { ImageFormat } from "./types.ts";

/** Bytes of a stored image at a place; fewer at its end. The probe's only way to the content. */
export type ReadAt = (offset: number, length: number) => Promise<Uint8Array>;

export interface ProbeLimits {
  readonly virtualBytesMax: number;
}

export interface Probed {
  /** As the guest sees the disk; 0 for a kernel bundle. */
  readonly virtualBytes: number;
}

export function refused(format: ImageFormat, why: string): Fault {
  return fault("invalid_argument", "image_malformed", `Cannot take the image as ${format}: ${why}`, { field: "chunk" });
}

const latin1 = new TextDecoder("latin1");

function startsWith(bytes: Uint8Array, magic: readonly number[]): boolean {
  return magic.every((byte, i) => bytes[i] === byte);
}

/** Formats that people mistake for raw disks, by their first bytes. */
const otherFormats: readonly { name: string; magic: readonly number[] }[] = [
  { name: "qcow2", magic: [0x51, 0x46, 0x49, 0xfb] },
  { name: "VMDK", magic: [0x4b, 0x44, 0x4d, 0x56] },
  { name: "gzip", magic: [0x1f, 0x8b] },
  { name: "xz", magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a] },
  { name: "zstd", magic: [0x28, 0xb5, 0x2f, 0xfd] },
];

const sectorBytes = 512;

/** A raw disk: whole sectors, and not the start of something else. */
export async function probeRaw(readAt: ReadAt, bytes: number, limits: ProbeLimits): Promise<Probed> {
  if (bytes === 0 || bytes % sectorBytes !== 0) {
    throw refused("raw", `it has ${bytes} bytes; wanted a multiple of ${sectorBytes}`);
  }
  if (bytes > limits.virtualBytesMax) {
    throw refused("raw", `it unfolds to ${bytes} bytes; wanted at most ${limits.virtualBytesMax}`);
  }
  const head = await readAt(0, 16);
  const other = otherFormats.find((f) => startsWith(head, f.magic));
  if (other) throw refused("raw", `its content is ${other.name}`);
  return { virtualBytes: bytes };
}

const qcow2 = {
  magic: 0x514649fb,
  headerBytesV2: 72,
  headerBytesV3: 104,
  clusterBitsMin: 9,
  clusterBitsMax: 21,
  /** QEMU's own limit on the first-level table. */
  l1BytesMax: 32 * 1024 ** 2,
  refcountTableBytesMax: 8 * 1024 ** 2,
  incompatible: { dirty: 1n, corrupt: 2n, externalData: 4n, compression: 8n, extendedL2: 16n },
  extensions: { end: 0, backingFormat: 0xe2792aca, externalData: 0x44415441, encryption: 0x0537be77 },
} as const;

/**
 * A qcow2 image that stands alone and whose header does not lie about where things are (QEMU,
 * docs/interop/qcow2.txt). One that names a backing or data file would make QEMU open any file of a worker.
 */
export async function probeQcow2(readAt: ReadAt, bytes: number, limits: ProbeLimits): Promise<Probed> {
  const head = await readAt(0, 64 * 1024);
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const no = (why: string) => refused("qcow2", why);
  if (head.length < qcow2.headerBytesV2 || view.getUint32(0) !== qcow2.magic) throw no("it has no qcow2 header");
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) throw no(`it has version ${version}; wanted 2 or 3`);
  if (view.getBigUint64(8) !== 0n || view.getUint32(16) !== 0) throw no("it names a backing file");
  const clusterBits = view.getUint32(20);
  if (clusterBits < qcow2.clusterBitsMin || clusterBits > qcow2.clusterBitsMax) {
    throw no(`it has clusters of 2^${clusterBits} bytes`);
  }
  const clusterBytes = 2 ** clusterBits;
  const virtualBytes = view.getBigUint64(24);
  if (virtualBytes === 0n || virtualBytes % BigInt(sectorBytes) !== 0n) {
    throw no(`its disk has ${virtualBytes} bytes; wanted a multiple of ${sectorBytes}`);
  }
  if (virtualBytes > BigInt(limits.virtualBytesMax)) {
    throw no(`it unfolds to ${virtualBytes} bytes; wanted at most ${limits.virtualBytesMax}`);
  }
  if (view.getUint32(32) !== 0) throw no("it is encrypted");
  const l1Entries = view.getUint32(36);
  checkTable("first-level table", view.getBigUint64(40), l1Entries * 8, qcow2.l1BytesMax);
  // One entry of the first level maps clusterBytes/8 clusters (half as many with extended entries).
  const perEntry = BigInt(clusterBytes) * BigInt(clusterBytes / 8);
  const refcountClusters = view.getUint32(56);
  checkTable("refcount table", view.getBigUint64(48), refcountClusters * clusterBytes, qcow2.refcountTableBytesMax);
  let entriesWanted = (virtualBytes + perEntry - 1n) / perEntry;
  let headerBytes = qcow2.headerBytesV2 as number;
  if (version === 3) {
    if (head.length < qcow2.headerBytesV3) throw no("its header is cut off");
    const features = view.getBigUint64(72);
    const bits = qcow2.incompatible;
    if (features & bits.externalData) throw no("it keeps its data in another file");
    if (features & bits.corrupt) throw no("it is marked as corrupt");
    const known = bits.dirty | bits.compression | bits.extendedL2;
    if (features & ~(known | bits.corrupt | bits.externalData)) throw no("it needs features unknown here");
    if (features & bits.extendedL2) entriesWanted *= 2n;
    headerBytes = view.getUint32(100);
    if (headerBytes < qcow2.headerBytesV3 || headerBytes % 8 !== 0 || headerBytes > clusterBytes) {
      throw no(`its header says it has ${headerBytes} bytes`);
    }
  }
  if (BigInt(l1Entries) < entriesWanted) throw no("its first-level table is too small for its disk");
  checkExtensions();
  return { virtualBytes: Number(virtualBytes) };

  function checkTable(name: string, offset: bigint, length: number, lengthMax: number): void {
    if (length === 0 || length > lengthMax) throw no(`its ${name} has ${length} bytes; wanted 1 to ${lengthMax}`);
    if (offset === 0n || offset % BigInt(clusterBytes) !== 0n) throw no(`its ${name} is not at a cluster`);
    if (offset + BigInt(length) > BigInt(Math.ceil(bytes / clusterBytes) * clusterBytes)) {
      throw no(`its ${name} lies beyond the end of the file`);
    }
  }

  /** Header extensions end with type 0 or the first cluster. */
  function checkExtensions(): void {
    const end = Math.min(head.length, clusterBytes);
    for (let at = headerBytes; at + 8 <= end;) {
      const type = view.getUint32(at);
      const length = view.getUint32(at + 4);
      if (type === qcow2.extensions.end) return;
      if (type === qcow2.extensions.externalData) throw no("it names a data file");
      if (type === qcow2.extensions.backingFormat) throw no("it names the format of a backing file");
      if (type === qcow2.extensions.encryption) throw no("it is encrypted");
      if (at + 8 + length > end) throw no("a header extension reaches beyond the header");
      at += 8 + Math.ceil(length / 8) * 8;
    }
  }
}

const bundleParts = ["kernel", "initrd", "cmdline"] as const;
type BundlePart = typeof bundleParts[number];
const blockBytes = 512;
/** x86 kernels read no more. */
const cmdlineBytesMax = 2047;

/** An uncompressed ustar archive of exactly `kernel`, `initrd` and `cmdline`, plain files, each once, nothing behind. */
export async function probeBundle(readAt: ReadAt, bytes: number): Promise<Probed> {
  const no = (why: string) => refused("kernel_bundle", why);
  const found = new Map<BundlePart, { offset: number; bytes: number }>();
  let at = 0;
  for (;;) {
    const header = await readAt(at, blockBytes);
    if (header.length < blockBytes) throw no("it ends in the middle of a header");
    if (header.every((byte) => byte === 0)) break;
    const name = text(header, 0, 100);
    const shown = JSON.stringify(name.slice(0, 40));
    if (octal(header, 148, 8) !== checksum(header)) {
      throw no("a header's checksum is wrong; wanted an uncompressed tar");
    }
    if (text(header, 345, 155) !== "" && text(header, 257, 5) === "ustar") throw no(`it holds ${shown} in a directory`);
    const type = text(header, 156, 1);
    if (type !== "0" && type !== "") throw no(`${shown} is no plain file`);
    const part = bundleParts.find((p) => p === name);
    if (!part) throw no(`it holds ${shown}; wanted kernel, initrd and cmdline`);
    if (found.has(part)) throw no(`it holds ${part} twice`);
    const size = octal(header, 124, 12);
    if (size === undefined || size === 0) throw no(`${part} is empty`);
    if (at + blockBytes + size > bytes) throw no(`${part} reaches beyond the end`);
    found.set(part, { offset: at + blockBytes, bytes: size });
    at += blockBytes + Math.ceil(size / blockBytes) * blockBytes;
  }
  for (const part of bundleParts) if (!found.has(part)) throw no(`it has no ${part}`);
  // The end mark is two blocks; writers pad to a record of 20.
  if (bytes - at > 20 * blockBytes) throw no("something follows its end");
  for (let tail = at; tail < bytes; tail += blockBytes) {
    if ((await readAt(tail, blockBytes)).some((byte) => byte !== 0)) throw no("something follows its end");
  }
  const cmdline = found.get("cmdline")!;
  if (cmdline.bytes > cmdlineBytesMax) {
    throw no(`cmdline has ${cmdline.bytes} bytes; wanted at most ${cmdlineBytesMax}`);
  }
  const line = latin1.decode(await readAt(cmdline.offset, cmdline.bytes));
  if (!/^[\x20-\x7e]*\n?$/.test(line)) throw no("cmdline is not one line of printable ASCII");
  const kernel = found.get("kernel")!;
  const setup = await readAt(kernel.offset, 0x210);
  const bzImage = latin1.decode(setup.subarray(0x202, 0x206)) === "HdrS";
  const elf = startsWith(setup, [0x7f, 0x45, 0x4c, 0x46]);
  if (!bzImage && !elf) throw no("kernel is neither a bzImage nor an ELF file");
  return { virtualBytes: 0 };
}

function text(header: Uint8Array, offset: number, length: number): string {
  const field = latin1.decode(header.subarray(offset, offset + length));
  const end = field.indexOf("\0");
  return end < 0 ? field : field.slice(0, end);
}

function octal(header: Uint8Array, offset: number, length: number): number | undefined {
  const digits = text(header, offset, length).trim();
  return /^[0-7]{1,12}$/.test(digits) ? parseInt(digits, 8) : undefined;
}

/** Sum of all bytes with the checksum's own field as spaces (POSIX ustar). */
function checksum(header: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < blockBytes; i++) sum += i >= 148 && i < 156 ? 0x20 : header[i]!;
  return sum;
}

/** Checks a stored image against the format it was declared as. */
export function probeImage(
  format: ImageFormat,
  readAt: ReadAt,
  bytes: number,
  limits: ProbeLimits,
): Promise<Probed> {
  if (format === "raw") return probeRaw(readAt, bytes, limits);
  if (format === "qcow2") return probeQcow2(readAt, bytes, limits);
  return probeBundle(readAt, bytes);
}
