import { testUnless } from "@ultracloud/testing";
import { AlarmAction, AlarmType } from "@ultracloud/proto/chainfire/v1";
import assert from "node:assert/strict";
import { b, eventually, rejects } from "./_test_support.ts";
import { prepareCluster } from "./test_cluster.ts";

const mebi = 2 ** 20;
/** Small bounds for a small file system. */
const small = { diskBytesFreeMin: 32 * mebi, diskReserveBytes: 16 * mebi };

async function run(program: string, ...args: string[]): Promise<boolean> {
  try {
    return (await new Deno.Command(program, { args, stdout: "null", stderr: "null" }).output()).success;
  } catch {
    return false;
  }
}

/** A file system of its own, as only root may mount one; undefined where that is not possible. */
async function mountSmall(dir: string, bytes: number): Promise<AsyncDisposable | undefined> {
  if (!await run("mount", "-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", dir)) return undefined;
  return { [Symbol.asyncDispose]: async () => void await run("umount", "-l", dir) };
}

async function whyNot(): Promise<string | undefined> {
  const dir = await Deno.makeTempDir();
  try {
    await using mounted = await mountSmall(dir, mebi);
    return mounted ? undefined : "mounting a small file system needs root";
  } finally {
    await Deno.remove(dir);
  }
}

testUnless("a full disk refuses writes, not reads, and the process lives to serve again", await whyNot(), async () => {
  await using cluster = await prepareCluster(1, small);
  const dir = cluster.stateDir(1);
  await using _mounted = await mountSmall(dir, 192 * mebi);
  await cluster.startAll();
  const { kv, maintenance, cluster: status } = cluster.clients();
  await eventually(async () => (await Deno.stat(`${dir}/reserve`).catch(() => undefined))?.size === 16 * mebi);
  await kv.put({ key: b("k"), value: b("1") });

  // Someone else fills the disk.
  const ballast = `${dir}/ballast`;
  {
    using file = await Deno.open(ballast, { create: true, write: true });
    const chunk = new Uint8Array(mebi);
    const { diskBytesFree } = await status.status({});
    for (let left = Number(diskBytesFree) - 28 * mebi; left > 0; left -= mebi) await file.write(chunk);
  }
  const refused = () => kv.put({ key: b("k"), value: b("2") }).then(() => false, (error) => error.code === "no_space");
  await eventually(refused);
  const alarmed = async () => (await maintenance.alarm({ action: AlarmAction.GET })).alarms.map(({ type }) => type);
  await eventually(async () => (await alarmed()).includes(AlarmType.NOSPACE));
  assert.equal((await kv.range({ key: b("k") })).count, 1n);
  // As long as it is full the alarm comes back.
  await maintenance.alarm({ action: AlarmAction.DEACTIVATE });
  await eventually(async () => (await alarmed()).includes(AlarmType.NOSPACE));

  // Nearer to the end the reserve is given up, and every write is refused.
  {
    using file = await Deno.open(ballast, { append: true });
    const chunk = new Uint8Array(64 * 1024);
    const from = Number((await status.status({})).diskBytesFree);
    for (let left = from - 10 * mebi; left > 0; left -= chunk.length) await file.write(chunk);
  }
  await eventually(async () => (await Deno.stat(`${dir}/reserve`).catch(() => undefined)) === undefined);
  await rejects(kv.put({ key: b("k"), value: b("3") }), "resource_exhausted", "no_space");
  assert.equal((await kv.range({ key: b("k") })).count, 1n);

  await Deno.remove(ballast);
  await eventually(async () => {
    await maintenance.alarm({ action: AlarmAction.DEACTIVATE });
    return await kv.put({ key: b("k"), value: b("4") }).then(() => true, () => false);
  });
  await eventually(async () => (await Deno.stat(`${dir}/reserve`).catch(() => undefined))?.size === 16 * mebi);

  // And it fills the disk itself: the writer is told, nothing ends.
  const value = new Uint8Array(200_000);
  let written = 0;
  await eventually(async () => {
    try {
      await kv.put({ key: b(`big${written}`), value });
      written++;
      return false;
    } catch (error) {
      assert.equal((error as { code: string }).code, "no_space", (await cluster.log(1)).slice(-2_000));
      return true;
    }
  });
  assert.ok(written > 10, `${written} values of 200 kB`);
  assert.equal((await kv.range({ key: b("big"), rangeEnd: b("bih"), countOnly: true })).count, BigInt(written));
  await cluster.kill(1);
  await cluster.start(1);
  const after = await cluster.clients().kv.range({ key: b("big"), rangeEnd: b("bih"), countOnly: true });
  assert.equal(after.count, BigInt(written), "what was acknowledged on a full disk is there after a kill");
});
