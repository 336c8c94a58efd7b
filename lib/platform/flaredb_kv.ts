import type { Client } from "@connectrpc/connect";
import { fault } from "@ultracloud/base";
import type { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { toFault } from "@ultracloud/rpc";
import { isStorableKey, type KvBackend, type KvChanges, type KvItem } from "./kv.ts";

interface WireItem {
  readonly key: string;
  readonly value: Uint8Array;
  readonly version: bigint;
}

function fromWire(item: WireItem): KvItem {
  return { key: item.key, value: item.value, version: Number(item.version) };
}

function callOptions(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal ? { signal } : {};
}

async function typed<T>(call: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  try {
    return await call;
  } catch (error) {
    signal?.throwIfAborted();
    throw toFault(error);
  }
}

export interface FlaredbClients {
  readonly kv: Client<typeof KvService>;
  readonly databases: Client<typeof DatabaseService>;
}

/**
 * Records' store over flaredb. The database is made at the first use, so that a service may start before flaredb is
 * there; until then calls fail with `unavailable`.
 */
export function flaredbBackend(clients: FlaredbClients, database: string): KvBackend {
  let made: Promise<void> | undefined;
  const ready = (): Promise<void> => {
    made ??= typed(clients.databases.createDatabase({ name: database, ifNotExists: true }), undefined).then(
      () => {},
      (error) => {
        made = undefined;
        throw error;
      },
    );
    return made;
  };
  return {
    async get(bucket, key, signal) {
      // Callers' names reach here as parts of keys; the store would call what nobody can have made a bug of ours.
      if (!isStorableKey(key)) return undefined;
      await ready();
      try {
        const answer = await typed(clients.kv.get({ database, bucket, key }, callOptions(signal)), signal);
        return answer.item ? fromWire(answer.item) : undefined;
      } catch (error) {
        const known = toFault(error);
        if (known.kind === "not_found" && known.code !== "database_not_found") return undefined;
        throw error;
      }
    },
    async scan(bucket, scan, signal) {
      await ready();
      const items: KvItem[] = [];
      let pageToken = "";
      do {
        const answer = await typed(
          clients.kv.scan({
            database,
            bucket,
            prefix: scan.prefix ?? "",
            start: scan.start ?? "",
            end: scan.end ?? "",
            limit: scan.limit - items.length,
            reverse: scan.reverse ?? false,
            keysOnly: scan.keysOnly ?? false,
            pageToken,
          }, callOptions(signal)),
          signal,
        );
        for (const item of answer.items) items.push(fromWire(item));
        pageToken = answer.nextPageToken;
      } while (pageToken !== "" && items.length < scan.limit);
      return items;
    },
    async write(conditions, writes, signal) {
      await ready();
      const answer = await typed(
        clients.kv.batchWrite({
          database,
          conditions: conditions.map((c) => ({ bucket: c.bucket, key: c.key, version: BigInt(c.version) })),
          writes: writes.map((w) => ({
            bucket: w.bucket,
            key: w.key,
            action: w.put === undefined
              ? { case: "delete" as const, value: true }
              : { case: "put" as const, value: w.put },
            ttlMs: BigInt(w.ttlMs ?? 0),
          })),
        }, callOptions(signal)),
        signal,
      );
      return answer.committed
        ? { committed: true, version: Number(answer.version) }
        : { committed: false, failed: answer.failedConditions };
    },
    async *watch(bucket, prefix, after, signal): AsyncGenerator<KvChanges> {
      await ready();
      try {
        const stream = clients.kv.watch(
          { database, bucket, prefix, afterIndex: BigInt(after ?? 0) },
          { signal },
        );
        for await (const answer of stream) {
          yield {
            index: Number(answer.index),
            changes: answer.changes.map((c) => ({ key: c.key, item: c.item && fromWire(c.item) })),
          };
        }
      } catch (error) {
        signal.throwIfAborted();
        throw toFault(error);
      }
      throw fault("unavailable", "watch_ended", `Cannot follow bucket ${bucket} as the store ended the watch`);
    },
  };
}
