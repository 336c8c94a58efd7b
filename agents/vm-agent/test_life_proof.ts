import assert from "node:assert/strict";
import { Fault, systemClock } from "@ultracloud/base";
import type { VmSpec } from "./domain/spec.ts";
import { consoleText, guestAgent, openGuest } from "./testdata/guest_agent.ts";
import { memoryOn } from "./domain/written_pages.ts";
import { specFixture } from "./testdata/spec_fixture.ts";
import { until } from "./testdata/tiny_image.ts";
import { host, image, withWorkers } from "./testdata/workers.ts";

const mib = 2 ** 20;
const volumeId = "vol_01J0000000000000000000000A";
const snapshotId = "snap_01J0000000000000000000000A";
const fails = (code: string) => (error: unknown) => error instanceof Fault && error.code === code;

function specOf(change: Partial<VmSpec> = {}): VmSpec {
  return specFixture({ image: image!.ref, nics: [], userData: guestAgent, diskBytes: 32 * mib, ...change });
}

withWorkers("a guest is paused, resumed, copied, resized, put back and rebuilt", async (workers) => {
  let worker = await workers.open("a");
  let { vms } = worker;
  await vms.volumes.create(volumeId, 8 * mib, undefined);
  let spec = specOf({
    volumes: [{ volumeId, sizeBytes: 8 * mib, readOnly: false, source: { kind: "local" } }],
  });
  const { vmId } = spec;
  await vms.ensure(spec);
  let guest = await openGuest(vms, vmId);

  await vms.pause(vmId);
  await vms.pause(vmId);
  assert.deepEqual([vms.get(vmId).state, vms.get(vmId).reason], ["paused", ""]);
  worker = await worker.reopen();
  vms = worker.vms;
  assert.equal(vms.get(vmId).state, "paused", "an agent that finds a paused VM leaves it paused");
  spec = { ...spec, generation: 2 };
  assert.equal((await vms.ensure(spec, { applyOnly: true })).state, "paused");
  await vms.machine(vmId).serial.write(new TextEncoder().encode("777 echo later\n"));
  const { nextOffset } = await vms.readConsole(vmId, {
    offset: -1,
    limit: 10,
    waitMs: 0,
    signal: AbortSignal.timeout(9_000),
  });
  assert.equal((await vms.resume(vmId)).state, "running");
  await consoleText(vms, vmId, nextOffset, /UCANS 777 0/, 60_000);
  guest = guest.on(vms);

  const fill = (word: string) =>
    guest.run(`echo ${word} >/data/word; sync; echo ${word} | dd of=/dev/vdc bs=64k conv=notrunc 2>/dev/null; sync`);
  await fill("first");
  const copied = await vms.createSnapshot(vmId, snapshotId);
  assert.deepEqual(copied.disks.map((disk) => [disk.device, disk.sizeBytes]), [["root", 32 * mib], [
    volumeId,
    8 * mib,
  ]]);
  assert.deepEqual((await vms.createSnapshot(vmId, snapshotId)).createdAtMs, copied.createdAtMs);
  const chunks: Uint8Array[] = [];
  for await (const chunk of vms.snapshots.read(snapshotId, "root", 0)) chunks.push(chunk);
  assert.equal(chunks.reduce((sum, chunk) => sum + chunk.length, 0), copied.disks[0]!.bytes);
  await fill("second");
  assert.equal(await guest.run("cat /data/word; head -c 6 /dev/vdc"), "second\nsecond");
  await assert.rejects(vms.restoreSnapshot(vmId, snapshotId), fails("vm_running"));

  assert.equal((await vms.stop(vmId, { force: false, graceMs: 60_000 })).state, "stopped");
  await vms.restoreSnapshot(vmId, snapshotId);
  // Memory and vCPUs of a new spec are those of the next start.
  spec = { ...spec, generation: 3, memoryBytes: 192 * mib, writerEpoch: 2 };
  let from =
    (await vms.readConsole(vmId, { offset: -1, limit: 10, waitMs: 0, signal: AbortSignal.timeout(9_000) })).nextOffset;
  await vms.ensure(spec);
  guest = await openGuest(vms, vmId, { from });
  assert.equal(await guest.run("cat /data/word; head -c 5 /dev/vdc"), "first\nfirst");
  const kib = Number(await guest.run("sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"));
  assert.ok(kib > 150 * 1024, `the guest has ${kib} KiB`);
  spec = { ...spec, generation: 4, memoryBytes: 128 * mib };
  assert.equal((await vms.ensure(spec)).layout!.memoryBytes, memoryOn(host, 192 * mib));

  // A guest that does not hear ACPI has its plug pulled.
  await guest.run("kill -STOP $(pidof dd)");
  const began = systemClock.monotonicMs();
  assert.equal((await vms.stop(vmId, { force: false, graceMs: 1_500 })).state, "stopped");
  assert.ok(systemClock.monotonicMs() - began >= 1_500);

  spec = { ...spec, generation: 5, rootEpoch: 1, writerEpoch: 3 };
  from =
    (await vms.readConsole(vmId, { offset: -1, limit: 10, waitMs: 0, signal: AbortSignal.timeout(9_000) })).nextOffset;
  await vms.ensure(spec);
  guest = await openGuest(vms, vmId, { from });
  assert.equal(await guest.run("cat /data/boots; cat /data/word 2>/dev/null; head -c 5 /dev/vdc"), "1\nfirst");
  await assert.rejects(vms.ensure({ ...spec, generation: 6, rootEpoch: 2 }), fails("vm_running"));
  await vms.removeSnapshot(snapshotId);
  assert.deepEqual(await vms.snapshots.list(""), []);
  assert.deepEqual([...Deno.readDirSync(`${worker.dir}/state/snapshots`)], []);
});

