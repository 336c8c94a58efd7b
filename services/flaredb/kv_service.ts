import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type Clock, invalidField } from "@ultracloud/base";
import {
  BatchWriteRequestSchema,
  type BatchWriteResponse,
  type Bucket,
  CompareAndSwapRequestSchema,
  type CompareAndSwapResponse,
  DeleteRequestSchema,
  type DeleteResponse,
  type ItemSchema,
  KvService,
  PutRequestSchema,
  type PutResponse,
  SetQuotaRequestSchema,
} from "@ultracloud/proto/flaredb/v1";
import { type AuthzTable, bind, type BoundService, type Handlers } from "@ultracloud/rpc";
import { databaseScope } from "./database_service.ts";
import { checkBatch, checkWrite } from "./domain/kv_requests.ts";
import { pageBytesDefault, pageBytesMax, scanItemsDefault, scanItemsMax } from "./domain/bounds.ts";
import { entryKinds } from "./domain/log_entry.ts";
import { checkBucket, checkIndex, checkKey } from "./domain/names.ts";
import { decodePageToken, encodePageToken, keyRange } from "./domain/ranges.ts";
import { awaitLevel } from "./reads.ts";
import type { Databases } from "./databases.ts";
import { bucketMessage } from "./state/kv_effects.ts";
import type { KvRow } from "./state/kv_table.ts";
import { watchChanges } from "./watch.ts";

export interface KvDeps {
  readonly databases: Databases;
  readonly clock: Clock;
}

/** Buckets of keys. Writes go through the log of their database, reads see it at the level they ask for. */
export function kvHandlers({ databases, clock }: KvDeps): Handlers<typeof KvService> {
  return {
    async get({ database, bucket, key, read }, context) {
      checkBucket(bucket);
      checkKey(key);
      const opened = await databases.find(database);
      await awaitLevel(databases, opened, read, context);
      const { db, parts: { kv }, timeMs } = opened.machine;
      const row = db.reading(() => kv.get(bucket, key, timeMs));
      return { ...(row ? { item: toItem(row) } : {}), index: BigInt(opened.machine.index) };
    },
    async put(request, context) {
      checkWrite(request);
      const opened = await databases.find(request.database);
      return await databases.propose(opened, entryKinds.put, PutRequestSchema, request, context) as PutResponse;
    },
    async delete(request, context) {
      checkBucket(request.bucket);
      checkKey(request.key);
      const opened = await databases.find(request.database);
      return await databases.propose(
        opened,
        entryKinds.delete,
        DeleteRequestSchema,
        request,
        context,
      ) as DeleteResponse;
    },
    async compareAndSwap(request, context) {
      checkWrite(request);
      checkIndex(request.expectedVersion, "expected_version");
      const opened = await databases.find(request.database);
      const { compareAndSwap: kind } = entryKinds;
      const answer = await databases.propose(opened, kind, CompareAndSwapRequestSchema, request, context);
      return answer as CompareAndSwapResponse;
    },
    async batchWrite(request, context) {
      checkBatch(request);
      const opened = await databases.find(request.database);
      const { batchWrite: kind } = entryKinds;
      return await databases.propose(opened, kind, BatchWriteRequestSchema, request, context) as BatchWriteResponse;
    },
    async scan(request, context) {
      checkBucket(request.bucket);
      const limit = within(request.limit, scanItemsDefault, scanItemsMax, "limit");
      const bytesMax = within(request.pageBytes, pageBytesDefault, pageBytesMax, "page_bytes");
      const after = decodePageToken(request.pageToken);
      const range = keyRange(request.prefix, request.start, request.end);
      const opened = await databases.find(request.database);
      await awaitLevel(databases, opened, request.read, context);
      const { parts: { kv }, timeMs } = opened.machine;
      const page = kv.scan(request.bucket, range, {
        nowMs: timeMs,
        reverse: request.reverse,
        limit,
        bytesMax,
        keysOnly: request.keysOnly,
        after,
      });
      return {
        items: page.rows.map(toItem),
        nextPageToken: page.more ? encodePageToken(page.rows.at(-1)!.key) : "",
        index: BigInt(opened.machine.index),
      };
    },
    async setQuota(request, context) {
      checkBucket(request.bucket);
      checkIndex(request.keysMax, "keys_max");
      checkIndex(request.bytesMax, "bytes_max");
      const opened = await databases.find(request.database);
      return await databases.propose(opened, entryKinds.setQuota, SetQuotaRequestSchema, request, context) as Bucket;
    },
    async listBuckets({ database, read }, context) {
      const opened = await databases.find(database);
      await awaitLevel(databases, opened, read, context);
      const { machine } = opened;
      return { buckets: machine.parts.quotas.list().map(bucketMessage), index: BigInt(machine.index) };
    },
    async *watch(request, context) {
      checkBucket(request.bucket);
      const after = checkIndex(request.afterIndex, "after_index");
      const opened = await databases.find(request.database);
      await opened.group.readBarrier();
      const { bucket, prefix } = request;
      for await (const page of watchChanges({ bucket, prefix, after }, opened, clock, context.signal)) {
        yield {
          index: BigInt(page.index),
          changes: page.changes.map(({ key, value, index, expireMs }) => ({
            key,
            ...(value === null ? {} : { item: toItem({ key, value, version: index, expireMs }) }),
          })),
        };
      }
    },
  };
}

const scope = (request: { readonly database: string }) => databaseScope(request.database);

export const kvAuthz = {
  get: { resource: "kv", action: "get", scope },
  put: { resource: "kv", action: "put", scope },
  delete: { resource: "kv", action: "delete", scope },
  compareAndSwap: { resource: "kv", action: "put", scope },
  // A batch may put and delete.
  batchWrite: { resource: "kv", action: "write", scope },
  scan: { resource: "kv", action: "list", scope },
  watch: { resource: "kv", action: "watch", scope },
  setQuota: { resource: "quota", action: "set", scope },
  listBuckets: { resource: "kv", action: "list", scope },
} satisfies AuthzTable<typeof KvService>;

export function kvService(deps: KvDeps): BoundService {
  return bind(KvService, kvHandlers(deps), kvAuthz);
}

function toItem({ key, value, version, expireMs }: KvRow): MessageInitShape<typeof ItemSchema> {
  return {
    key,
    value: value as Uint8Array<ArrayBuffer>,
    version: BigInt(version),
    ...(expireMs === null ? {} : { expireTime: timestampFromMs(expireMs) }),
  };
}

function within(value: number, absent: number, max: number, field: string): number {
  if (value === 0) return absent;
  if (value > 0 && value <= max) return value;
  throw invalidField(field, `Cannot use ${value} as ${field}: wanted 0 to ${max}`);
}
