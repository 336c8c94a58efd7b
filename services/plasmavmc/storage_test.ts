import assert from "node:assert/strict";
import { fault, toHex } from "@ultracloud/base";
import { OperationState } from "@ultracloud/proto/common/v1";
import { FetchService } from "@ultracloud/proto/fetcher/v1";
import { ImageFormat, SnapshotState, VmState, VolumeState } from "@ultracloud/proto/plasmavmc/v1";
import { bind } from "@ultracloud/rpc";
import { inProcessClient } from "@ultracloud/testing";
import type { Fetcher } from "./fetch_saga.ts";
import { bundle } from "./test_bundles.ts";
import { code, importImage, nothing, over, project, register, until, vmRequest, World } from "./test_world.ts";

const mib = 1024n ** 2n;

async function ready(nodes: readonly string[] = ["node01"], fetcher?: Fetcher) {
  const world = await World.open();
  world.fetcher = fetcher;
  const process = await world.boot();
  for (const node of nodes) await register(process, node);
  await importImage(process);
  const stack = new AsyncDisposableStack();
  stack.use(world);
  stack.use(process);
  const done = async (work: Promise<Parameters<typeof over>[1]>) => {
    const operation = await over(process, await work);
    assert.equal(operation.state, OperationState.DONE, operation.error?.message);
    return operation;
  };
  const failed = async (work: Promise<Parameters<typeof over>[1]>) => (await over(process, await work)).error?.code;
  return { world, process, stack, done, failed };
}

