import { type Disk, type DiskFile, fault } from "@ultracloud/base";
import { crc32c } from "./crc32c.ts";
import { decodeRecord, headerBytes, type ReadRecord, type Seal } from "./record.ts";

/**
 * The head of a segment: four bytes of magic and format, then, as u32, the segment's number, the secret of the log and
 * the CRC32C of the twelve bytes before.
 */
const magic = 0x32574355;
/** Of the first format: eight bytes, then the number; no secret, and so no seal. */
const firstMagic = new Uint8Array([0x55, 0x43, 0x57, 0x41, 0x4c, 0x00, 0x01, 0x00]);
export const segmentHeadBytes = 16;
/** Zeros are written in pieces of this size when a segment is made, so that later syncs change no metadata. */
const fillBytes = 2 ** 20;

export interface Segment {
  readonly number: number;
  readonly path: string;
  readonly file: DiskFile;
  /** Where the next record goes. */
  end: number;
  readonly bytes: number;
  /** Of the log; undefined in a segment of the first format. */
  readonly secret: number | undefined;
  readonly seal: Seal;
}

export function segmentName(number: number): string {
  return `${String(number).padStart(10, "0")}.wal`;
}

/** A segment that nobody needs, kept for its bytes on disk until one is made again. */
export function spareName(number: number): string {
  return `${String(number).padStart(10, "0")}.spare`;
}

/** Removes what an earlier process kept for reuse. */
export function removeSpares(disk: Disk, dir: string): void {
  for (const name of disk.list(dir)) if (/^\d{10}\.spare$/.test(name)) disk.remove(`${dir}/${name}`);
}

/** Numbers of the segments in the directory, ascending. */
export function listSegments(disk: Disk, dir: string): number[] {
  return disk.list(dir).flatMap((name) => {
    const match = /^(\d{10})\.wal$/.exec(name);
    return match ? [Number(match[1])] : [];
  }).sort((a, b) => a - b);
}

function headOf(number: number, secret: number): Uint8Array {
  const head = new Uint8Array(segmentHeadBytes);
  const view = new DataView(head.buffer);
  view.setUint32(0, magic, true);
  view.setUint32(4, number, true);
  view.setUint32(8, secret, true);
  view.setUint32(12, crc32c(head, 0, 12), true);
  return head;
}

/** What the head says; undefined when it is none, or damaged. */
function readHead(bytes: Uint8Array, view: DataView): Pick<Segment, "number" | "secret"> | undefined {
  if (bytes.length < segmentHeadBytes) return undefined;
  if (view.getUint32(0, true) === magic && view.getUint32(12, true) === crc32c(bytes, 0, 12)) {
    return { number: view.getUint32(4, true), secret: view.getUint32(8, true) };
  }
  if (!firstMagic.every((byte, i) => bytes[i] === byte)) return undefined;
  return { number: view.getUint32(8, true), secret: undefined };
}

/** Of this segment of this log and of no other: a file that was another segment holds no record of this one. */
function sealOf(number: number, secret: number | undefined): Seal {
  if (secret === undefined) return undefined;
  const both = new Uint8Array(8);
  new DataView(both.buffer).setUint32(0, number, true);
  new DataView(both.buffer).setUint32(4, secret, true);
  return crc32c(both);
}

/** Makes a segment of `bytes` zeros with its head. Its name is durable when this returns, its content after a sync. */
export function createSegment(disk: Disk, dir: string, number: number, bytes: number, secret: number): Segment {
  const path = `${dir}/${segmentName(number)}`;
  const file = disk.open(path, { create: true });
  const zeros = new Uint8Array(Math.min(fillBytes, bytes));
  for (let at = 0; at < bytes; at += zeros.length) {
    file.writeAt(zeros.subarray(0, Math.min(zeros.length, bytes - at)), at);
  }
  file.writeAt(headOf(number, secret), 0);
  disk.syncDir(dir);
  return { number, path, file, end: segmentHeadBytes, bytes, secret, seal: sealOf(number, secret) };
}

/**
 * Makes a segment of a spare one: its bytes have their place on disk, which is all that zeros are written for. What they
 * say is sealed as another segment. The name is durable before the head is written: under its old name the file must
 * never look like a new segment.
 */
