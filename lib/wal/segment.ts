import { type Disk, type DiskFile, fault } from "@ultracloud/base";
import { decodeRecord, headerBytes, type ReadRecord } from "./record.ts";

/** First bytes of every segment: magic, format, then its number as u32. */
const magic = new Uint8Array([0x55, 0x43, 0x57, 0x41, 0x4c, 0x00, 0x01, 0x00]);
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

/** Makes a segment of `bytes` zeros with its head. Its name is durable when this returns, its content after a sync. */
export function createSegment(disk: Disk, dir: string, number: number, bytes: number): Segment {
  const path = `${dir}/${segmentName(number)}`;
  const file = disk.open(path, { create: true });
  const zeros = new Uint8Array(Math.min(fillBytes, bytes));
  for (let at = 0; at < bytes; at += zeros.length) {
    file.writeAt(zeros.subarray(0, Math.min(zeros.length, bytes - at)), at);
  }
  file.writeAt(headOf(number, segmentHeadBytes), 0);
  disk.syncDir(dir);
  return { number, path, file, end: segmentHeadBytes, bytes };
}

/**
 * Makes a segment of a spare one: its bytes have their place on disk, which is all that zeros are written for. What they
 * say is of batches long past, which is how they are told from records of this segment. The name is durable before the
 * head is written: under its old name the file must never look like a new segment.
 */
export function reuseSegment(disk: Disk, dir: string, spare: Segment, number: number): Segment {
  const path = `${dir}/${segmentName(number)}`;
  disk.rename(spare.path, path);
  disk.syncDir(dir);
  // With zeros where the first record will stand.
  spare.file.writeAt(headOf(number, segmentHeadBytes + headerBytes), 0);
  return { number, path, file: spare.file, end: segmentHeadBytes, bytes: spare.bytes };
}

function headOf(number: number, bytes: number): Uint8Array {
  const head = new Uint8Array(bytes);
  head.set(magic);
  new DataView(head.buffer).setUint32(8, number, true);
  return head;
}

/** True when a record of `batch` was written before one of `than`; the numbers wrap. */
function isBefore(batch: number, than: number): boolean {
  return ((batch - than) >>> 0) >= 2 ** 31;
}

/**
 * Opens a segment and hands each of its records to `visit` with the payload's offset. The last segment may have a torn
 * tail, which is cleared; `previousBatch` is the batch of the last record before this segment, undefined for the first.
 * A segment that was being made when the process died comes back with end 0.
 */
export function openSegment(
  disk: Disk,
  dir: string,
  number: number,
  last: boolean,
  previousBatch: number | undefined,
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
  const segment: Segment = { number, path, file, end: segmentHeadBytes, bytes: bytes.length };
  const headGood = bytes.length >= segmentHeadBytes && magic.every((byte, i) => bytes[i] === byte) &&
    view.getUint32(8, true) === number;
  if (!headGood) {
    // The newest segment may have been made just before a crash: nothing in it was ever acknowledged.
    if (last && !hasRecordAfter(bytes, view, 0, previousBatch ?? 0, tornBatches)) return { ...segment, end: 0 };
    throw fault("data_loss", "wal_damaged", `Cannot open ${segmentName(number)}: its head is damaged`);
  }
  let lastBatch = previousBatch;
  for (;;) {
    const record = decodeRecord(bytes, view, segment.end);
    // Records of an earlier life of the file count as no more than zeros.
    if (record === undefined || (lastBatch !== undefined && isBefore(record.batch, lastBatch))) break;
    visit(record, segment.end + headerBytes);
    lastBatch = record.batch;
    segment.end += record.bytes;
  }
  if (hasRecordAfter(bytes, view, segment.end, lastBatch ?? 0, last ? tornBatches : 0)) {
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

/** A crash tears only the newest write: records of the last good batch and of the one after it may be its remains. */
const tornBatches = 2;

/** True when a whole record lies behind `from` that is by `ahead` batches or more newer than `lastBatch`. */
function hasRecordAfter(bytes: Uint8Array, view: DataView, from: number, lastBatch: number, ahead: number): boolean {
  for (let at = from; at + headerBytes <= bytes.length; at++) {
    if (bytes[at + 16] === 0) continue; // no kind: cheap way over zeros
    const record = decodeRecord(bytes, view, at);
    if (record === undefined) continue;
    const by = (record.batch - lastBatch) >>> 0;
    if (by >= ahead && by < 2 ** 31) return true;
    // Of an earlier life, and whole: nothing was written into it since.
    if (by >= 2 ** 31) at += record.bytes - 1;
  }
  return false;
}
