import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { isOver, type MigrationRecord } from "./domain/migration.ts";
import type { VmSpec } from "./domain/spec.ts";
import type { Vms } from "./vms.ts";
import { consoleText, type Guest, guestAgent, openGuest } from "./testdata/guest_agent.ts";
import { specFixture } from "./testdata/spec_fixture.ts";
import { until } from "./testdata/tiny_image.ts";
import { image, withWorkers, type Workers } from "./testdata/workers.ts";

const mib = 2 ** 20;
const volumeId = "vol_01J0000000000000000000000A";
const migrationId = (n: number) => `mig_01J000000000000000000000${String(n).padStart(2, "0")}`;
const fails = (code: string) => (error: unknown) => error instanceof Fault && error.code === code;

/** Counts in the guest's memory, and writes each number to its root disk. */
const counting = guestAgent +
  `
(
  n=0
  while :; do
    n=$((n + 1)); echo $n >/run/count; mv /run/count /run/counter; echo $n >>/data/counter
    sleep 0.05
  done
) &
`;

function specOf(change: Partial<VmSpec> = {}): VmSpec {
  return specFixture({ image: image!.ref, nics: [], userData: counting, diskBytes: 32 * mib, ...change });
}

const counterOf = async (guest: Guest) => Number(await guest.run("cat /run/counter"));

/** The guest's kernel has found nothing in its memory that it did not expect, and nor do its commands. */
async function sound(guest: Guest): Promise<void> {
  assert.equal(await guest.run("dmesg | grep -E 'Oops|BUG|WARNING|general protection|segfault|Bad page' || true"), "");
}

async function move(
  from: Vms,
  to: Vms,
  spec: VmSpec,
  options: { id: string; storage: "shared" | "mirror"; hold?: boolean; bandwidth?: number },
): Promise<void> {
  const { id, storage } = options;
  const layout = from.get(spec.vmId).layout!;
  const endpoints = await to.prepareIncoming(spec, { id, storage, layout, deadlineMs: 0 });
  assert.deepEqual(await to.prepareIncoming(spec, { id, storage, layout, deadlineMs: 0 }), endpoints);
  await from.startMigration(spec.vmId, {
    id,
    storage,
    endpoints,
    targetWriterEpoch: spec.writerEpoch,
    autoConverge: true,
    bandwidthBytesPerSecond: options.bandwidth ?? 0,
    maxDowntimeMs: 100,
    hold: options.hold ?? false,
    deadlineMs: 120_000,
  });
}

const over = (vms: Vms, vmId: string, id: string) =>
  until("the end of the migration", 120_000, () => {
    const { record } = vms.migration(vmId, id);
    return Promise.resolve(isOver(record.phase) && record);
  });

function show(what: string, record: MigrationRecord): void {
  console.log(`${what}: downtime ${record.downtimeMs} ms, total ${Math.round(record.totalMs)} ms`);
}

async function pair(workers: Workers) {
  return [(await workers.open("a")).vms, (await workers.open("b")).vms] as const;
}

withWorkers("a guest moves with its local disks, counts on, and moves back", async (workers) => {
  const [a, b] = await pair(workers);
  const spec = specOf({
    volumes: [{ volumeId, sizeBytes: 8 * mib, readOnly: false, source: { kind: "local" } }],
  });
  await a.volumes.create(volumeId, 8 * mib, undefined);
  await a.ensure(spec);
  const guest = await openGuest(a, spec.vmId);
  await guest.run("dd if=/dev/urandom of=/dev/vdc bs=64k count=32 2>/dev/null; sync");
  const digest = await guest.run("sha256sum </dev/vdc");
  const before = await counterOf(guest);

  const there = { ...spec, writerEpoch: 2, generation: 2 };
  await move(a, b, there, { id: migrationId(1), storage: "mirror", hold: true });
  const held = await until("the switchover", 120_000, () => {
    const { record } = a.migration(spec.vmId, migrationId(1));
    assert.ok(!isOver(record.phase), record.reason);
    return Promise.resolve(record.phase === "switchover" && record);
  });
  assert.equal(held.phase, "switchover");
  await assert.rejects(b.finishMigration(spec.vmId, migrationId(1)), fails("migration_not_completed"));
  const { record } = await a.finishMigration(spec.vmId, migrationId(1));
  show("mirrored disks", record);
  assert.equal((await over(b, spec.vmId, migrationId(1))).phase, "completed");
  await b.finishMigration(spec.vmId, migrationId(1));
  const moved = guest.on(b);
  const after = await counterOf(moved);
  assert.ok(after >= before, `the counter went from ${before} to ${after}`);
  await until("the counter to go on", 30_000, async () => await counterOf(moved) > after);
  await sound(moved);
  assert.equal(await moved.run("sha256sum </dev/vdc"), digest);
  assert.equal(a.get(spec.vmId).state, "stopped");
  await assert.rejects(a.ensure({ ...spec, generation: 9, writerEpoch: 9 }), fails("vm_moved"));
  await assert.rejects(b.abortIncoming(spec.vmId, migrationId(1)), fails("migration_decided"));
  await a.remove(spec.vmId);
  await a.volumes.remove(volumeId);

  const back = { ...there, writerEpoch: 3, generation: 3 };
  await move(b, a, back, { id: migrationId(2), storage: "mirror" });
  const home = await over(b, spec.vmId, migrationId(2));
  show("and back", home);
  assert.equal(home.phase, "completed", home.reason);
  await over(a, spec.vmId, migrationId(2));
  assert.equal(await guest.on(a).run("sha256sum </dev/vdc"), digest);
  // No number is missing on the disk: it was written while the guest moved, too.
  assert.equal(await guest.on(a).run("sync; awk 'NR != $1 { bad++ } END { print bad + 0 }' /data/counter"), "0");
});