withWorkers("a flood on the console is capped, two readers follow it, and a third types", async (workers) => {
  const worker = await workers.open("a");
  const { vms } = worker;
  const spec = specOf();
  const { vmId } = spec;
  await vms.ensure(spec);
  const guest = await openGuest(vms, vmId);
  await guest.run(
    "(n=0; while [ -e /run/stop ] || true; do n=$((n+1)); echo FLOOD-$n-0123456789abcdefghijklmnopqrstuvwxyz; done) >/dev/ttyS0 2>&1 & echo $! >/run/flood",
  );
  const bytesMax = 64 * 1024;
  const follow = async (bytes: number) => {
    let seen = 0;
    let last = 0;
    for (let offset = -1; seen < bytes;) {
      const slice = await vms.readConsole(vmId, {
        offset,
        limit: 8_192,
        waitMs: 5_000,
        signal: AbortSignal.timeout(60_000),
      });
      const end = slice.offset + slice.data.length;
      assert.equal(slice.nextOffset, end);
      assert.ok(slice.offset >= last, "offsets never run backwards");
      last = offset = slice.nextOffset;
      seen += slice.data.length;
    }
  };
  await Promise.all([follow(5 * bytesMax), follow(5 * bytesMax)]);
  let kept = 0;
  await until("the log within its bound", 30_000, async () => {
    kept = 0;
    for await (const { name } of Deno.readDir(`${worker.dir}/state/vms/${vmId}`)) {
      if (/^console/.test(name)) kept += (await Deno.stat(`${worker.dir}/state/vms/${vmId}/${name}`)).size;
    }
    return kept <= 3 * bytesMax;
  });
  const { offset, nextOffset } = await vms.readConsole(vmId, {
    offset: 0,
    limit: 1 << 20,
    waitMs: 0,
    signal: AbortSignal.timeout(9_000),
  });
  assert.ok(offset > 0 && nextOffset > 5 * bytesMax, "old bytes are gone and offsets count on");
  await vms.machine(vmId).serial.write(new TextEncoder().encode("778 kill $(cat /run/flood); echo typed\n"));
  await consoleText(vms, vmId, nextOffset, /UCANS 778 0/, 60_000);
});
