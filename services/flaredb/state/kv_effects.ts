import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import { Fault, fault } from "@ultracloud/base";
import {
  BatchWriteRequestSchema,
  CompareAndSwapRequestSchema,
  DeleteRequestSchema,
  PutRequestSchema,
  SetQuotaRequestSchema,
} from "@ultracloud/proto/flaredb/v1";
import { sweepKeysMax } from "../domain/bounds.ts";
import { type EntryKind, entryKinds } from "../domain/log_entry.ts";
import type { KvTable } from "./kv_table.ts";
import type { BucketUsage, CountedWrite, Quotas } from "./quotas.ts";

interface KvState {
  readonly kv: KvTable;
  readonly quotas: Quotas;
  /** Replicated time. */
  readonly timeMs: number;
  readonly index: number;
}

/**
 * The effect of an entry on keys: its answer, or the Fault that refuses it. `request` is what the payload was read as, where
 * that is known.
 */
export function kvEffect(
  kind: EntryKind,
  payload: Uint8Array,
  state: KvState,
  request: object | undefined,
): unknown {
  const { kv, quotas, timeMs, index } = state;
  const expireMs = (ttlMs: bigint) => ttlMs === 0n ? null : timeMs + Number(ttlMs);
  switch (kind) {
    case entryKinds.put: {
      const { bucket, key, value, ttlMs } = readAs(PutRequestSchema, payload, request);
      const full = quotas.check([{ bucket, key, bytes: value.length }]);
      if (full !== undefined) return full;
      kv.put(bucket, key, value, expireMs(ttlMs), index, 0);
      return { version: BigInt(index) };
    }
    case entryKinds.delete: {
      const { bucket, key } = readAs(DeleteRequestSchema, payload, request);
      return { existed: kv.delete(bucket, key, timeMs, index, 0), index: BigInt(index) };
    }
    case entryKinds.compareAndSwap: {
      const { bucket, key, value, expectedVersion, ttlMs } = readAs(CompareAndSwapRequestSchema, payload, request);
      const version = kv.version(bucket, key, timeMs);
      if (BigInt(version) !== expectedVersion) return { swapped: false, version: BigInt(version) };
      const full = quotas.check([{ bucket, key, bytes: value.length }]);
      if (full !== undefined) return full;
      kv.put(bucket, key, value, expireMs(ttlMs), index, 0);
      return { swapped: true, version: BigInt(index) };
    }
    case entryKinds.batchWrite: {
      const { conditions, writes } = readAs(BatchWriteRequestSchema, payload, request);
      const failedConditions: number[] = [];
      conditions.forEach(({ bucket, key, version }, i) => {
        if (BigInt(kv.version(bucket, key, timeMs)) !== version) failedConditions.push(i);
      });
      if (failedConditions.length > 0) return { committed: false, failedConditions };
      const full = quotas.check(writes.map(({ bucket, key, action }): CountedWrite => {
        return { bucket, key, bytes: action.case === "put" ? action.value.length : undefined };
      }));
      if (full !== undefined) return full;
      writes.forEach(({ bucket, key, action, ttlMs }, seq) => {
        if (action.case === "put") kv.put(bucket, key, action.value, expireMs(ttlMs), index, seq);
        else kv.delete(bucket, key, timeMs, index, seq);
      });
      return { committed: true, version: BigInt(index) };
    }
    case entryKinds.sweep:
      return kv.sweep(timeMs, sweepKeysMax, index);
    case entryKinds.setQuota: {
      const { bucket, keysMax, bytesMax } = readAs(SetQuotaRequestSchema, payload, request);
      const usage = quotas.set(bucket, Number(keysMax), Number(bytesMax));
      return usage instanceof Fault ? usage : bucketMessage(usage);
    }
    default:
      throw fault("data_loss", "entry_misplaced", `Cannot apply an entry of kind ${kind} to a database`);
  }
}

/** A bucket as callers are told of it. */
export function bucketMessage(usage: BucketUsage) {
  return {
    name: usage.name,
    keys: BigInt(usage.keys),
    bytes: BigInt(usage.bytes),
    keysMax: BigInt(usage.keysMax),
    bytesMax: BigInt(usage.bytesMax),
  };
}

function readAs<D extends DescMessage>(schema: D, payload: Uint8Array, request: object | undefined): MessageShape<D> {
  return request as MessageShape<D> | undefined ?? fromBinary(schema, payload);
}
