import { type Clock, compareBytes, fault, utf8 } from "@ultracloud/base";
import {
  isStorableKey,
  type KvBackend,
  type KvChange,
  type KvChanges,
  type KvCondition,
  type KvItem,
  kvKeyBytesMax,
  kvScanRowsMax,
  type KvWrite,
} from "./kv.ts";

interface Row {
  readonly item: KvItem;
  readonly expireMs: number;
}

/** Changes kept for resuming watches; older cursors are out_of_range. */
const historyLengthMax = 10_000;

/** Byte order of keys, as the real store sorts them. */
function compareKeys(a: string, b: string): number {
  return compareBytes(utf8.encode(a), utf8.encode(b));
}

function checkKey(key: string): void {
  if (isStorableKey(key)) return;
  const bytes = utf8.encode(key).length;
  throw fault(
    "invalid_argument",
    "invalid_key",
    `Cannot use a key of ${bytes} bytes: wanted 1 to ${kvKeyBytesMax} without NUL`,
  );
}

/** The store in memory, for tests: same meaning as flaredb's KV, no durability. Share it to "restart" a service. */
export function memoryBackend(o: { readonly clock: Pick<Clock, "nowMs"> }): KvBackend & {
  /** Rows in a bucket that have not expired. */
  count(bucket: string): number;
} {
  const buckets = new Map<string, Map<string, Row>>();
  const history: { bucket: string; index: number; change: KvChange }[] = [];
  const wake = new Set<() => void>();
  let index = 0;
  let forgotten = 0;

  const rows = (bucket: string): Map<string, Row> => {
    let map = buckets.get(bucket);
    if (!map) buckets.set(bucket, map = new Map());
    return map;
  };
  const live = (bucket: string, key: string): KvItem | undefined => {
    const row = rows(bucket).get(key);
    return row && (row.expireMs === 0 || row.expireMs > o.clock.nowMs()) ? row.item : undefined;
  };
  const remember = (bucket: string, change: KvChange) => {
    history.push({ bucket, index, change });
    while (history.length > historyLengthMax) forgotten = history.shift()!.index;
  };
  const apply = (write: KvWrite) => {
    const map = rows(write.bucket);
    if (write.put === undefined) {
      if (map.delete(write.key)) remember(write.bucket, { key: write.key, item: undefined });
      return;
    }
    const item: KvItem = { key: write.key, value: write.put.slice(), version: index };
    map.set(write.key, { item, expireMs: write.ttlMs ? o.clock.nowMs() + write.ttlMs : 0 });
    remember(write.bucket, { key: write.key, item });
  };

  return {
    count(bucket) {
      let n = 0;
      for (const key of rows(bucket).keys()) if (live(bucket, key)) n++;
      return n;
    },
    async get(bucket, key, signal) {
      await Promise.resolve();
      signal?.throwIfAborted();
      return live(bucket, key);
    },
    async scan(bucket, scan, signal) {
      await Promise.resolve();
      signal?.throwIfAborted();
      if (!(scan.limit >= 1 && scan.limit <= kvScanRowsMax)) {
        throw fault(
          "invalid_argument",
          "invalid_limit",
          `Cannot read ${scan.limit} rows: wanted 1 to ${kvScanRowsMax}`,
        );
      }
      const keys = [...rows(bucket).keys()].filter((key) =>
        key.startsWith(scan.prefix ?? "") && (scan.start === undefined || compareKeys(key, scan.start) >= 0) &&
        (scan.end === undefined || compareKeys(key, scan.end) < 0)
      ).sort(compareKeys);
      if (scan.reverse) keys.reverse();
      const items: KvItem[] = [];
      for (const key of keys) {
        const item = live(bucket, key);
        if (item) items.push(scan.keysOnly ? { ...item, value: new Uint8Array(0) } : item);
        if (items.length === scan.limit) break;
      }
      return items;
    },
    async write(conditions: readonly KvCondition[], writes: readonly KvWrite[], signal) {
      await Promise.resolve();
      signal?.throwIfAborted();
      for (const write of writes) checkKey(write.key);
      const failed = conditions.flatMap((c, i) => (live(c.bucket, c.key)?.version ?? 0) === c.version ? [] : [i]);
      if (failed.length > 0) return { committed: false, failed };
      index++;
      for (const write of writes) apply(write);
      for (const notify of [...wake]) notify();
      return { committed: true, version: index };
    },
    async *watch(bucket, prefix, after, signal): AsyncGenerator<KvChanges> {
      let sent = after ?? index;
      if (sent < forgotten) {
        throw fault("out_of_range", "watch_index_gone", `Cannot watch after ${sent} as history starts at ${forgotten}`);
      }
      for (;;) {
        signal.throwIfAborted();
        const until = index;
        const changes = history.filter((h) =>
          h.index > sent && h.index <= until && h.bucket === bucket && h.change.key.startsWith(prefix)
        ).map((h) => h.change);
        sent = until;
        if (changes.length > 0) yield { index: until, changes };
        if (index > sent) continue;
        await new Promise<void>((resolve, reject) => {
          const done = () => {
            wake.delete(done);
            signal.removeEventListener("abort", onAbort);
            resolve();
          };
          const onAbort = () => {
            wake.delete(done);
            reject(signal.reason);
          };
          wake.add(done);
          signal.addEventListener("abort", onAbort, { once: true });
        });
      }
    },
  };
}