Deno.test("a volume is made, attached live, grown, detached and deleted without a trace", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  const { vms, volumes } = process;
  await done(vms.createVm(vmRequest));
  await done(volumes.createVolume({ project, name: "data", sizeBytes: 64n * mib }));
  assert.equal((await process.nodes.getNode({ name: "node01" })).allocated!.diskBytes, 64n * mib);
  await done(vms.attachVolume({ project, vm: "web", volume: "data" }));
  const vm = await vms.getVm({ project, vm: "web" });
  const volume = await volumes.getVolume({ project, volume: "data" });
  assert.deepEqual([volume.state, volume.vm, vm.volumes[0]!.volume], [VolumeState.IN_USE, "web", "data"]);
  const agent = world.agent("node01");
  assert.deepEqual(agent.vms.get(vm.meta!.id)!.spec.volumes.map((v) => v.source.case), ["local"]);
  await done(volumes.growVolume({ project, volume: "data", sizeBytes: 128n * mib }));
  assert.equal(agent.vms.get(vm.meta!.id)!.spec.volumes[0]!.sizeBytes, 128n * mib);
  assert.equal((await process.nodes.getNode({ name: "node01" })).allocated!.diskBytes, 128n * mib);
  assert.equal(await code(volumes.deleteVolume({ project, volume: "data" })), "failed_precondition/volume_in_use");
  assert.equal(
    await code(vms.attachVolume({ project, vm: "web", volume: "data" })),
    "failed_precondition/volume_in_use",
  );
  await done(vms.detachVolume({ project, vm: "web", volume: "data" }));
  assert.deepEqual(agent.vms.get(vm.meta!.id)!.spec.volumes, []);
  await done(vms.deleteVm({ project, vm: "web" }));
  await done(volumes.deleteVolume({ project, volume: "data" }));
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("volumes a VM is deleted with stay and can be attached to another, under a higher epoch", async () => {
  const { world, process, stack, done } = await ready(["node01", "node02"]);
  await using _ = stack;
  const { vms, volumes } = process;
  await done(volumes.createVolume({ project, name: "data", sizeBytes: 64n * mib, shared: true }));
  await done(vms.createVm({ ...vmRequest, volumes: [{ volume: "data" }] }));
  const first = (await vms.getVm({ project, vm: "web" })).writerEpoch;
  assert.equal(
    await code(vms.createVm({ ...vmRequest, name: "two", volumes: [{ volume: "data" }] })),
    "failed_precondition/volume_in_use",
  );
  await done(vms.deleteVm({ project, vm: "web" }));
  assert.equal((await volumes.getVolume({ project, volume: "data" })).state, VolumeState.AVAILABLE);
  await done(vms.createVm({ ...vmRequest, name: "two", volumes: [{ volume: "data" }] }));
  assert.ok((await vms.getVm({ project, vm: "two" })).writerEpoch > first);
  await done(vms.deleteVm({ project, vm: "two" }));
  await done(volumes.deleteVolume({ project, volume: "data" }));
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("bad volumes are refused before anything happens", async () => {
  const { world, process, stack, done } = await ready(["node01", "node02"]);
  await using _ = stack;
  const { vms, volumes } = process;
  const make = (o: object) => code(volumes.createVolume({ project, name: "bad", sizeBytes: 64n * mib, ...o }));
  assert.equal(await make({ sizeBytes: 0n }), "invalid_argument/invalid_field");
  assert.equal(await make({ sizeBytes: mib + 1n }), "invalid_argument/invalid_field");
  assert.equal(await make({ sizeBytes: 1n << 60n }), "invalid_argument/invalid_field");
  assert.equal(await make({ node: "none" }), "not_found/node_not_found");
  assert.equal(await make({ node: "node01", nearVm: "web" }), "invalid_argument/invalid_field");
  assert.equal(await make({ image: "tiny" }), "invalid_argument/invalid_field");
  assert.equal(await make({ name: "Bad" }), "invalid_argument/invalid_name");
  await done(vms.createVm(vmRequest));
  const { node } = await vms.getVm({ project, vm: "web" });
  const other = node === "node01" ? "node02" : "node01";
  await done(volumes.createVolume({ project, name: "far", sizeBytes: mib, node: other }));
  assert.equal(
    await code(vms.attachVolume({ project, vm: "web", volume: "far" })),
    "failed_precondition/volume_elsewhere",
  );
  assert.equal(
    await code(vms.detachVolume({ project, vm: "web", volume: "far" })),
    "failed_precondition/volume_not_attached",
  );
  assert.equal(
    await code(volumes.growVolume({ project, volume: "far", sizeBytes: mib })),
    "invalid_argument/invalid_field",
  );
  await done(volumes.createVolume({ project, name: "near", sizeBytes: mib, nearVm: "web" }));
  assert.equal((await volumes.getVolume({ project, volume: "near" })).node, node);
  assert.equal(
    await code(vms.createVm({ ...vmRequest, name: "two", volumes: [{ volume: "far" }, { volume: "near" }] })),
    "failed_precondition/volumes_apart",
  );
  assert.equal(
    await code(vms.createVm({ ...vmRequest, name: "two", volumes: [{ volume: "far" }, { volume: "far" }] })),
    "failed_precondition/volume_in_use",
  );
  // A disk has one writer: neither another VM nor its own gets it once more, however it is asked for.
  await done(vms.attachVolume({ project, vm: "web", volume: "near" }));
  const again = [
    vms.attachVolume({ project, vm: "web", volume: "near" }),
    vms.createVm({ ...vmRequest, name: "two", volumes: [{ volume: "near" }] }),
  ];
  for (const call of again) assert.equal(await code(call), "failed_precondition/volume_in_use");
  const { operations } = await process.operations.listOperations({ project });
  assert.equal(operations.filter(({ state }) => state < OperationState.DONE).length, 0);
  assert.equal(world.agent("node01").volumes.size + world.agent("node02").volumes.size, 2);
});

Deno.test("a volume nobody can plug in is taken back, and one the guest holds on to stays", async () => {
  const { world, process, stack, done, failed } = await ready();
  await using _ = stack;
  const { vms, volumes } = process;
  await done(vms.createVm(vmRequest));
  await done(volumes.createVolume({ project, name: "data", sizeBytes: mib, shared: true }));
  const agent = world.agent("node01");
  let refuse = true;
  agent.hook = (call) => {
    if (call === "ensure" && refuse) {
      refuse = false;
      throw fault("failed_precondition", "no_slot", "Cannot plug it in");
    }
  };
  assert.equal(await failed(vms.attachVolume({ project, vm: "web", volume: "data" })), "no_slot");
  assert.equal((await volumes.getVolume({ project, volume: "data" })).state, VolumeState.AVAILABLE);
  assert.deepEqual((await vms.getVm({ project, vm: "web" })).volumes, []);
  const [volumeId] = agent.volumes.keys();
  assert.equal(agent.volumes.get(volumeId!)!.exports.size, 0);
  await done(vms.attachVolume({ project, vm: "web", volume: "data" }));
  refuse = true;
  assert.equal(await failed(vms.detachVolume({ project, vm: "web", volume: "data" })), "no_slot");
  assert.equal((await volumes.getVolume({ project, volume: "data" })).state, VolumeState.IN_USE);
  assert.equal((await vms.getVm({ project, vm: "web" })).volumes.length, 1);
});

Deno.test("a volume nobody knows is removed from its worker", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  const agent = world.agent("node01");
  agent.volumes.set("vol_01J00000000000000000000000", { sizeBytes: 1n, epoch: 0n, exports: new Map([[1n, "x"]]) });
  agent.snapshots.set("snap_01J00000000000000000000000", { vmId: "vm", devices: [] });
  await until("both are gone", () => agent.volumes.size === 0 && agent.snapshots.size === 0);
  assert.equal((await process.nodes.getNode({ name: "node01" })).allocated!.diskBytes, 0n);
});

Deno.test("a NIC is plugged in and out of a running VM", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  const { vms } = process;
  await done(vms.createVm(vmRequest));
  await done(vms.attachNic({ project, vm: "web", subnet: "back" }));
  const vm = await vms.getVm({ project, vm: "web" });
  assert.equal(vm.nics.length, 2);
  const spec = () => world.agent("node01").vms.get(vm.meta!.id)!.spec;
  assert.equal(spec().nics.length, 2);
  assert.equal(await code(vms.detachNic({ project, vm: "web", portId: "port_x" })), "not_found/nic_not_found");
  await done(vms.detachNic({ project, vm: "web", portId: vm.nics[1]!.portId }));
  assert.deepEqual(spec().nics.map((n) => n.portId), [vm.nics[0]!.portId]);
  assert.equal(world.network.ports.size, 1);
  await done(vms.deleteVm({ project, vm: "web" }));
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("a snapshot is taken, restored to a stopped VM and deleted; a VM takes its snapshots with it", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  const { vms, snapshots, volumes } = process;
  await done(vms.createVm(vmRequest));
  const take = (name: string) => snapshots.createSnapshot({ project, name, vm: "web" });
  assert.equal(await code(take("none")), "failed_precondition/vm_diskless");
  await done(volumes.createVolume({ project, name: "data", sizeBytes: mib }));
  await done(vms.attachVolume({ project, vm: "web", volume: "data" }));
  await done(take("first"));
  assert.equal(await code(take("first")), "already_exists/snapshot_exists");
  const seen = await snapshots.getSnapshot({ project, snapshot: "first" });
  assert.deepEqual([seen.state, seen.sizeBytes, seen.volumeIds.length], [SnapshotState.READY, 512n, 1]);
  assert.equal(
    await code(snapshots.restoreSnapshot({ project, snapshot: "first" })),
    "failed_precondition/vm_not_stopped",
  );
  await done(vms.stopVm({ project, vm: "web" }));
  await done(snapshots.restoreSnapshot({ project, snapshot: "first" }));
  assert.ok(world.agent("node01").calls.includes("restore"));
  await done(snapshots.deleteSnapshot({ project, snapshot: "first" }));
  assert.equal(world.agent("node01").snapshots.size, 0);
  await done(take("second"));
  await done(vms.deleteVm({ project, vm: "web" }));
  assert.deepEqual((await snapshots.listSnapshots({ project })).snapshots, []);
  await done(volumes.deleteVolume({ project, volume: "data" }));
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("a snapshot of one volume leaves the VM's other disks alone", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  const { vms, snapshots, volumes } = process;
  await done(vms.createVm(vmRequest));
  for (const name of ["one", "two", "free"]) await done(volumes.createVolume({ project, name, sizeBytes: mib }));
  for (const name of ["one", "two"]) await done(vms.attachVolume({ project, vm: "web", volume: name }));
  const take = (name: string, volume: string) => snapshots.createSnapshot({ project, name, vm: "web", volume });
  assert.equal(await code(take("none", "free")), "invalid_argument/invalid_field");
  await done(take("of-one", "one"));
  const { meta } = await volumes.getVolume({ project, volume: "one" });
  const seen = await snapshots.getSnapshot({ project, snapshot: "of-one" });
  assert.deepEqual([seen.volumeIds, seen.volumesOnly], [[meta!.id], true]);
  assert.deepEqual([...world.agent("node01").snapshots.values()].map((s) => s.devices), [[meta!.id]]);
  await done(take("of-all", ""));
  const all = await snapshots.getSnapshot({ project, snapshot: "of-all" });
  assert.deepEqual([all.volumeIds.length, all.volumesOnly], [2, false]);
  const publish = (volume: string) =>
    process.intake.publishImage({ project, name: "again", snapshot: "of-one", volume });
  assert.equal(await code(publish("")), "invalid_argument/invalid_field");
  assert.equal(await code(publish("two")), "invalid_argument/invalid_field");
});

Deno.test("a schedule takes snapshots by itself and keeps the newest", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  const { vms, snapshots, volumes } = process;
  await done(vms.createVm(vmRequest));
  await done(volumes.createVolume({ project, name: "data", sizeBytes: mib }));
  await done(vms.attachVolume({ project, vm: "web", volume: "data" }));
  const schedule = { project, name: "often", vm: "web", intervalMs: 1000n, keep: 2 };
  assert.equal(
    await code(snapshots.createSnapshotSchedule({ ...schedule, intervalMs: 1n })),
    "invalid_argument/invalid_field",
  );
  assert.equal(
    await code(snapshots.createSnapshotSchedule({ ...schedule, keep: 0 })),
    "invalid_argument/invalid_field",
  );
  await snapshots.createSnapshotSchedule(schedule);
  const names = async () =>
    (await snapshots.listSnapshots({ project })).snapshots.filter((s) => s.state === SnapshotState.READY)
      .map((s) => s.meta!.name).sort();
  const first = await (async () => {
    await until("there is one", async () => (await names()).length > 0);
    return (await names())[0]!;
  })();
  await until("the first has gone and two stay", async () => {
    const now = await names();
    return now.length === 2 && !now.includes(first);
  });
  await snapshots.deleteSnapshotSchedule({ project, schedule: "often" });
  await until("nothing is under way", async () => (await world.leftovers(process.platform)).active === 0);
  await until("two copies stay", () => world.agent("node01").snapshots.size === 2);
});

Deno.test("a volume becomes an image by a snapshot that goes again", async () => {
  const { world, process, stack, done, failed } = await ready();
  await using _ = stack;
  const { vms, volumes, intake } = process;
  await done(volumes.createVolume({ project, name: "data", sizeBytes: mib }));
  await done(vms.createVm({ ...vmRequest, volumes: [{ volume: "data" }] }));
  assert.equal(
    await code(intake.publishImage({ project, name: "mine", vm: "web" })),
    "invalid_argument/invalid_field",
  );
  // What the test's worker reads out is no qcow2 image: the probe is the same as for an upload.
  assert.equal(
    await failed(intake.publishImage({ project, name: "mine", vm: "web", volume: "data" })),
    "image_malformed",
  );
  assert.equal(world.agent("node01").snapshots.size, 0);
  assert.equal((await vms.getVm({ project, vm: "web" })).operation, "");
  assert.equal((await vms.getVm({ project, vm: "web" })).state, VmState.RUNNING);
  assert.equal(
    await code(intake.fetchImage({ project, name: "far", url: "https://images.example/", format: ImageFormat.RAW })),
    "failed_precondition/no_fetcher",
  );
});

Deno.test("an image is fetched by whoever may, and is taken only as what it was said to be", async () => {
  const content = new Uint8Array(bundle());
  const sha256 = toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", content)));
  const asked: { url: string; allowPlain: boolean }[] = [];
  let cut = 0;
  const service = bind(FetchService, {
    async *fetch({ url, allowPlain, bytesMax }) {
      asked.push({ url, allowPlain });
      if (url.includes("inside")) throw fault("permission_denied", "address_refused", "Cannot fetch from the inside");
      assert.ok(bytesMax > 0n);
      yield { part: { case: "head", value: { bytes: BigInt(content.length) } } };
      yield { part: { case: "chunk", value: content.subarray(0, 100) } };
      if (cut-- > 0) throw fault("unavailable", "content_cut_off", "Cannot fetch more");
      yield await Promise.resolve({ part: { case: "chunk" as const, value: content.subarray(100) } });
    },
  }, { fetch: { public: "a test's fetcher" } });
  const { process, stack, done, failed } = await ready(["node01"], inProcessClient(FetchService, [service]));
  await using _ = stack;
  const format = ImageFormat.KERNEL_BUNDLE;
  const fetch = (name: string, change: { url?: string; sha256?: string; format?: ImageFormat } = {}) =>
    process.intake.fetchImage({ project, name, url: "https://images.example/tiny", format, ...change });

  for (
    const url of ["no url", "file:///etc/passwd", "https://alice:secret@images.example/", "http://images.example/"]
  ) {
    assert.equal(await code(fetch("far", { url })), "invalid_argument/invalid_field", url);
  }
  assert.equal(await code(fetch("far", { sha256: "AB" })), "invalid_argument/invalid_field");
  // A line that breaks is tried again.
  cut = 1;
  await done(fetch("far", { sha256, url: "http://images.example/tiny" }));
  assert.deepEqual(asked.map((a) => a.allowPlain), [true, true]);
  const image = await process.images.getImage({ project, image: "far" });
  assert.deepEqual([image.sha256, Number(image.bytes)], [sha256, content.length]);
  assert.equal(await code(fetch("far")), "already_exists/image_exists");
  assert.equal(await failed(fetch("other", { sha256: "0".repeat(64) })), "image_digest_mismatch");
  assert.equal(await failed(fetch("other", { format: ImageFormat.QCOW2 })), "image_malformed");
  assert.equal(await failed(fetch("other", { url: "https://inside.example/" })), "address_refused");
  assert.equal(await code(process.images.getImage({ project, image: "other" })), "not_found/image_not_found");
});

Deno.test("a fetch that is cancelled as its image is being stored leaves no image and no content", async () => {
  let cancel: () => Promise<unknown> = () => Promise.resolve();
  const fetcher = {
    // Hears of no signal, as one that has just said its last word.
    async *fetch() {
      yield { part: { case: "chunk", value: bundle() } };
      await cancel();
    },
  } as unknown as Fetcher;
  const { process, stack, world } = await ready(["node01"], fetcher);
  await using _ = stack;
  const request = { project, name: "far", url: "https://images.example/tiny", format: ImageFormat.KERNEL_BUNDLE };
  const begun = Promise.withResolvers<string>();
  cancel = async () => await process.operations.cancelOperation({ project, id: await begun.promise });
  const operation = await process.intake.fetchImage(request);
  begun.resolve(operation.id);
  assert.equal((await over(process, operation)).state, OperationState.CANCELLED);
  assert.equal(await code(process.images.getImage({ project, image: "far" })), "not_found/image_not_found");
  for (const dir of ["incoming", "content"]) {
    // `ready` has imported one image.
    const files = [...Deno.readDirSync(`${world.dir}/${dir}`)];
    assert.equal(files.length, dir === "content" ? 1 : 0, dir);
  }
});
