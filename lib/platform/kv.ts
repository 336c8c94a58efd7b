import { utf8 } from "@ultracloud/base";

/** One value as the store holds it. */
export interface KvItem {
  readonly key: string;
  readonly value: Uint8Array;
  /** Index of the write that made it; grows with every write of the database. */
  readonly version: number;
}

/** What must hold for a batch to commit: the key's version, 0 meaning absent. */
export interface KvCondition {
  readonly bucket: string;
  readonly key: string;
  readonly version: number;
}

export interface KvWrite {
  readonly bucket: string;
  readonly key: string;
  /** Absent: the key is deleted. */
  readonly put?: Uint8Array;
  /** 0 or absent: never expires. */
  readonly ttlMs?: number;
}

export type KvCommit =
  | { readonly committed: true; readonly version: number }
  /** Nothing was written; positions of the conditions that did not hold. */
  | { readonly committed: false; readonly failed: readonly number[] };

export interface KvScan {
  /** Keys with this prefix; empty: all. */
  readonly prefix?: string;
  /** Half-open [start, end). */
  readonly start?: string;
  readonly end?: string;
  /** At most this many items, 1 to 10 000. */
  readonly limit: number;
  readonly reverse?: boolean;
  /** Values are left out: they are empty. */
  readonly keysOnly?: boolean;
}

export interface KvChange {
  readonly key: string;
  /** Absent when deleted or expired. */
  readonly item: KvItem | undefined;
}

export interface KvChanges {
  /** Everything up to this index has been told. */
  readonly index: number;
  readonly changes: readonly KvChange[];
}

/**
 * The store as records see it: buckets of keys in byte order, reads linearizable, batches atomic and conditional.
 * Failures are faults; `unavailable` after `write` leaves open whether it was done.
 */
export interface KvBackend {
  /** The item; a key that no write could have made is as absent as any other. */
  get(bucket: string, key: string, signal?: AbortSignal): Promise<KvItem | undefined>;
  /** Items in key order. Fewer than `limit` means there are no more. */
  scan(bucket: string, scan: KvScan, signal?: AbortSignal): Promise<readonly KvItem[]>;
  write(
    conditions: readonly KvCondition[],
    writes: readonly KvWrite[],
    signal?: AbortSignal,
  ): Promise<KvCommit>;
  /**
   * Changes of the bucket after index `after`, in order, `after` undefined meaning from now on. Ends only by
   * failure or `signal`; an index no longer held is `out_of_range`.
   */
  watch(bucket: string, prefix: string, after: number | undefined, signal: AbortSignal): AsyncIterable<KvChanges>;
}

/** Rows one scan call may ask for. */
export const kvScanRowsMax = 10_000;

/** Longest key in UTF-8. */
export const kvKeyBytesMax = 1024;

/** Whether a write may name the key. */
export function isStorableKey(key: string): boolean {
  const bytes = utf8.encode(key).length;
  return bytes > 0 && bytes <= kvKeyBytesMax && !key.includes("\0");
}

/** Where a scan goes on behind `key`: no key holds NUL, so nothing lies between. */
export function keyAfter(key: string): string {
  return key + "\u0001";
}
