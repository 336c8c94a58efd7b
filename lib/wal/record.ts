import { crc32c } from "./crc32c.ts";

/** What a record says about its group. */
export type RecordKind =
  /** An entry; it removes the entry at its index and all above it first. */
  | "entry"
  | "config_entry"
  /** An entry written again so that its old segment can go; it removes nothing. */
  | "moved_entry"
  | "moved_config_entry"
  /** Term in `term`, vote in `index`, commit in the payload. */
  | "hard_state"
  /** The front is cut off up to `index`, whose entry had `term`; the payload is the configuration there. */
  | "base"
  /** As base, and every entry goes: a snapshot took the log's place. */
  | "reset"
  /** The group is gone. */
  | "removed";

const kinds: readonly RecordKind[] = [
  "entry",
  "config_entry",
  "moved_entry",
  "moved_config_entry",
  "hard_state",
  "base",
  "reset",
  "removed",
];
const kindNumbers = new Map(kinds.map((kind, i) => [kind, i + 1]));

/**
 * Header of a record, little-endian: payload bytes u32, CRC32C u32 (over everything else, payload included), group u32,
 * batch u32, kind u8, check u24 (the low bits of a CRC32C over the header without both checksums), term u64, index u64.
 * The payload follows. The check says without the payload whether there is a record at all.
 */
export const headerBytes = 36;
/** A longer payload is never written, so a length beyond it is garbage. */
export const payloadBytesMax = 64 * 2 ** 20;

/**
 * What the checksums of one segment begin with, u32: whoever does not know it can make no record of it, though the
 * payloads are theirs. Undefined in segments of the first format: their CRC32C begins with nothing, their check is 0.
 */
export type Seal = number | undefined;

export interface WalRecord {
  readonly group: number;
  readonly kind: RecordKind;
  readonly term: number;
  readonly index: number;
  readonly payload: Uint8Array;
}

export interface ReadRecord extends WalRecord {
  /** Number of the write it came with, modulo 2^32. */
  readonly batch: number;
  /** Bytes of header and payload. */
  readonly bytes: number;
}

function setUint53(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

function getUint53(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

function checkOf(bytes: Uint8Array, at: number, seal: Seal): number {
  if (seal === undefined) return 0;
  const front = crc32c(bytes, at + 8, at + 17, crc32c(bytes, at, at + 4, seal));
  return crc32c(bytes, at + 20, at + headerBytes, front) & 0xffffff;
}

function sumOf(bytes: Uint8Array, at: number, end: number, seal: Seal): number {
  return crc32c(bytes, at + 8, end, crc32c(bytes, at, at + 4, seal ?? 0));
}

/** Writes a record into `into` at `at`; answers the offset behind it. */
export function encodeRecord(
  into: Uint8Array,
  view: DataView,
  at: number,
  record: WalRecord,
  batch: number,
  seal: Seal,
): number {
  const end = at + headerBytes + record.payload.length;
  const kind = kindNumbers.get(record.kind)!;
  view.setUint32(at, record.payload.length, true);
  view.setUint32(at + 8, record.group, true);
  view.setUint32(at + 12, batch, true);
  into[at + 16] = kind;
  setUint53(view, at + 20, record.term);
  setUint53(view, at + 28, record.index);
  view.setUint32(at + 16, kind | (checkOf(into, at, seal) << 8), true);
  into.set(record.payload, at + headerBytes);
  view.setUint32(at + 4, sumOf(into, at, end, seal), true);
  return end;
}

/** The record at `at`; undefined when there is none or it is damaged. The payload is a view into `bytes`. */
export function decodeRecord(bytes: Uint8Array, view: DataView, at: number, seal: Seal): ReadRecord | undefined {
  if (at + headerBytes > bytes.length) return undefined;
  const length = view.getUint32(at, true);
  const end = at + headerBytes + length;
  if (length > payloadBytesMax || end > bytes.length) return undefined;
  const word = view.getUint32(at + 16, true);
  const kind = kinds[(word & 0xff) - 1];
  if (kind === undefined || word >>> 8 !== checkOf(bytes, at, seal)) return undefined;
  if (view.getUint32(at + 4, true) !== sumOf(bytes, at, end, seal)) return undefined;
  return {
    group: view.getUint32(at + 8, true),
    batch: view.getUint32(at + 12, true),
    kind,
    term: getUint53(view, at + 20),
    index: getUint53(view, at + 28),
    payload: bytes.subarray(at + headerBytes, end),
    bytes: end - at,
  };
}

export const emptyPayload = new Uint8Array(0);

/** Payload of a hard_state record. */
export function encodeCommit(commit: number): Uint8Array {
  const payload = new Uint8Array(8);
  setUint53(new DataView(payload.buffer), 0, commit);
  return payload;
}

export function decodeCommit(payload: Uint8Array): number {
  return getUint53(new DataView(payload.buffer, payload.byteOffset, payload.byteLength), 0);
}
