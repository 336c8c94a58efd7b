import assert from "node:assert/strict";
import { configurationOf } from "@ultracloud/raft";
import { openWal, systemDisk, type Wal } from "@ultracloud/wal";
import { type SnapshotFile, WalLogStore } from "./mod.ts";
import { describeFile } from "./snapshot_file.ts";

const text = (held: { data: SnapshotFile } | undefined) => held && Deno.readTextFileSync(held.data.path);
const open = (dir: string) =>
  openWal({ dir: `${dir}/wal` }, { disk: systemDisk, onFatal: (error) => assert.fail(error) });
const storeOn = (wal: Wal, dir: string) =>
  WalLogStore.open({ group: 7, snapshotDir: `${dir}/snapshots` }, { wal, disk: systemDisk });
async function install(store: WalLogStore, dir: string, index: number): Promise<void> {
  const meta = { index, term: 1, configuration: configurationOf([1, 2, 3]) };
  const path = `${dir}/snapshots/arrived`;
  await Deno.writeTextFile(path, `state at ${index}`);
  const data = await describeFile(systemDisk, path);
  await new Promise<void>((resolve, reject) =>
    store.installSnapshot({ meta, data }, (error) => error ? reject(error) : resolve())
  );
}
const files = (dir: string) => [...Deno.readDirSync(`${dir}/snapshots`)].map((entry) => entry.name).sort();

Deno.test("an installed snapshot is there after a restart, and only the newest is kept", async () => {
  const dir = await Deno.makeTempDir();
  try {
    {
      await using wal = open(dir);
      const store = await storeOn(wal, dir);
      await install(store, dir, 10);
      await install(store, dir, 20);
      assert.match(files(dir).join(), /^group-7-20-1-[0-9a-f]{64}\.snapshot$/);
    }
    await using wal = open(dir);
    const store = await storeOn(wal, dir);
    assert.equal(text(store.loadSnapshot()), "state at 20");
    assert.equal(store.initialState().base.index, 20);
    store.releaseSnapshot(20);
    assert.deepEqual(files(dir), []);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("a second install that a crash cuts off before its point is logged leaves the first one readable", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await using wal = open(dir);
    await install(await storeOn(wal, dir), dir, 10);
    // The second file was named, then the process died: its point is not in the log.
    const [first] = files(dir);
    await Deno.copyFile(`${dir}/snapshots/${first}`, `${dir}/snapshots/${first!.replace("-10-", "-20-")}`);
    await Deno.writeTextFile(`${dir}/snapshots/group-7-30-1-${"0".repeat(64)}.partial`, "half");
    await Deno.writeTextFile(`${dir}/snapshots/group-7-1.taken`, "half");
    await Deno.writeTextFile(`${dir}/snapshots/group-77-1.taken`, "of another group");
    const again = await storeOn(wal, dir);
    assert.equal(text(again.loadSnapshot()), "state at 10");
    assert.deepEqual(files(dir), [first, "group-77-1.taken"]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("a damaged snapshot is data loss, never a state", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await using wal = open(dir);
    await install(await storeOn(wal, dir), dir, 10);
    const path = `${dir}/snapshots/${files(dir)[0]}`;
    const bytes = await Deno.readFile(path);
    bytes[bytes.length - 1]! ^= 1;
    await Deno.writeFile(path, bytes);
    await assert.rejects(storeOn(wal, dir), { code: "snapshot_damaged", kind: "data_loss" });
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
