import { assert, fault, utf8 } from "@ultracloud/base";

/**
 * A log entry: what everyone needs to give the same effect. The payload is the request as the caller sent it, in
 * protobuf; before it stands what the leader froze when it proposed.
 *
 * Layout, little endian: format u8 (1), kind u8, timeMs f64, seed 16 bytes, key length u16 (0: none), key, and with a
 * key the SHA-256 of kind and payload, then the payload.
 */

export const entryKinds = {
  put: 1,
  delete: 2,
  compareAndSwap: 3,
  batchWrite: 4,
  execute: 5,
  batch: 6,
  /** Removes keys whose time to live has passed at the entry's time. */
  sweep: 7,
  /** Changes nothing: a read that goes through the log waits for it. */
  barrier: 8,
  setQuota: 9,
  /** The statements of an interactive transaction. */
  transaction: 10,
  /** What the database keeps beside its content. */
  settings: 11,
  /** Every replica notes a digest of its content, and reports it. */
  hash: 12,
  /** What one replica's digest was. */
  report: 13,
  migrate: 14,
  /** A backup that was taken. */
  recordBackup: 15,
  /** A piece of what a restored database is filled with. */
  import: 16,
  /** As transaction and batch, with answers that must still be the same: members that cannot check them stop. */
  checkedTransaction: 17,
  checkedBatch: 18,
  /** On the catalog's own log. */
  createDatabase: 32,
  deleteDatabase: 33,
  placeDatabase: 34,
  /** The members of a group are those that were asked for. */
  placed: 35,
  createWebhook: 36,
  updateWebhook: 37,
  deleteWebhook: 38,
  /** What became of deliveries. */
  reportDeliveries: 39,
} as const;
export type EntryKind = (typeof entryKinds)[keyof typeof entryKinds];

export interface DedupeKey {
  /** Caller and its key, so that callers cannot meet each other's. */
  readonly key: string;
  readonly sha256: Uint8Array;
}

export interface Entry {
  readonly kind: EntryKind;
  /** Wall clock of the leader at the proposal. */
  readonly timeMs: number;
  /** 16 random bytes; zero for kinds that use none. */
  readonly seed: Uint8Array;
  readonly dedupe: DedupeKey | undefined;
  readonly payload: Uint8Array;
}

const format = 1;
const headBytes = 1 + 1 + 8 + 16 + 2;
const hashBytes = 32;
const kinds: ReadonlySet<number> = new Set(Object.values(entryKinds));

export function encodeEntry(entry: Entry): Uint8Array<ArrayBuffer> {
  const key = entry.dedupe === undefined ? undefined : utf8.encode(entry.dedupe.key);
  const keyBytes = key === undefined ? 0 : key.length + hashBytes;
  const out = new Uint8Array(headBytes + keyBytes + entry.payload.length);
  const view = new DataView(out.buffer);
  out[0] = format;
  out[1] = entry.kind;
  view.setFloat64(2, entry.timeMs, true);
  assert(entry.seed.length === 16, "A seed has 16 bytes");
  out.set(entry.seed, 10);
  view.setUint16(26, key?.length ?? 0, true);
  if (key !== undefined) {
    assert(key.length > 0 && key.length < 65_536, "A dedupe key has 1 to 65535 bytes");
    out.set(key, headBytes);
    out.set(entry.dedupe!.sha256, headBytes + key.length);
  }
  out.set(entry.payload, headBytes + keyBytes);
  return out;
}

/** The parts of an entry, as views of `data`. An entry this version does not know stops the replica. */
export function decodeEntry(data: Uint8Array): Entry {
  if (data.length < headBytes || data[0] !== format || !kinds.has(data[1]!)) {
    throw fault("data_loss", "entry_unknown", `Cannot read a log entry of format ${data[0]} and kind ${data[1]}`);
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const keyLength = view.getUint16(26, true);
  let at = headBytes;
  let dedupe: DedupeKey | undefined;
  if (keyLength > 0) {
    const key = utf8.decode(data.subarray(at, at + keyLength));
    at += keyLength;
    dedupe = { key, sha256: data.subarray(at, at + hashBytes) };
    at += hashBytes;
  }
  return {
    kind: data[1] as EntryKind,
    timeMs: view.getFloat64(2, true),
    seed: data.subarray(10, 26),
    dedupe,
    payload: data.subarray(at),
  };
}

export const noSeed: Uint8Array = new Uint8Array(16);