withWorkers(
  "a guest moves with shared disks; cancelling and a target that dies leave it where it was",
  async (workers) => {
    const [a, b] = await pair(workers);
    const size = 32 * mib;
    const root = "vol_01J0000000000000000000000R";
    await a.volumes.create(root, size, undefined);
    const rootAt = async (epoch: number) => ({
      volumeId: root,
      sizeBytes: size,
      readOnly: false,
      source: { kind: "nbd" as const, uri: (await a.volumes.export(root, epoch, true)).uri },
    });
    const spec = specOf({ rootVolume: await rootAt(1) });
    const { pid } = await a.ensure(spec);
    const guest = await openGuest(a, spec.vmId);
    const { vmId } = spec;

    // Slow enough to be cancelled on the way.
    const second = { ...spec, generation: 2, writerEpoch: 2, rootVolume: await rootAt(2) };
    await move(a, b, second, { id: migrationId(1), storage: "shared", bandwidth: mib });
    await until("memory on its way", 60_000, () => {
      return Promise.resolve(a.migration(vmId, migrationId(1)).progress.memoryTransferredBytes > 0);
    });
    assert.equal(a.get(vmId).state, "migrating");
    await assert.rejects(a.pause(vmId), fails("vm_migrating"));
    assert.equal((await a.cancelMigration(vmId, migrationId(1))).record.phase, "cancelled");
    await until("the target to see it", 30_000, () => Promise.resolve(b.get(vmId).state === "failed"));
    await b.abortIncoming(vmId, migrationId(1));
    assert.deepEqual(b.list(), []);
    assert.deepEqual([a.get(vmId).state, a.get(vmId).pid], ["running", pid]);
    const cancelled = await counterOf(guest);

    const third = { ...spec, generation: 3, writerEpoch: 3, rootVolume: await rootAt(3) };
    await move(a, b, third, { id: migrationId(2), storage: "shared", bandwidth: mib });
    await until("memory on its way", 60_000, () => {
      return Promise.resolve(a.migration(vmId, migrationId(2)).progress.memoryTransferredBytes > 0);
    });
    Deno.kill(b.get(vmId).pid, "SIGKILL");
    const failed = await over(a, vmId, migrationId(2));
    assert.equal(failed.phase, "failed");
    assert.notEqual(failed.reason, "");
    assert.equal(a.get(vmId).state, "running");
    assert.ok(await counterOf(guest) > cancelled, "the guest counts on");
    await b.abortIncoming(vmId, migrationId(2));

    const fourth = { ...spec, generation: 4, writerEpoch: 4, rootVolume: await rootAt(4) };
    const before = await counterOf(guest);
    await move(a, b, fourth, { id: migrationId(3), storage: "shared" });
    const done = await over(a, vmId, migrationId(3));
    show("shared disks", done);
    assert.equal(done.phase, "completed", done.reason);
    await over(b, vmId, migrationId(3));
    // The source's way to the disk is closed; the guest does not notice.
    await a.volumes.unexport(root, 3);
    assert.deepEqual((await a.volumes.list())[0]!.exports.map((one) => one.writerEpoch), [4]);
    assert.ok(await counterOf(guest.on(b)) >= before);
    await guest.on(b).run("sync");
    await a.remove(vmId);
    assert.equal((await b.stop(vmId, { force: false, graceMs: 60_000 })).state, "stopped");
    await assert.rejects(b.ensure({ ...fourth, generation: 5, writerEpoch: 3 }), fails("stale_writer_epoch"));
  },
);

