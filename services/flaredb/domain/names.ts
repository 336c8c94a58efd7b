import { fault, invalidField, utf8 } from "@ultracloud/base";
import { keyBytesMax, ttlMsMax } from "./bounds.ts";

const databasePattern = /^(sys|t)_[a-z0-9_]{1,60}$/;
const databaseCharsMax = 63;
const bucketPattern = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/;

/** The name, or invalid_argument: `sys_<service>` or `t_<project>`. */
export function checkDatabase(name: string, field = "database"): string {
  if (name.length <= databaseCharsMax && databasePattern.test(name)) return name;
  throw invalidField(
    field,
    `Cannot use ${
      JSON.stringify(name.slice(0, 80))
    } as ${field}: wanted sys_ or t_ and then a-z, 0-9 and underscores, ` +
      `at most ${databaseCharsMax} characters`,
    "invalid_database",
  );
}

export function checkBucket(bucket: string, field = "bucket"): string {
  if (bucketPattern.test(bucket)) return bucket;
  throw invalidField(
    field,
    `Cannot use ${JSON.stringify(bucket.slice(0, 80))} as ${field}: wanted 1 to 63 of A-Z, a-z, 0-9, _ . and -`,
    "invalid_bucket",
  );
}

/** Keys are text of 1 to 1024 bytes without NUL, ordered by their UTF-8 bytes. */
export function checkKey(key: string, field = "key"): string {
  // Three bytes per UTF-16 unit at most, so that short keys cost no encoding.
  const bytes = key.length * 3 <= keyBytesMax ? key.length : utf8.encode(key).length;
  if (bytes === 0 || bytes > keyBytesMax || key.includes("\0") || !key.isWellFormed()) {
    throw invalidField(
      field,
      `Cannot use a key of ${bytes} bytes as ${field}: wanted 1 to ${keyBytesMax} bytes of text without NUL`,
      "invalid_key",
    );
  }
  return key;
}

/** Milliseconds of a time to live; 0 is never. */
export function checkTtl(ttlMs: bigint, field = "ttl_ms"): number {
  if (ttlMs >= 0n && ttlMs <= BigInt(ttlMsMax)) return Number(ttlMs);
  throw invalidField(field, `Cannot keep a key for ${ttlMs} ms: wanted 0 to ${ttlMsMax}`, "invalid_ttl");
}

export function databaseNotFound(name: string): Error {
  return fault("not_found", "database_not_found", `Cannot find database ${name}`);
}

/** A log index as number. */
export function checkIndex(index: bigint, field: string): number {
  if (index >= 0n && index <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(index);
  throw invalidField(field, `Cannot use ${index} as ${field}: wanted a log index`);
}
