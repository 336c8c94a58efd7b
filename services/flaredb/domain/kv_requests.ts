import { invalidField } from "@ultracloud/base";
import type { BatchWriteRequest } from "@ultracloud/proto/flaredb/v1";
import { batchOpsMax } from "./bounds.ts";
import { checkBucket, checkIndex, checkKey, checkTtl } from "./names.ts";

/** Refuses a write of one key that names nothing that can be stored. */
export function checkWrite(
  write: { readonly bucket: string; readonly key: string; readonly ttlMs: bigint },
  at = "",
): void {
  checkBucket(write.bucket, `${at}bucket`);
  checkKey(write.key, `${at}key`);
  checkTtl(write.ttlMs, `${at}ttl_ms`);
}

/** Refuses a batch that is too long, writes a key twice, or has a member that is not whole. */
export function checkBatch({ conditions, writes }: BatchWriteRequest): void {
  if (conditions.length > batchOpsMax || writes.length > batchOpsMax) {
    throw invalidField(
      writes.length > batchOpsMax ? "writes" : "conditions",
      `Cannot take ${conditions.length} conditions and ${writes.length} writes: wanted at most ${batchOpsMax} each`,
    );
  }
  conditions.forEach((condition, i) => {
    checkBucket(condition.bucket, `conditions[${i}].bucket`);
    checkKey(condition.key, `conditions[${i}].key`);
    checkIndex(condition.version, `conditions[${i}].version`);
  });
  const written = new Set<string>();
  writes.forEach((write, i) => {
    checkWrite(write, `writes[${i}].`);
    if (write.action.case === undefined || (write.action.case === "delete" && !write.action.value)) {
      throw invalidField(`writes[${i}].action`, "Cannot take a write without an action: wanted put or delete");
    }
    const name = `${write.bucket}\0${write.key}`;
    if (written.has(name)) {
      throw invalidField(
        `writes[${i}].key`,
        "Cannot write a key twice in one batch: wanted the last write only",
        "duplicate_key",
      );
    }
    written.add(name);
  });
}
