import assert from "node:assert/strict";
import { Fault, utf8 } from "@ultracloud/base";
import { keyAfter, type KvBackend, type KvChanges, kvScanRowsMax } from "./kv.ts";

const value = utf8.encode;

async function take(stream: AsyncIterable<KvChanges>, count: number): Promise<{ key: string; text?: string }[]> {
  const seen: { key: string; text?: string }[] = [];
  for await (const batch of stream) {
    for (const c of batch.changes) seen.push({ key: c.key, ...(c.item ? { text: utf8.decode(c.item.value) } : {}) });
    if (seen.length >= count) break;
  }
  return seen;
}

/** What every KvBackend must do; run on the memory twin and on flaredb. `bucket` is fresh for each case. */
export const kvContract: readonly { readonly name: string; run(kv: KvBackend, bucket: string): Promise<void> }[] = [
  {
    name: "an absent key reads as undefined and a written one with its version",
    async run(kv, bucket) {
      assert.equal(await kv.get(bucket, "a"), undefined);
      const commit = await kv.write([], [{ bucket, key: "a", put: value("1") }]);
      assert.ok(commit.committed);
      const item = await kv.get(bucket, "a");
      assert.equal(item?.version, commit.version);
      assert.equal(utf8.decode(item!.value), "1");
    },
  },
  {
    name: "a batch with one failed condition writes nothing and names the condition",
    async run(kv, bucket) {
      await kv.write([], [{ bucket, key: "a", put: value("1") }]);
      const result = await kv.write(
        [{ bucket, key: "none", version: 0 }, { bucket, key: "a", version: 0 }],
        [{ bucket, key: "b", put: value("2") }],
      );
      assert.deepEqual(result, { committed: false, failed: [1] });
      assert.equal(await kv.get(bucket, "b"), undefined);
    },
  },
  {
    name: "a condition holds for the version read and not after another write",
    async run(kv, bucket) {
      const first = await kv.write([], [{ bucket, key: "a", put: value("1") }]);
      assert.ok(first.committed);
      const condition = { bucket, key: "a", version: first.version };
      assert.ok((await kv.write([condition], [{ bucket, key: "a", put: value("2") }])).committed);
      assert.ok(!(await kv.write([condition], [{ bucket, key: "a", put: value("3") }])).committed);
      assert.equal(utf8.decode((await kv.get(bucket, "a"))!.value), "2");
    },
  },
  {
    name: "deleting makes a key absent again",
    async run(kv, bucket) {
      await kv.write([], [{ bucket, key: "a", put: value("1") }]);
      await kv.write([], [{ bucket, key: "a" }]);
      assert.equal(await kv.get(bucket, "a"), undefined);
      assert.ok(
        (await kv.write([{ bucket, key: "a", version: 0 }], [{ bucket, key: "a", put: value("2") }])).committed,
      );
    },
  },
  {
    name: "scans are in byte order, bounded by prefix, start, end and limit, both ways",
    async run(kv, bucket) {
      const keys = ["p|a", "p|a-b", "p|b", "p|c", "q|a"];
      await kv.write([], keys.map((key) => ({ bucket, key, put: value(key) })));
      const scan = async (o: Parameters<KvBackend["scan"]>[1]) => (await kv.scan(bucket, o)).map((i) => i.key);
      assert.deepEqual(await scan({ prefix: "p|", limit: 10 }), ["p|a", "p|a-b", "p|b", "p|c"]);
      assert.deepEqual(await scan({ prefix: "p|", start: keyAfter("p|a"), limit: 2 }), ["p|a-b", "p|b"]);
      assert.deepEqual(await scan({ prefix: "p|", end: "p|c", limit: 2, reverse: true }), ["p|b", "p|a-b"]);
      assert.deepEqual(await scan({ limit: 10 }), keys);
      await assert.rejects(scan({ limit: kvScanRowsMax + 1 }), { kind: "invalid_argument" });
    },
  },
  {
    name: "a scan of keys alone tells versions and no values",
    async run(kv, bucket) {
      await kv.write([], [{ bucket, key: "a", put: value("1") }, { bucket, key: "b", put: value("2") }]);
      const second = await kv.write([], [{ bucket, key: "b", put: value("3") }]);
      assert.ok(second.committed);
      const whole = await kv.scan(bucket, { limit: 10 });
      const keys = await kv.scan(bucket, { limit: 10, keysOnly: true });
      assert.deepEqual(keys.map((i) => [i.key, i.version]), whole.map((i) => [i.key, i.version]));
      assert.deepEqual(keys.map((i) => i.value.length), [0, 0]);
      assert.equal(keys[1]!.version, second.version);
    },
  },
  {
    name: "keys that are empty, too long or hold NUL are refused before anything is written",
    async run(kv, bucket) {
      for (const key of ["", "a\0b", "x".repeat(1025)]) {
        const batch = kv.write([], [{ bucket, key: "good", put: value("1") }, { bucket, key, put: value("2") }]);
        await assert.rejects(batch, (error) => error instanceof Fault && error.kind === "invalid_argument");
      }
      assert.equal(await kv.get(bucket, "good"), undefined);
    },
  },
  {
    name: "a key that cannot be written reads as absent",
    async run(kv, bucket) {
      for (const key of ["", "x".repeat(1025), "ä".repeat(600), "a\0b"]) {
        assert.equal(await kv.get(bucket, key), undefined);
      }
    },
  },
  {
    name: "buckets do not see each other",
    async run(kv, bucket) {
      await kv.write([], [{ bucket, key: "a", put: value("1") }]);
      assert.equal(await kv.get(`${bucket}_other`, "a"), undefined);
    },
  },
  {
    name: "a watch tells puts and deletes after its index in order",
    async run(kv, bucket) {
      const first = await kv.write([], [{ bucket, key: "p|a", put: value("1") }]);
      assert.ok(first.committed);
      await kv.write([], [{ bucket, key: "p|b", put: value("2") }, { bucket, key: "q|b", put: value("x") }]);
      await kv.write([], [{ bucket, key: "p|a" }]);
      const stop = new AbortController();
      const seen = await take(kv.watch(bucket, "p|", first.version, stop.signal), 2);
      stop.abort();
      assert.deepEqual(seen, [{ key: "p|b", text: "2" }, { key: "p|a" }]);
    },
  },
  {
    name: "a watch ends with its signal",
    async run(kv, bucket) {
      const stop = new AbortController();
      const reason = new Error("enough");
      const watching = take(kv.watch(bucket, "", undefined, stop.signal), 1);
      stop.abort(reason);
      await assert.rejects(watching, (error) => error === reason || error instanceof Fault || error instanceof Error);
    },
  },
];