withWorkers("a guest moves by TCP and TLS with its local disk; without its key nothing arrives", async (workers) => {
  const { vms: a } = await workers.open("a", { migration: { address: "127.0.0.2", portFirst: 47_300 } });
  const { vms: b } = await workers.open("b", { migration: { address: "127.0.0.3", portFirst: 47_300 } });
  const spec = specOf();
  const { vmId } = spec;
  const { pid } = await a.ensure(spec);
  const guest = await openGuest(a, vmId);
  const before = await counterOf(guest);

  // A source that has another key than the target made.
  const there = { ...spec, writerEpoch: 2, generation: 2 };
  const options = { id: migrationId(1), storage: "mirror", layout: a.get(vmId).layout!, deadlineMs: 0 } as const;
  const endpoints = await b.prepareIncoming(there, options);
  assert.match(endpoints.stateUri, /^tcp:127\.0\.0\.3:47300$/);
  assert.match(endpoints.psk!, /^[0-9a-f]{64}$/);
  const start = (id: string, psk: string) =>
    a.startMigration(vmId, {
      id,
      storage: "mirror",
      endpoints: { ...endpoints, psk },
      targetWriterEpoch: 2,
      autoConverge: true,
      bandwidthBytesPerSecond: 0,
      maxDowntimeMs: 100,
      hold: false,
      deadlineMs: 60_000,
    });
  await start(migrationId(1), "0".repeat(64));
  const refused = await over(a, vmId, migrationId(1));
  assert.equal(refused.phase, "failed");
  console.log(`with another key: ${refused.reason}`);
  assert.deepEqual([a.get(vmId).state, a.get(vmId).pid], ["running", pid]);
  await b.abortIncoming(vmId, migrationId(1));

  await move(a, b, { ...there, generation: 3, writerEpoch: 3 }, { id: migrationId(2), storage: "mirror" });
  const done = await over(a, vmId, migrationId(2));
  show("by TLS over TCP, disk mirrored", done);
  assert.equal(done.phase, "completed", done.reason);
  assert.equal((await over(b, vmId, migrationId(2))).endpoints.psk, undefined, "a key that was used is forgotten");
  assert.ok(await counterOf(guest.on(b)) >= before);
  const keys = (name: string) =>
    [...Deno.readDirSync(`${workers.dir}/${name}/run`)].flatMap((slot) =>
      [...Deno.readDirSync(`${workers.dir}/${name}/run/${slot.name}`)].filter((file) => file.name.endsWith(".psk"))
    );
  assert.deepEqual([...keys("a"), ...keys("b")], []);
});

withWorkers("agents that die while a guest moves find it and carry on", async (workers) => {
  let a = await workers.open("a");
  let b = await workers.open("b");
  const spec = specOf();
  const { vmId } = spec;
  await a.vms.ensure(spec);
  const guest = await openGuest(a.vms, vmId);
  const id = migrationId(1);
  await move(a.vms, b.vms, { ...spec, generation: 2, writerEpoch: 2 }, {
    id,
    storage: "mirror",
    bandwidth: 4 * mib,
  });
  a = await a.reopen();
  await until("memory on its way", 90_000, () => {
    const view = a.vms.migration(vmId, id);
    return Promise.resolve(view.record.phase === "memory" && view.progress.memoryTransferredBytes > 0);
  });
  a = await a.reopen();
  b = await b.reopen();
  assert.equal(b.vms.get(vmId).state, "migrating");
  const { record } = await a.vms.finishMigration(vmId, id);
  assert.equal(record.phase, "completed");
  await over(b.vms, vmId, id);
  const now = await counterOf(guest.on(b.vms));
  await until("the counter to go on", 30_000, async () => await counterOf(guest.on(b.vms)) > now);
  await sound(guest.on(b.vms));
  assert.match(await consoleText(b.vms, vmId, 0, /UCANS/, 10_000), /UCANS/);
});

withWorkers(
  "what a target cannot take in is refused, and a guest that never comes is waited for no longer",
  async (workers) => {
    const [a, b] = await pair(workers);
    const spec = specOf();
    await a.ensure(spec);
    const { vmId } = spec;
    const layout = a.get(vmId).layout!;
    const incoming = { id: migrationId(1), storage: "mirror", layout, deadlineMs: 0 } as const;
    await assert.rejects(b.prepareIncoming(spec, { ...incoming, storage: "shared" }), fails("storage_not_shared"));
    await assert.rejects(
      b.prepareIncoming(spec, { ...incoming, layout: { ...layout, ports: {} } }),
      fails("layout_differs"),
    );
    assert.deepEqual(b.list(), []);
    const start = (uri: string, targetWriterEpoch = 2) =>
      a.startMigration(vmId, {
        id: migrationId(1),
        storage: "mirror",
        endpoints: { stateUri: uri, mirrors: [{ device: "root", uri: "nbd+unix:///x?socket=/nowhere" }] },
        targetWriterEpoch,
        autoConverge: true,
        bandwidthBytesPerSecond: 0,
        maxDowntimeMs: 100,
        hold: false,
        deadlineMs: 0,
      });
    await assert.rejects(start("exec:touch /tmp/x"), fails("invalid_field"));
    await assert.rejects(start("unix:/nowhere", 1), fails("writer_epoch_not_higher"));
    await start("unix:/nowhere");
    assert.equal((await over(a, vmId, migrationId(1))).phase, "failed");
    assert.equal(a.get(vmId).state, "running");

    await b.prepareIncoming({ ...spec, writerEpoch: 2 }, { ...incoming, deadlineMs: 500 });
    assert.match((await over(b, vmId, migrationId(1))).reason, /no guest came/);
    await b.abortIncoming(vmId, migrationId(1));
    await b.abortIncoming(vmId, migrationId(1));
    assert.deepEqual([...Deno.readDirSync(`${workers.dir}/b/run`)], []);
    assert.deepEqual([...Deno.readDirSync(`${workers.dir}/b/state/vms`)], []);
  },
);