export function reuseSegment(disk: Disk, dir: string, spare: Segment, number: number, secret: number): Segment {
  const { file, bytes } = spare;
  const path = `${dir}/${segmentName(number)}`;
  disk.rename(spare.path, path);
  disk.syncDir(dir);
  file.writeAt(headOf(number, secret), 0);
  return { number, path, file, end: segmentHeadBytes, bytes, secret, seal: sealOf(number, secret) };
}

/** The segment to open, and what is known of the log before it. */
export interface SegmentPlace {
  readonly number: number;
  /** The newest of the log: it may have a torn tail, or have been in the making when the process died. */
  readonly last: boolean;
  /** Batch of the last record before it. */
  readonly previousBatch: number;
  /** As the segments before it say; undefined: none of them says. */
  readonly secret: number | undefined;
}

/**
 * Opens a segment and hands each of its records to `visit` with the payload's offset. A torn tail is cleared. A segment
 * that was being made when the process died comes back with end 0: nothing in it was ever acknowledged.
 */
export function openSegment(
  disk: Disk,
  dir: string,
  { number, last, previousBatch, secret }: SegmentPlace,
  visit: (record: ReadRecord, payloadOffset: number) => void,
): Segment {
  const path = `${dir}/${segmentName(number)}`;
  const file = disk.open(path, { create: false });
  const bytes = new Uint8Array(file.size());
  for (let at = 0; at < bytes.length;) {
    const n = file.readAt(bytes.subarray(at), at);
    if (n === 0) break;
    at += n;
  }
  const view = new DataView(bytes.buffer);
  const head = readHead(bytes, view);
  const headGood = head?.number === number && (secret === undefined || head.secret === secret);
  const own = headGood ? head.secret : secret;
  const segment: Segment = {
    number,
    path,
    file,
    end: segmentHeadBytes,
    bytes: bytes.length,
    secret: own,
    seal: sealOf(number, own),
  };
  if (!headGood) {
    // Without a secret there is no telling what its records are: the first segment to have one is synced empty.
    const empty = own === undefined
      ? bytes.subarray(segmentHeadBytes).every((byte) => byte === 0)
      : !hasRecordAfter(bytes, view, segmentHeadBytes, segment.seal, previousBatch);
    if (last && empty) return { ...segment, end: 0 };
    throw fault("data_loss", "wal_damaged", `Cannot open ${segmentName(number)}: its head is damaged`);
  }
  let lastBatch = previousBatch;
  for (;;) {
    const record = decodeRecord(bytes, view, segment.end, segment.seal);
    if (record === undefined) break;
    visit(record, segment.end + headerBytes);
    lastBatch = record.batch;
    segment.end += record.bytes;
  }
  if (hasRecordAfter(bytes, view, segment.end, segment.seal, last ? lastBatch : undefined)) {
    throw fault(
      "data_loss",
      "wal_damaged",
      `Cannot read ${
        segmentName(number)
      } at offset ${segment.end}: records that were synced later follow a damaged one`,
    );
  }
  if (last) {
    // What a torn write left must not be read as records once newer ones stand before it.
    const rest = bytes.subarray(segment.end);
    if (rest.some((byte) => byte !== 0)) file.writeAt(new Uint8Array(rest.length), segment.end);
  }
  return segment;
}

/**
 * True when a whole record lies behind `from`. A crash tears only the newest write: with `tornAfter`, the batch of the
 * last good record, records of that batch and the one after it may be remains of the torn write and do not count.
 */
function hasRecordAfter(
  bytes: Uint8Array,
  view: DataView,
  from: number,
  seal: Seal,
  tornAfter: number | undefined,
): boolean {
  for (let at = from; at + headerBytes <= bytes.length; at++) {
    if (bytes[at + 16] === 0) continue; // no kind: cheap way over zeros
    const record = decodeRecord(bytes, view, at, seal);
    if (record === undefined) continue;
    if (tornAfter === undefined) return true;
    const ahead = (record.batch - tornAfter) >>> 0;
    if (ahead > 1 && ahead < 2 ** 31) return true;
  }
  return false;
}
