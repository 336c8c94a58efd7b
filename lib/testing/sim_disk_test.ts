import assert from "node:assert/strict";
import { seededRng } from "@ultracloud/base";
import { SimClock } from "./sim_clock.ts";
import { SimDisk } from "./sim_disk.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

Deno.test("SimDisk keeps what was synced and at most a prefix of the rest across a crash", async () => {
  let lost = 0, torn = 0;
  for (let seed = 0; seed < 200; seed++) {
    const disk = new SimDisk({ rng: seededRng(seed) });
    const file = disk.open("/d/log", { create: true });
    disk.syncDir("/d");
    file.writeAt(bytes("aaaa"), 0);
    await file.sync();
    file.writeAt(bytes("bbbb"), 4);
    file.writeAt(bytes("cccc"), 8);
    disk.crash();
    assert.throws(() => file.size(), /before a crash/);
    const left = new TextDecoder().decode(disk.durableBytes("/d/log"));
    assert.ok("aaaabbbbcccc".startsWith(left) && left.length >= 4, left);
    if (left.length === 4) lost++;
    if (left.length % 4 !== 0) torn++;
  }
  assert.ok(lost > 0 && torn > 0);
});

Deno.test("SimDisk forgets names that were not made durable", () => {
  let gone = 0;
  for (let seed = 0; seed < 20; seed++) {
    const disk = new SimDisk({ rng: seededRng(seed) });
    disk.open("/d/kept", { create: true });
    disk.syncDir("/d");
    disk.open("/d/new", { create: true });
    disk.crash();
    assert.ok(disk.list("/d").includes("kept"));
    if (!disk.list("/d").includes("new")) gone++;
  }
  assert.ok(gone > 0);
});

Deno.test("SimDisk fails syncs, runs full and flips bits when told to", async () => {
  const disk = new SimDisk({ rng: seededRng(1), capacityBytes: 8 });
  const file = disk.open("/log", { create: true });
  file.writeAt(bytes("12345678"), 0);
  assert.throws(() => file.writeAt(bytes("9"), 8), { code: "ENOSPC" });
  disk.failSyncs(1);
  await assert.rejects(file.sync(), { code: "EIO" });
  await file.sync();
  disk.flipBit("/log", 0, 0);
  const into = new Uint8Array(1);
  file.readAt(into, 0);
  assert.equal(into[0], "1".charCodeAt(0) ^ 1);
});

Deno.test("SimClock runs events by time and then by order, and serves code that sleeps", async () => {
  const clock = new SimClock();
  const seen: string[] = [];
  clock.after(5, () => seen.push("b"));
  clock.after(5, () => seen.push("c"));
  clock.after(1, () => seen.push("a"));
  const cancel = clock.after(2, () => seen.push("never"));
  cancel();
  const slept = clock.sleep(10).then(() => seen.push("slept"));
  clock.run(5);
  assert.deepEqual(seen, ["a", "b", "c"]);
  await clock.advance(5);
  await slept;
  assert.equal(clock.monotonicMs(), 10);
  assert.deepEqual(seen, ["a", "b", "c", "slept"]);
  const stop = new AbortController();
  const aborted = clock.sleep(10, stop.signal);
  stop.abort(new Error("enough"));
  await assert.rejects(aborted, /enough/);
});
