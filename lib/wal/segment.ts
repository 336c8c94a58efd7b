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
  const head = new Uint8Array(segmentHeadBytes);
  head.set(magic);
  new DataView(head.buffer).setUint32(8, number, true);
  file.writeAt(head, 0);
  disk.syncDir(dir);
  return { number, path, file, end: segmentHeadBytes, bytes };
}

/**
 * Opens a segment and hands each of its records to `visit` with the payload's offset. The last segment may have a torn
 * tail, which is cleared; `previousBatch` is the batch of the last record before this segment. A segment that was
 * being made when the process died comes back with end 0.
 */
export function openSegment(
  disk: Disk,
  dir: string,
  number: number,
  last: boolean,
  previousBatch: number,
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
    if (last && !hasRecordAfter(bytes, view, 0, previousBatch)) return { ...segment, end: 0 };
    throw fault("data_loss", "wal_damaged", `Cannot open ${segmentName(number)}: its head is damaged`);
  }
  let lastBatch = previousBatch;
  for (;;) {
    const record = decodeRecord(bytes, view, segment.end);
    if (record === undefined) break;
    visit(record, segment.end + headerBytes);
    lastBatch = record.batch;
    segment.end += record.bytes;
  }
  if (hasRecordAfter(bytes, view, segment.end, last ? lastBatch : undefined)) {
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
function hasRecordAfter(bytes: Uint8Array, view: DataView, from: number, tornAfter: number | undefined): boolean {
  for (let at = from; at + headerBytes <= bytes.length; at++) {
    if (bytes[at + 16] === 0) continue; // no kind: cheap way over zeros
    const record = decodeRecord(bytes, view, at);
    if (record === undefined) continue;
    if (tornAfter === undefined) return true;
    const ahead = (record.batch - tornAfter) >>> 0;
    if (ahead > 1 && ahead < 2 ** 31) return true;
  }
  return false;
}
