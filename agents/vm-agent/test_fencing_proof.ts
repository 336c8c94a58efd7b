import assert from "node:assert/strict";
import { Fault, systemClock } from "@ultracloud/base";
import type { VmSpec } from "./domain/spec.ts";
import { guestAgent, openGuest } from "./testdata/guest_agent.ts";
import { specFixture } from "./testdata/spec_fixture.ts";
import { until } from "./testdata/tiny_image.ts";
import { alive, image, withWorkers } from "./testdata/workers.ts";

const mib = 2 ** 20;
const root = "vol_01J0000000000000000000000R";
const fails = (code: string) => (error: unknown) => error instanceof Fault && error.code === code;

function specOf(change: Partial<VmSpec>): VmSpec {
  return specFixture({ image: image!.ref, nics: [], userData: guestAgent, diskBytes: 32 * mib, ...change });
}

withWorkers(
  "a worker without its lease ends what others may start, keeps the rest, and no disk has two writers",
  async (workers) => {
    const store = await workers.open("store");
    const a = await workers.open("a");
    const b = await workers.open("b");
    await store.vms.volumes.create(root, 32 * mib, undefined);
    const rootAt = async (epoch: number) => ({
      volumeId: root,
      sizeBytes: 32 * mib,
      readOnly: false,
      source: { kind: "nbd" as const, uri: (await store.vms.volumes.export(root, epoch, false)).uri },
    });
    const shared = specOf({ rootVolume: await rootAt(1) });
    const local = specOf({ vmId: "vm_01J0000000000000000000000K" });
    const asked = specOf({ vmId: "vm_01J0000000000000000000000S", onLeaseLoss: "stop" });
    const ttlMs = 6_000;
    // Renewed while it boots, as heartbeats do.
    const renew = () => a.lease.renewed(systemClock.monotonicMs(), ttlMs);
    await renew();
    const beat = setInterval(renew, 500);
    let lastSentMs: number;
    let pids: number[];
    try {
      for (const spec of [shared, local, asked]) await a.vms.ensure(spec);
      const guest = await openGuest(a.vms, shared.vmId);
      await guest.run("echo from-a >/data/word; sync");
      await guest.run("(while :; do date +%s >/data/beat; sync; done) >/dev/null 2>&1 & echo started");
      pids = [shared, asked].map(({ vmId }) => a.vms.get(vmId).pid);
      lastSentMs = systemClock.monotonicMs();
      await a.lease.renewed(lastSentMs, ttlMs);
    } finally {
      clearInterval(beat);
    }
    // Cut off: no answer comes any more. The control plane's lease ends at the earliest at lastSent + ttl.
    await until("the end of both", 60_000, () => Promise.resolve(!pids.some(alive)));
    const margin = lastSentMs + ttlMs - systemClock.monotonicMs();
    console.log(`ended ${Math.round(margin)} ms before the lease could be granted again (ttl ${ttlMs} ms)`);
    await until("the record", 20_000, () => Promise.resolve(a.vms.get(shared.vmId).state === "failed"));
    assert.equal(a.vms.get(shared.vmId).reason, "ended as the worker lost its lease");
    assert.equal(a.vms.get(local.vmId).state, "running", "nobody else can start what has its disk here");
    await assert.rejects(a.vms.ensure({ ...shared, generation: 2 }), fails("lease_lost"));

    const second = { ...shared, generation: 2, writerEpoch: 2, rootVolume: await rootAt(2) };
    await b.vms.ensure(second);
    const there = await openGuest(b.vms, shared.vmId);
    assert.equal(await there.run("cat /data/word"), "from-a");
    await there.run("echo from-b >/data/word; sync");

    // Back again, the first worker is refused with the epoch it had: by its own stamp or by the disk's.
    await renew();
    await assert.rejects(store.vms.volumes.export(root, 1, false), fails("stale_writer_epoch"));
    await assert.rejects(a.vms.ensure({ ...shared, generation: 3 }), (error) => {
      // The old export is gone, so QEMU finds no disk.
      return error instanceof Fault && error.code === "qemu_failed";
    });
    assert.equal(await there.run("cat /data/word"), "from-b");
  },
);

withWorkers("an agent that comes back after its lease is over ends the VMs before it serves", async (workers) => {
  let a = await workers.open("a");
  const spec = specOf({ onLeaseLoss: "stop" });
  await a.lease.renewed(systemClock.monotonicMs(), 60_000);
  const { pid } = await a.vms.ensure(spec);
  await Deno.writeTextFile(`${a.dir}/state/lease.json`, JSON.stringify({ endAtMs: Date.now() - 1, ttlMs: 6_000 }));
  a = await a.reopen();
  assert.equal(a.vms.get(spec.vmId).state, "failed");
  await until("the end of QEMU", 20_000, () => Promise.resolve(!alive(pid)));
});
