import assert from "node:assert/strict";
import { seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import fc from "fast-check";
import type { KvBackend } from "./kv.ts";
import { memoryBackend } from "./memory_kv.ts";
import { openPlatform } from "./platform.ts";
import { RecordCache } from "./record_cache.ts";
import { buckets, defineKind } from "./records.ts";

const things = defineKind<{ size: number }>({ name: "thing", prefix: "vm" });
const project = "acme/prod";
const prefix = `thing|${project}|`;

/** A store that counts what is read of it; `onGet` happens before a get is answered. */
function world(o: { readonly bytesMax?: number } = {}) {
  const inner = memoryBackend({ clock: systemClock });
  const reads: string[] = [];
  const state = { onGet: async () => {}, nowMs: 0 };
  const kv: KvBackend = {
    ...inner,
    async get(bucket, key, signal) {
      if (bucket === buckets.records) {
        reads.push(`get ${key.slice(prefix.length)}`);
        await state.onGet();
      }
      return await inner.get(bucket, key, signal);
    },
    scan(bucket, scan, signal) {
      if (bucket === buckets.records) reads.push(scan.keysOnly ? "keys" : "values");
      return inner.scan(bucket, scan, signal);
    },
  };
  const open = () => openPlatform({ service: "test" }, { kv, clock: systemClock, rng: seededRng(7), log: noopLogger });
  const platform = open();
  const cache = new RecordCache(o, { clock: { monotonicMs: () => state.nowMs } });
  return {
    state,
    platform,
    /** Reads since the last call. */
    reads: () => reads.splice(0),
    add: async (name: string, size = 1) => {
      await platform.transact((tx) => tx.create(things, { project, name, value: { size } }));
      reads.length = 0;
    },
    set: async (name: string, size: number) => {
      await platform.transact(async (tx) =>
        tx.update(things, await tx.get(things, project, name), { value: { size } })
      );
      reads.length = 0;
    },
    remove: async (name: string) => {
      await platform.transact(async (tx) => tx.remove(things, await tx.get(things, project, name)));
      reads.length = 0;
    },
    list: async () => (await platform.page(things, { project, cache, page: { pageSize: 1000 } })).items,
    plain: async () => (await platform.page(things, { project, page: { pageSize: 1000 } })).items,
  };
}

Deno.test("a list reads a record's value once per version, and answers the same object for it", async () => {
  const { add, set, remove, list, reads } = world();
  for (const name of ["a", "b", "c"]) await add(name);
  const first = await list();
  assert.deepEqual(reads(), ["keys", "get a", "get b", "get c"]);
  const again = await list();
  assert.deepEqual(reads(), ["keys"]);
  again.forEach((record, i) => assert.equal(record, first[i]));
  await set("b", 2);
  const changed = await list();
  assert.deepEqual(reads(), ["keys", "get b"]);
  assert.deepEqual(changed.map((r) => r.value.size), [1, 2, 1]);
  assert.equal(changed[0], first[0]);
  await remove("a");
  assert.deepEqual((await list()).map((r) => r.name), ["b", "c"]);
  await add("a", 9);
  assert.deepEqual((await list()).map((r) => [r.name, r.value.size]), [["a", 9], ["b", 2], ["c", 1]]);
});

Deno.test("many records that are not known are read in one scan", async () => {
  const { add, list, reads } = world();
  for (let i = 0; i < 40; i++) await add(`t${i}`);
  assert.equal((await list()).length, 40);
  assert.deepEqual(reads(), ["keys", "values"]);
  await list();
  assert.deepEqual(reads(), ["keys"]);
});

Deno.test("a record that is written between the keys and its value leaves no list of two instants", async () => {
  const { add, set, list, reads, state } = world();
  await add("a", 1);
  await add("b", 1);
  await list();
  await set("b", 2);
  state.onGet = async () => {
    state.onGet = async () => {};
    await set("a", 3);
    await set("b", 3);
  };
  assert.deepEqual((await list()).map((r) => r.value.size), [3, 3]);
  assert.equal(reads().at(-1), "values");
});

Deno.test("nothing is believed for longer than a minute", async () => {
  const { add, list, reads, state } = world();
  await add("a");
  await list();
  state.nowMs = 60_000;
  reads();
  await list();
  assert.deepEqual(reads(), ["keys"]);
  state.nowMs = 60_001;
  await list();
  assert.deepEqual(reads(), ["keys", "get a"]);
});

Deno.test("what is kept stays within its bound, and what fell out is read again", async () => {
  const { add, list, plain, reads } = world({ bytesMax: 2_000 });
  for (let i = 0; i < 40; i++) await add(`t${i}`);
  for (let i = 0; i < 3; i++) {
    assert.deepEqual(await list(), await plain());
    assert.ok(reads().includes("values"), "no room for all of them");
  }
});

Deno.test("with and without the cache a list answers the same, whatever is written in between", async () => {
  const step = fc.record({
    act: fc.constantFrom("set", "remove", "list"),
    name: fc.constantFrom("a", "b", "c", "d"),
    size: fc.nat(9),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), fc.constantFrom(0, 400, 10_000), async (steps, bytesMax) => {
      const { add, set, remove, list, plain } = world({ bytesMax });
      for (const { act, name, size } of steps) {
        const there = (await plain()).some((r) => r.name === name);
        if (act === "remove" && there) await remove(name);
        else if (act === "set") await (there ? set(name, size) : add(name, size));
        else assert.deepEqual(await list(), await plain());
      }
      const [one, two] = await Promise.all([list(), list()]);
      assert.deepEqual(one, await plain());
      assert.deepEqual(two, one);
    }),
    { numRuns: 60 },
  );
});
