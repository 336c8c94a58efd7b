import assert from "node:assert/strict";
import { seededRng, uniform, utf8 } from "@ultracloud/base";
import { SimDisk } from "@ultracloud/testing";
import { crc32c, openWal, systemDisk, type Wal, type WalWrite } from "./mod.ts";

async function temporary<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = await Deno.makeTempDir();
  try {
    return await work(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

const open = (dir: string, segmentBytes?: number) =>
  openWal({ dir: `${dir}/wal`, ...(segmentBytes ? { segmentBytes } : {}) }, {
    disk: systemDisk,
    onFatal: (error) => assert.fail(error),
  });
const append = (wal: Wal, write: WalWrite) =>
  new Promise<void>((resolve, reject) => wal.append(write, (error) => error ? reject(error) : resolve()));
const entry = (index: number, term: number, text = `e${index}.${term}`) => ({
  index,
  term,
  config: false,
  data: utf8.encode(text),
});
const texts = (wal: Wal, group: number) => {
  const index = wal.index(group);
  const found: string[] = [];
  for (let i = index.firstIndex(); i <= index.lastIndex(); i++) found.push(utf8.decode(wal.read(group, i).data));
  return found;
};

Deno.test("crc32c() equals the check value of its standard, at once and in parts", () => {
  const bytes = utf8.encode("123456789");
  assert.equal(crc32c(bytes), 0xe3069283);
  assert.equal(crc32c(bytes, 4, 9, crc32c(bytes, 0, 4)), 0xe3069283);
});

Deno.test("wal keeps entries and hard state of several groups over a reopening", async () => {
  await temporary(async (dir) => {
    {
      await using wal = open(dir);
      await Promise.all([
        append(wal, { group: 1, hardState: { term: 2, vote: 3, commit: 1 }, entries: [entry(1, 1), entry(2, 2)] }),
        append(wal, { group: 2, entries: [entry(1, 7)] }),
      ]);
      assert.equal(wal.stats().syncs, 1);
    }
    await using wal = open(dir);
    assert.deepEqual(wal.index(1).hardState, { term: 2, vote: 3, commit: 1 });
    assert.deepEqual(texts(wal, 1), ["e1.1", "e2.2"]);
    assert.deepEqual(texts(wal, 2), ["e1.7"]);
  });
});

Deno.test("wal removes what stands at and above an entry that is written again", async () => {
  await temporary(async (dir) => {
    {
      await using wal = open(dir);
      await append(wal, { group: 1, entries: [entry(1, 1), entry(2, 1), entry(3, 1)] });
      await append(wal, { group: 1, entries: [entry(2, 2)] });
    }
    await using wal = open(dir);
    assert.deepEqual(texts(wal, 1), ["e1.1", "e2.2"]);
  });
});

Deno.test("wal gives segments back once every group is cut, and an idle group does not pin them", async () => {
  await temporary(async (dir) => {
    const data = "x".repeat(900);
    {
      await using wal = open(dir, 4_096);
      await append(wal, { group: 9, entries: [entry(1, 1, "idle")] });
      for (let i = 1; i <= 100; i++) {
        await append(wal, { group: 1, entries: [entry(i, 1, data)] });
        if (i % 5 === 0) {
          await append(wal, {
            group: 1,
            base: { to: { index: i, term: 1, configuration: utf8.encode("c") }, reset: false },
          });
        }
      }
      assert.ok(wal.stats().segments <= 10, `${wal.stats().segments} segments`);
    }
    await using wal = open(dir, 4_096);
    assert.deepEqual(texts(wal, 9), ["idle"]);
    assert.equal(wal.index(1).base.index, 100);
    assert.equal(utf8.decode(wal.index(1).base.configuration), "c");
  });
});

Deno.test("a segment made of one that nobody needs says nothing of its earlier life", async () => {
  const data = "x".repeat(20);
  for (let writes = 60; writes < 100; writes++) {
    const disk = new SimDisk({ rng: seededRng(writes) });
    const make = disk.open.bind(disk);
    let made = 0;
    disk.open = (path, options) => {
      if (options.create) made++;
      return make(path, options);
    };
    const openThere = () =>
      openWal({ dir: "/wal", segmentBytes: 1_024 }, { disk, onFatal: (error) => assert.fail(error) });
    {
      await using wal = openThere();
      // All of one size: what an earlier life wrote stands where this life's next record would.
      for (let i = 1; i <= writes; i++) {
        const to = { index: i - 1, term: 1, configuration: utf8.encode("c") };
        await append(wal, {
          group: 1,
          hardState: { term: i, vote: 1, commit: 0 },
          entries: [entry(i, 1, data)],
          base: { to, reset: false },
        });
      }
      assert.ok(made <= 4, `${made} files were made`);
    }
    const newest = disk.list("/wal").sort().at(-1)!;
    assert.ok(newest >= "0000000010.wal", `${newest} is the newest: wanted a file in its third life at least`);
    await using wal = openThere();
    assert.deepEqual(wal.index(1).hardState, { term: writes, vote: 1, commit: 0 });
    assert.deepEqual(texts(wal, 1), [data]);
    assert.equal(wal.index(1).lastIndex(), writes);
    assert.ok(disk.list("/wal").every((name) => name.endsWith(".wal")), `${disk.list("/wal")}`);
  }
});

Deno.test("wal cuts a torn tail and goes on", async () => {
  await temporary(async (dir) => {
    {
      await using wal = open(dir);
      await append(wal, { group: 1, entries: [entry(1, 1)] });
      await append(wal, { group: 1, entries: [entry(2, 1)] });
    }
    const path = `${dir}/wal/0000000001.wal`;
    const bytes = await Deno.readFile(path);
    const at = bytes.findLastIndex((byte) => byte !== 0);
    bytes[at] = bytes[at]! ^ 1;
    await Deno.writeFile(path, bytes);
    {
      await using wal = open(dir);
      assert.deepEqual(texts(wal, 1), ["e1.1"]);
      await append(wal, { group: 1, entries: [entry(2, 2)] });
    }
    await using wal = open(dir);
    assert.deepEqual(texts(wal, 1), ["e1.1", "e2.2"]);
  });
});

Deno.test("wal refuses to open when a record in the middle is damaged", async () => {
  await temporary(async (dir) => {
    {
      await using wal = open(dir);
      for (let i = 1; i <= 4; i++) await append(wal, { group: 1, entries: [entry(i, 1)] });
    }
    const path = `${dir}/wal/0000000001.wal`;
    const bytes = await Deno.readFile(path);
    bytes[16 + 36] = bytes[16 + 36]! ^ 1;
    await Deno.writeFile(path, bytes);
    assert.throws(() => open(dir), { code: "wal_damaged", kind: "data_loss" });
  });
});

Deno.test("wal equals a plain map of entries under random writes, cuts and reopenings", async () => {
  for (let seed = 1; seed <= 20; seed++) {
    await temporary(async (dir) => {
      const rng = seededRng(seed);
      const model = new Map<number, { base: number; entries: string[] }>();
      let wal = open(dir, 2_048);
      for (let step = 0; step < 120; step++) {
        const group = 1 + uniform(rng, 3);
        const state = model.get(group) ?? { base: 0, entries: [] };
        model.set(group, state);
        const last = state.base + state.entries.length;
        switch (uniform(rng, 5)) {
          case 0:
          case 1:
          case 2: {
            const from = state.base + 1 + uniform(rng, state.entries.length + 1);
            const count = 1 + uniform(rng, 3);
            const entries = Array.from(
              { length: count },
              (_, i) => entry(from + i, step + 1, `${step}`.repeat(1 + uniform(rng, 60))),
            );
            state.entries.length = from - state.base - 1;
            state.entries.push(...entries.map((e) => utf8.decode(e.data)));
            await append(wal, { group, entries });
            break;
          }
          case 3: {
            if (last === state.base) break;
            const to = state.base + 1 + uniform(rng, last - state.base);
            const term = wal.index(group).check(to).term;
            await append(wal, {
              group,
              base: { to: { index: to, term, configuration: new Uint8Array(0) }, reset: false },
            });
            state.entries.splice(0, to - state.base);
            state.base = to;
            break;
          }
          default:
            await wal.close();
            wal = open(dir, 2_048);
        }
        for (const [id, expected] of model) {
          assert.deepEqual(texts(wal, id), expected.entries, `seed ${seed} step ${step} group ${id}`);
        }
      }
      await wal.close();
    });
  }
});

Deno.test("append() tells everybody when a write fails, those of that very write first, and takes no more", async () => {
  const disk = new SimDisk({ rng: seededRng(1) });
  const told: string[] = [];
  const wal = openWal({ dir: "wal" }, { disk, onFatal: () => told.push("fatal") });
  await new Promise<void>((resolve, reject) =>
    wal.append({ group: 1, entries: [entry(1, 1)] }, (error) => error ? reject(error) : resolve())
  );
  disk.failSyncs(1);
  const ended = (name: string) =>
    new Promise<void>((resolve) =>
      wal.append({ group: 1, entries: [entry(name === "c" ? 4 : name === "b" ? 3 : 2, 1)] }, (error) => {
        told.push(`${name} ${(error as { code?: string } | undefined)?.code}`);
        resolve();
      })
    );
  // The first two share a write; the third comes while that is under way.
  const both = [ended("a"), ended("b")];
  await Promise.resolve();
  await Promise.all([...both, ended("c")]);
  await ended("d");
  assert.deepEqual(told, [
    "a wal_write_failed",
    "b wal_write_failed",
    "c wal_write_failed",
    "fatal",
    "d wal_write_failed",
  ]);
  await wal.close();
});
