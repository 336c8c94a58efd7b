import type { Clock } from "@ultracloud/base";
import type { KvBackend, KvItem, KvScan } from "./kv.ts";
import { buckets, decodeRecord, type StoredRecord } from "./records.ts";

/** Rows whose stored text together is no more than this are kept; decoded they take about three times as much. */
const cachedBytesMax = 32 * 1024 * 1024;
/**
 * A database that was restored under its old name counts on from its backup's index, so that it may give a version
 * again: nothing is believed for longer.
 */
const cachedMsMax = 60_000;
/** Changed rows that are asked for one by one; more are cheaper to read in one scan. */
const getsMax = 16;

/** A record as it was at one version of its key. */
export interface CachedRecord {
  readonly key: string;
  readonly record: StoredRecord;
  /** Only the mark that a deleted record leaves. */
  readonly deleted: boolean;
}

interface Entry extends CachedRecord {
  readonly version: number;
  readonly bytes: number;
  /** Monotonic. */
  readonly readMs: number;
}

/**
 * Records that were read before, by key and version. Every scan asks the store which keys there are at which version, as
 * strictly as a scan of the values, and fetches those alone that it has not seen at theirs: answers are never older than
 * without the cache, whoever wrote them. A record that did not change is the same object again, so that callers may
 * keep what they make of it in a WeakMap; nobody may change it.
 */
export class RecordCache {
  readonly #entries = new Map<string, Entry>();
  readonly #bytesMax: number;
  readonly #clock: Pick<Clock, "monotonicMs">;
  #bytes = 0;

  constructor(o: { readonly bytesMax?: number }, deps: { readonly clock: Pick<Clock, "monotonicMs"> }) {
    this.#bytesMax = o.bytesMax ?? cachedBytesMax;
    this.#clock = deps.clock;
  }

  /** The records of a scan in its order, as of one instant like the scan itself. */
  async scan(kv: KvBackend, scan: Omit<KvScan, "keysOnly" | "reverse">): Promise<readonly CachedRecord[]> {
    const keys = await kv.scan(buckets.records, { ...scan, keysOnly: true });
    const oldestMs = this.#clock.monotonicMs() - cachedMsMax;
    // Before anything else is awaited: other calls change the cache meanwhile.
    const found = keys.map(({ key, version }) => {
      const entry = this.#entries.get(key);
      return entry?.version === version && entry.readMs >= oldestMs ? entry : undefined;
    });
    const missing = keys.flatMap((_, at) => found[at] === undefined ? [at] : []);
    if (missing.length <= getsMax) {
      const items = await Promise.all(missing.map((at) => kv.get(buckets.records, keys[at]!.key)));
      // One that was written meanwhile would be of another instant than the rest.
      if (items.every((item, i) => item?.version === keys[missing[i]!]!.version)) {
        for (const [i, item] of items.entries()) found[missing[i]!] = this.#keep(item!);
        return found as Entry[];
      }
    }
    return (await kv.scan(buckets.records, scan)).map((item) => this.#keep(item));
  }

  #keep({ key, version, value }: KvItem): Entry {
    const known = this.#entries.get(key);
    const entry = { key, version, bytes: value.length, readMs: this.#clock.monotonicMs(), ...decodeRecord(value) };
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    this.#bytes += entry.bytes - (known?.bytes ?? 0);
    for (const [oldest, { bytes }] of this.#entries) {
      if (this.#bytes <= this.#bytesMax) break;
      this.#entries.delete(oldest);
      this.#bytes -= bytes;
    }
    return entry;
  }
}
