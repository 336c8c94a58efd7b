import { crc32 } from "node:zlib";
import type { KeyValue, LeaseEvent } from "../domain/types.ts";

/** Folds a whole number of [0, 2^53) into a hash. */
function fold(hash: number, value: number): number {
  const mixed = Math.imul(hash ^ (value >>> 0) ^ Math.imul(value / 2 ** 32, 0x85ebca6b), 0x9e3779b1);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}

function foldLease(hash: number, lease: bigint): number {
  if (lease === 0n) return fold(hash, 0);
  return fold(fold(hash, Number(lease & 0xffff_ffffn)), Number(lease >> 32n));
}

/**
 * The state's hash after one more change, 32 bits: members that applied the same entries to the same state have the
 * same. Version and creation come from what was read back, so that damage to stored rows shows once they are used.
 */
export function hashChange(hash: number, kv: KeyValue, deleted: boolean): number {
  const bytes = deleted ? crc32(kv.key, hash) : crc32(kv.value, crc32(kv.key, hash));
  const numbers = fold(fold(fold(bytes, kv.modRevision), kv.version), kv.createRevision);
  return foldLease(numbers, kv.lease);
}

const leaseChanges = { granted: 1, renewed: 2, revoked: 3, expired: 4 } as const;

export function hashLeaseChange(hash: number, { type, id, ttlMs }: LeaseEvent): number {
  return fold(foldLease(fold(hash, leaseChanges[type]), id), ttlMs);
}
