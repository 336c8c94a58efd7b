import assert from "node:assert/strict";
import { seededRng, uniform, utf8 } from "@ultracloud/base";
import { SimDisk } from "@ultracloud/testing";
import { crc32c, openWal, type Wal, type WalWrite } from "./mod.ts";
import { encodeRecord, headerBytes, type Seal, type WalRecord } from "./record.ts";
import { segmentHeadBytes } from "./segment.ts";

const dir = "/wal";
const firstFile = `${dir}/0000000001.wal`;
const open = (disk: SimDisk, segmentBytes = 4_096) =>
  openWal({ dir, segmentBytes }, { disk, onFatal: (error) => assert.fail(error) });
const append = (wal: Wal, write: WalWrite) =>
  new Promise<void>((resolve, reject) => wal.append(write, (error) => error ? reject(error) : resolve()));
const entry = (index: number, data: Uint8Array) => ({ index, term: 1, config: false, data });
const texts = (wal: Wal) => {
  const index = wal.index(1);
  const found: string[] = [];
  for (let i = index.firstIndex(); i <= index.lastIndex(); i++) found.push(utf8.decode(wal.read(1, i).data));
  return found;
};

/** Records as somebody would make them who knows the format, one behind the other. */
function forged(bytes: number, batch: number, seal: Seal): Uint8Array {
  const into = new Uint8Array(bytes);
  const view = new DataView(into.buffer);
  const removed: WalRecord = { group: 1, kind: "removed", term: 9, index: 9, payload: new Uint8Array(0) };
  for (let at = 0; at + headerBytes <= bytes;) at = encodeRecord(into, view, at, removed, batch, seal);
  return into;
}

Deno.test("an entry's data cannot pass for records of the log, wherever a reused segment ends", async () => {
  for (let seed = 1; seed <= 120; seed++) {
    const rng = seededRng(seed);
    const disk = new SimDisk({ rng });
    let last = 0;
    const writes = 40 + uniform(rng, 60);
    {
      await using wal = open(disk);
      for (let i = 1; i <= writes; i++) {
        const seal = uniform(rng, 2) === 0 ? undefined : uniform(rng, 2 ** 32);
        // Of the next batch, so that each would be the log's next record, and of far later ones, as after a loss.
        const batch = uniform(rng, 2) === 0 ? i + 1 : i + 1_000;
        await append(wal, {
          group: 1,
          hardState: { term: i, vote: 1, commit: i - 1 },
          entries: [entry(i, forged(100 + uniform(rng, 900), batch, seal))],
          base: { to: { index: i - 1, term: 1, configuration: new Uint8Array(0) }, reset: false },
        });
        last = i;
      }
    }
    await using wal = open(disk);
    assert.deepEqual(wal.groups(), [1], `seed ${seed}`);
    assert.deepEqual(wal.index(1).hardState, { term: last, vote: 1, commit: last - 1 }, `seed ${seed}`);
    assert.equal(wal.index(1).lastIndex(), last, `seed ${seed}`);
  }
});

/** A log of one segment as the first format had it. */
function firstFormat(disk: SimDisk, records: readonly WalRecord[]): void {
  disk.mkdir(dir);
  const bytes = new Uint8Array(4_096);
  const view = new DataView(bytes.buffer);
  bytes.set([0x55, 0x43, 0x57, 0x41, 0x4c, 0x00, 0x01, 0x00]);
  view.setUint32(8, 1, true);
  let at = segmentHeadBytes;
  for (const [i, record] of records.entries()) at = encodeRecord(bytes, view, at, record, i + 1, undefined);
  disk.open(firstFile, { create: true }).writeAt(bytes, 0);
}

const old = (index: number): WalRecord => ({
  group: 1,
  kind: "entry",
  term: 1,
  index,
  payload: utf8.encode(`old ${index}`),
});

Deno.test("a log of the first format is read, and goes on in segments of this one", async () => {
  const disk = new SimDisk({ rng: seededRng(1) });
  firstFormat(disk, [1, 2, 3].map(old));
  for (let opened = 0; opened < 3; opened++) {
    await using wal = open(disk);
    await wal.ready();
    await append(wal, { group: 1, entries: [entry(4 + opened, utf8.encode(`new ${opened}`))] });
  }
  {
    await using wal = open(disk);
    assert.deepEqual(texts(wal), ["old 1", "old 2", "old 3", "new 0", "new 1", "new 2"]);
    assert.equal(wal.stats().segments, 2);
    // Its entries gone, the old segment goes with the next one that is made.
    await append(wal, {
      group: 1,
      base: { to: { index: 6, term: 1, configuration: new Uint8Array(0) }, reset: false },
    });
    for (let i = 7; i < 16; i++) await append(wal, { group: 1, entries: [entry(i, new Uint8Array(900))] });
  }
  await using wal = open(disk);
  assert.equal(wal.index(1).base.index, 6);
  assert.equal(wal.index(1).lastIndex(), 15);
});

Deno.test("a log of the first format that dies while it gets its first new segment is what it was", async () => {
  for (let seed = 1; seed <= 100; seed++) {
    const rng = seededRng(seed);
    let syncs: (() => void)[] = [];
    const disk = new SimDisk({ rng, after: (_ms, run) => void syncs.push(run) });
    const settle = async () => {
      for (let i = 0; i < 10; i++) await Promise.resolve();
    };
    firstFormat(disk, [1, 2].map(old));
    // Durable as the older process left it.
    const file = disk.open(firstFile, { create: false });
    const synced = file.sync();
    syncs.shift()!();
    await synced;
    disk.syncDir(dir);
    for (let deaths = uniform(rng, 4); deaths >= 0; deaths--) {
      open(disk);
      for (let steps = uniform(rng, 4); steps > 0; steps--) {
        await settle();
        syncs.shift()?.();
      }
      await settle();
      syncs = [];
      if (uniform(rng, 2) === 0) disk.kill();
      else disk.crash();
    }
    const wal = open(disk);
    assert.deepEqual(texts(wal), ["old 1", "old 2"], `seed ${seed}`);
  }
});

/** A log with some records, closed. */
async function written(seed: number): Promise<SimDisk> {
  const disk = new SimDisk({ rng: seededRng(seed) });
  await using wal = open(disk);
  for (let i = 1; i <= 3; i++) await append(wal, { group: 1, entries: [entry(i, utf8.encode(`e${i}`))] });
  return disk;
}

Deno.test("a head that is damaged, in any of its bytes, is damage and not an empty log", async () => {
  for (let at = 0; at < segmentHeadBytes; at++) {
    const disk = await written(at + 1);
    disk.flipBit(firstFile, at);
    assert.throws(() => open(disk), { code: "wal_damaged", kind: "data_loss" }, `byte ${at}`);
  }
});

Deno.test("a segment of another log is no part of this one", async () => {
  const disk = await written(1);
  const bytes = (await written(2)).durableBytes(firstFile);
  const head = new DataView(bytes.buffer);
  head.setUint32(4, 2, true);
  head.setUint32(12, crc32c(bytes, 0, 12), true);
  disk.open(`${dir}/0000000002.wal`, { create: true }).writeAt(bytes, 0);
  const wal = open(disk);
  assert.deepEqual(texts(wal), ["e1", "e2", "e3"]);
  assert.deepEqual(disk.list(dir), ["0000000001.wal"], "what holds no record of this log was never part of it");
});
