import { buildRouteMap } from "@stricli/core";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { fault } from "@ultracloud/base";
import { type Bucket, BucketSchema, type Item, ItemSchema, KvService } from "@ultracloud/proto/flaredb/v1";
import { type Column, humanBytes } from "../frame/columns.ts";
import { command, parseDuration, parseInteger, text } from "../frame/command.ts";
import type { Session } from "../frame/session.ts";
import { databaseArg } from "./_db_shared.ts";
import { asText } from "./_kv_bytes.ts";

const bucketArgs = [databaseArg, { brief: "Bucket", placeholder: "bucket" }] as const;
const keyArgs = [...bucketArgs, { brief: "Key", placeholder: "key" }] as const;
const client = (session: Session) => session.client(KvService, "flaredb");
const optional = (brief: string) => ({ kind: "parsed", parse: text, optional: true, brief }) as const;
const flag = (brief: string) => ({ kind: "boolean", default: false, brief }) as const;
const number = (brief: string) => ({ kind: "parsed", parse: parseInteger, default: "0", brief }) as const;
const time = (at: Item["expireTime"]) => at === undefined ? "" : new Date(timestampMs(at)).toISOString();

const itemColumns: readonly Column<Item>[] = [
  { name: "key", get: (i) => i.key },
  { name: "value", get: (i) => asText(i.value) ?? `0x${i.value.toHex()}` },
  { name: "version", get: (i) => String(i.version), wide: true },
  { name: "expires", get: (i) => time(i.expireTime), wide: true },
];
const bound = (max: bigint, shown: string) => max === 0n ? "-" : shown;
const bucketColumns: readonly Column<Bucket>[] = [
  { name: "name", get: (b) => b.name },
  { name: "keys", get: (b) => String(b.keys) },
  { name: "size", get: (b) => humanBytes(b.bytes), order: (b) => Number(b.bytes) },
  { name: "keys_max", get: (b) => bound(b.keysMax, String(b.keysMax)) },
  { name: "size_max", get: (b) => bound(b.bytesMax, humanBytes(b.bytesMax)) },
];

export const kv = buildRouteMap({
  docs: { brief: "Keys of a database, in buckets" },
  routes: {
    get: command<Record<never, never>, [string, string, string]>({
      brief: "Print the value of a key as it is",
      args: keyArgs,
      async run({ session, one, io, flags }, _flags, database, bucket, key) {
        const { item } = await client(session).get({ database, bucket, key });
        if (item === undefined) throw fault("not_found", "key_not_found", `Cannot find key ${key} in bucket ${bucket}`);
        if (flags.output !== "table") return await one(ItemSchema, item, itemColumns);
        io.out(asText(item.value) ?? item.value.toHex());
      },
    }),
    put: command<{ fromFile?: string; ttl?: number; version?: number }, [string, string, string, string?]>({
      brief: "Set a key; --version only if that is its version, 0 only if it is absent",
      args: [...keyArgs, { brief: "Value, unless it comes from a file", placeholder: "value", optional: true }],
      flags: {
        fromFile: optional("File with the value"),
        ttl: { kind: "parsed", parse: parseDuration, optional: true, brief: "Gone after this long, like 30s or 2h" },
        version: { kind: "parsed", parse: parseInteger, optional: true, brief: "Version that it must have" },
      },
      async run({ session, io }, { fromFile, ttl, version }, database, bucket, key, written) {
        if ((written === undefined) === (fromFile === undefined)) {
          throw fault("invalid_argument", "value_missing", "Cannot set a key: wanted a value or --from-file, not both");
        }
        const value = fromFile === undefined ? new TextEncoder().encode(written) : await Deno.readFile(fromFile);
        const request = { database, bucket, key, value, ttlMs: BigInt(ttl ?? 0) };
        if (version === undefined) {
          return io.err(`Set ${key} at version ${(await client(session).put(request)).version}\n`);
        }
        const expectedVersion = BigInt(version);
        const { swapped, version: now } = await client(session).compareAndSwap({ ...request, expectedVersion });
        if (swapped) return io.err(`Set ${key} at version ${now}\n`);
        const message = `Cannot set key ${key} as its version is ${now}: wanted ${version}`;
        throw fault("aborted", "version_changed", message);
      },
    }),
    delete: command<Record<never, never>, [string, string, string]>({
      brief: "Delete a key",
      args: keyArgs,
      async run({ session, io }, _flags, database, bucket, key) {
        const { existed } = await client(session).delete({ database, bucket, key });
        io.err(existed ? `Deleted ${key}\n` : `There was no ${key}\n`);
      },
    }),
    scan: command<{ prefix?: string; limit: number; reverse: boolean; keysOnly: boolean }, [string, string]>({
      brief: "List keys in order, all pages up to --limit",
      args: bucketArgs,
      flags: {
        prefix: optional("Keys that begin with this"),
        limit: number("At most this many; 0 for all"),
        reverse: flag("The last one first"),
        keysOnly: flag("Without values"),
      },
      async run({ session, list }, { prefix = "", limit, reverse, keysOnly }, database, bucket) {
        const items: Item[] = [];
        for (let pageToken = "";;) {
          const left = limit > 0 ? Math.min(limit - items.length, 10_000) : 0;
          const request = { database, bucket, prefix, reverse, keysOnly, limit: left, pageToken };
          const page = await client(session).scan(request);
          items.push(...page.items);
          pageToken = page.nextPageToken;
          if (pageToken === "" || (limit > 0 && items.length >= limit)) break;
        }
        await list(ItemSchema, items, itemColumns);
      },
    }),
    watch: command<{ prefix?: string; after: number }, [string, string]>({
      brief: "Print changes as they happen, one JSON object to a line; `index` resumes",
      args: bucketArgs,
      flags: {
        prefix: optional("Keys that begin with this"),
        after: number("Changes after this index; 0: from now on"),
      },
      async run({ session, io }, { prefix = "", after }, database, bucket) {
        const request = { database, bucket, prefix, afterIndex: BigInt(after) };
        for await (const { index, changes } of client(session).watch(request)) {
          for (const { key, item } of changes) {
            const value = item === undefined ? null : asText(item.value) ?? { hex: item.value.toHex() };
            io.out(JSON.stringify({ index: String(index), key, value }) + "\n");
          }
        }
      },
    }),
    buckets: command<Record<never, never>, [string]>({
      brief: "List the buckets of a database with what they hold and may hold",
      args: [databaseArg],
      async run({ session, list }, _flags, database) {
        await list(BucketSchema, (await client(session).listBuckets({ database })).buckets, bucketColumns);
      },
    }),
    quota: command<{ keysMax: number; bytesMax: number }, [string, string]>({
      brief: "Bound what a bucket may hold; without flags the bounds go",
      args: bucketArgs,
      flags: { keysMax: number("Keys; 0: no bound"), bytesMax: number("Bytes of keys and values; 0: no bound") },
      async run({ session, one }, { keysMax, bytesMax }, database, bucket) {
        const request = { database, bucket, keysMax: BigInt(keysMax), bytesMax: BigInt(bytesMax) };
        await one(BucketSchema, await client(session).setQuota(request), bucketColumns);
      },
    }),
  },
});
