import assert from "node:assert/strict";
import { type Snapshot } from "@ultracloud/raft";
import { configurationOf } from "@ultracloud/raft";
import { openWal, systemDisk, type Wal } from "@ultracloud/wal";
import { WalLogStore } from "./mod.ts";

const snapshot = (index: number): Snapshot => ({
  meta: { index, term: 1, configuration: configurationOf([1, 2, 3]) },
  data: new TextEncoder().encode(`state at ${index}`),
});
const text = (held: Snapshot | undefined) => held && new TextDecoder().decode(held.data);
const open = (dir: string) =>
  openWal({ dir: `${dir}/wal` }, { disk: systemDisk, onFatal: (error) => assert.fail(error) });
const storeOn = (wal: Wal, dir: string) =>
  new WalLogStore({ group: 7, snapshotDir: `${dir}/snapshots` }, { wal, disk: systemDisk });
const install = (store: WalLogStore, at: number) =>
  new Promise<void>((resolve, reject) =>
    store.installSnapshot(snapshot(at), (error) => error ? reject(error) : resolve())
  );
const files = (dir: string) => [...Deno.readDirSync(`${dir}/snapshots`)].map((entry) => entry.name).sort();

Deno.test("an installed snapshot is there after a restart, and only the newest is kept", async () => {
  const dir = await Deno.makeTempDir();
  try {
    {
      await using wal = open(dir);
      const store = storeOn(wal, dir);
      await install(store, 10);
      await install(store, 20);
      assert.deepEqual(files(dir), ["group-7-20.snapshot"]);
    }
    await using wal = open(dir);
    const store = storeOn(wal, dir);
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
    await install(storeOn(wal, dir), 10);
    // The second file was named, then the process died: its point is not in the log.
    await Deno.copyFile(`${dir}/snapshots/group-7-10.snapshot`, `${dir}/snapshots/group-7-20.snapshot`);
    await Deno.writeTextFile(`${dir}/snapshots/group-7-30.snapshot.new`, "half");
    const again = storeOn(wal, dir);
    assert.equal(text(again.loadSnapshot()), "state at 10");
    assert.deepEqual(files(dir), ["group-7-10.snapshot"]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("a damaged snapshot is data loss, never a state", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await using wal = open(dir);
    await install(storeOn(wal, dir), 10);
    const path = `${dir}/snapshots/group-7-10.snapshot`;
    const bytes = await Deno.readFile(path);
    bytes[bytes.length - 1]! ^= 1;
    await Deno.writeFile(path, bytes);
    assert.throws(() => storeOn(wal, dir), { code: "snapshot_damaged", kind: "data_loss" });
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
