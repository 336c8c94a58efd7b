import assert from "node:assert/strict";
import { fault } from "@ultracloud/base";
import { type Operation, OperationState } from "@ultracloud/proto/common/v1";
import { NodeLossPolicy, NodeState, RestartPolicy, VmState } from "@ultracloud/proto/plasmavmc/v1";
import { progressPerLook } from "./test_agent.ts";
import {
  code,
  importImage,
  nothing,
  over,
  type Process,
  project,
  register,
  until,
  vmRequest,
  World,
} from "./test_world.ts";

const mib = 1024n ** 2n;

async function ready(nodes: readonly string[] = ["node01", "node02"]) {
  const world = await World.open();
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
  return { world, process, stack, done };
}

/** The one worker where the guest's processors run. */
function home(world: World): string {
  const places = [...world.agents.values()].filter((agent) => agent.running().length > 0);
  assert.equal(places.length, 1, `the guest runs on ${places.map((p) => p.name).join(" and ") || "none"}`);
  return places[0]!.name;
}

async function gone(world: World, process: Process) {
  await over(process, await process.vms.deleteVm({ project, vm: "web" }));
  assert.deepEqual(await world.leftovers(process.platform), nothing);
}

Deno.test("a VM migrates with a shared and a local volume, and leaves nothing on its source", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  const { vms, volumes } = process;
  await done(vms.createVm(vmRequest));
  const source = home(world);
  await done(volumes.createVolume({ project, name: "own", sizeBytes: mib, nearVm: "web" }));
  await done(volumes.createVolume({ project, name: "common", sizeBytes: mib, shared: true, node: source }));
  await done(vms.attachVolume({ project, vm: "web", volume: "own" }));
  await done(vms.attachVolume({ project, vm: "web", volume: "common" }));
  const before = await vms.getVm({ project, vm: "web" });
  assert.equal(
    await code(vms.migrateVm({ project, vm: "web", node: source })),
    "failed_precondition/already_there",
  );
  assert.equal(
    await code(vms.migrateVm({ project, vm: "web", storage: 1 })),
    "failed_precondition/disks_not_shared",
  );
  await done(vms.migrateVm({ project, vm: "web" }));
  const target = home(world);
  assert.notEqual(target, source);
  const after = await vms.getVm({ project, vm: "web" });
  assert.deepEqual([after.node, after.state, after.migration!.downtimeMs], [target, VmState.RUNNING, 1n]);
  assert.ok(after.writerEpoch > before.writerEpoch);
  assert.equal((await volumes.getVolume({ project, volume: "own" })).node, target);
  assert.equal((await volumes.getVolume({ project, volume: "common" })).node, source);
  assert.equal(world.agent(source).vms.size, 0);
  assert.equal(world.agent(source).volumes.size, 1);
  assert.equal((await process.nodes.getNode({ name: source })).allocated!.vmSlots, 0);
  assert.equal([...world.network.ports.values()][0]!.host, target);
  await done(vms.migrateVm({ project, vm: "web", node: source }));
  assert.equal(home(world), source);
  await done(vms.deleteVm({ project, vm: "web" }));
  for (const volume of ["own", "common"]) await done(volumes.deleteVolume({ project, volume }));
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("a cancelled migration leaves the guest running where it was", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  const { volumes } = process;
  for (const name of ["one", "two"]) {
    await done(volumes.createVolume({ project, name, sizeBytes: mib, shared: true, node: "node01" }));
  }
  await done(process.vms.createVm({ ...vmRequest, volumes: [{ volume: "one" }] }));
  const source = home(world);
  world.agent(source).hook = (call, signal) =>
    call !== "getMigration"
      ? undefined
      : new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
  const operation = await process.vms.migrateVm({ project, vm: "web" });
  await until("it is asked how far it is", () => world.agent(source).calls.includes("getMigration"));
  world.agent(source).hook = () => {};
  await process.operations.cancelOperation({ project, id: operation.id });
  assert.equal((await over(process, operation)).state, OperationState.CANCELLED);
  assert.equal(home(world), source);
  const vm = await process.vms.getVm({ project, vm: "web" });
  assert.deepEqual([vm.node, vm.state], [source, VmState.RUNNING]);
  assert.equal([...world.network.ports.values()][0]!.host, source);
  const [exported] = [...world.agent("node01").volumes.values()].filter((v) => v.exports.size > 0);
  assert.equal(exported!.exports.size, 1, "the target's way to the disk is closed, the source's is not");
  // The disk has seen the target's epoch: what the guest has open stays open all the same.
  await done(process.vms.attachVolume({ project, vm: "web", volume: "two" }));
  await done(process.vms.migrateVm({ project, vm: "web" }));
  assert.notEqual(home(world), source);
  await done(process.vms.deleteVm({ project, vm: "web" }));
  for (const name of ["one", "two"]) await done(volumes.deleteVolume({ project, volume: name }));
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("a migration that is cancelled when the guest has gone ends well, where the guest is", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  await done(process.vms.createVm(vmRequest));
  const source = home(world);
  const begun = Promise.withResolvers<Operation>();
  let cancelled = false;
  world.agent(source).hook = async (call) => {
    const [migration] = world.agent(source).migrations.values();
    // The next look is the one that finds it completed.
    if (call !== "getMigration" || cancelled || migration === undefined || migration.progress + progressPerLook < 100) {
      return;
    }
    cancelled = true;
    await process.operations.cancelOperation({ project, id: (await begun.promise).id });
  };
  const operation = await process.vms.migrateVm({ project, vm: "web" });
  begun.resolve(operation);
  const ended = await over(process, operation);
  assert.equal(cancelled, true);
  assert.equal(ended.state, OperationState.DONE);
  assert.equal(ended.error, undefined);
  const vm = await process.vms.getVm({ project, vm: "web" });
  assert.deepEqual([vm.node, vm.state], [home(world), VmState.RUNNING]);
  assert.notEqual(vm.node, source);
  assert.ok(vm.migration!.totalMs > 0n);
  await gone(world, process);
});

Deno.test("ports that two hosts can carry stay on the source until the guest has left, and leave the target on a cancel", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  world.network.taps = true;
  await done(process.vms.createVm(vmRequest));
  const source = home(world);
  const target = source === "node01" ? "node02" : "node01";
  const port = () => {
    const { host, arrivingHost } = [...world.network.ports.values()][0]!;
    return [host, arrivingHost];
  };
  const held = Promise.withResolvers<void>();
  world.agent(source).hook = (call, signal) =>
    call !== "getMigration" ? undefined : Promise.race([
      held.promise,
      new Promise<void>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true })),
    ]);
  const first = await process.vms.migrateVm({ project, vm: "web" });
  await until("it is asked how far it is", () => world.agent(source).calls.includes("getMigration"));
  assert.deepEqual(port(), [source, target], "both while the guest moves");
  await process.operations.cancelOperation({ project, id: first.id });
  world.agent(source).hook = () => {};
  held.resolve();
  assert.equal((await over(process, first)).state, OperationState.CANCELLED);
  assert.deepEqual(port(), [source, ""], "as before once it is cancelled");
  await done(process.vms.migrateVm({ project, vm: "web" }));
  assert.deepEqual(port(), [target, ""]);
  await gone(world, process);
});

Deno.test("a migration whose target dies ends with the guest where it was", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  await done(process.vms.createVm(vmRequest));
  const source = home(world);
  const target = source === "node01" ? "node02" : "node01";
  world.agent(source).hook = (call) => {
    if (call === "getMigration") world.agent(target).vms.clear();
  };
  const ended = await over(process, await process.vms.migrateVm({ project, vm: "web" }));
  assert.equal(ended.error!.code, "migration_failed");
  assert.equal(home(world), source);
  world.agent(source).hook = () => {};
  await gone(world, process);
});

Deno.test("a migration nobody has room for changes nothing, and one that nobody may cancel any more is finished", async () => {
  const { world, process, stack, done } = await ready(["node01"]);
  await using _ = stack;
  await done(process.vms.createVm(vmRequest));
  assert.equal(
    await code(process.vms.migrateVm({ project, vm: "web", dryRun: true })),
    "resource_exhausted/no_node_fits",
  );
  const ended = await over(process, await process.vms.migrateVm({ project, vm: "web" }));
  assert.equal(ended.error!.code, "no_node_fits");
  await register(process, "node02");
  // The cancel comes when the guest has just arrived: undoing finds that out and finishes instead.
  let cancelled = false;
  const operation = await process.vms.migrateVm({ project, vm: "web" });
  world.agent("node02").hook = async (call) => {
    if (call !== "finishMigration" || cancelled) return;
    cancelled = true;
    await process.operations.cancelOperation({ project, id: operation.id });
    throw fault("unavailable", "away", "Cannot answer now");
  };
  await over(process, operation);
  assert.equal(home(world), "node02");
  assert.equal((await process.vms.getVm({ project, vm: "web" })).node, "node02");
  assert.equal(world.agent("node01").vms.size, 0);
  await gone(world, process);
});

Deno.test("a guest whose QEMU dies as it arrives has moved all the same", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  await done(process.vms.createVm(vmRequest));
  const { meta } = await process.vms.getVm({ project, vm: "web" });
  const source = home(world);
  const target = source === "node01" ? "node02" : "node01";
  let refused = 0;
  world.agent(target).hook = (call) => {
    if (call !== "finishMigration") return;
    // The source has what it has until the target knows what became of the guest.
    assert.equal(world.agent(source).vms.size, 1);
    if (refused++ === 0) throw fault("unavailable", "migration_not_completed", "Cannot finish it as it is prepared");
    world.agent(target).vms.get(meta!.id)!.state = VmState.FAILED;
    throw fault("failed_precondition", "migration_not_completed", "Cannot finish it as it is failed");
  };
  const ended = await over(process, await process.vms.migrateVm({ project, vm: "web" }));
  assert.equal(ended.state, OperationState.DONE, ended.error?.message);
  assert.equal(refused, 2);
  const moved = await process.vms.getVm({ project, vm: "web" });
  assert.deepEqual([moved.node, moved.operation], [target, ""]);
  assert.equal(world.agent(source).vms.size, 0);
  await gone(world, process);
});

Deno.test("a drained worker is empty and cordoned; what cannot leave is told", async () => {
  const { world, process, stack, done } = await ready(["node01"]);
  await using _ = stack;
  for (let i = 0; i < 5; i++) await done(process.vms.createVm({ ...vmRequest, name: `web${i}` }));
  await register(process, "node02", { slots: 4 });
  const wait = (id: string) => process.operations.waitOperation({ project: "", id, timeoutMs: 20_000 });
  const first = await wait((await process.maintenance.drainNode({ name: "node01" })).id);
  assert.equal(first.error!.code, "drain_incomplete");
  assert.match(first.error!.message, /1 VMs do not leave it: acme\/prod\/web/);
  assert.equal((await process.nodes.getNode({ name: "node01" })).state, NodeState.READY);
  await register(process, "node03");
  const second = await wait((await process.maintenance.drainNode({ name: "node01", parallel: 4 })).id);
  assert.equal(second.state, OperationState.DONE, second.error?.message);
  assert.equal(world.agent("node01").vms.size, 0);
  assert.equal((await process.nodes.getNode({ name: "node01" })).state, NodeState.CORDONED);
  const running = [...world.agents.values()].flatMap((agent) => agent.running());
  assert.equal(new Set(running).size, 5);
  assert.equal(running.length, 5);
});

Deno.test("VMs of a lost worker are evacuated by their policy once, and the worker's copy goes when it returns", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  const { vms, volumes } = process;
  await done(volumes.createVolume({ project, name: "common", sizeBytes: mib, shared: true, node: "node02" }));
  const request = { ...vmRequest, nodeSelector: {}, volumes: [{ volume: "common" }] };
  await process.nodes.setNodeCordoned({ name: "node02", cordoned: true });
  await done(vms.createVm({ ...request, nodeLossPolicy: NodeLossPolicy.EVACUATE }));
  await done(vms.createVm({ ...vmRequest, name: "stays" }));
  await process.nodes.setNodeCordoned({ name: "node02", cordoned: false });
  const before = await vms.getVm({ project, vm: "web" });
  assert.equal(before.node, "node01");
  // node01's lease ends; its agent has stopped the guest by then.
  world.agent("node01").vms.get(before.meta!.id)!.state = VmState.STOPPED;
  world.leaseMs += 5000;
  await register(process, "node02");
  await until("it runs elsewhere", async () => {
    const vm = await vms.getVm({ project, vm: "web" });
    return vm.node === "node02" && vm.state === VmState.RUNNING;
  });
  const after = await vms.getVm({ project, vm: "web" });
  assert.ok(after.writerEpoch > before.writerEpoch);
  const other = await vms.getVm({ project, vm: "stays" });
  assert.deepEqual([other.node, other.state], ["node01", VmState.UNKNOWN]);
  assert.equal(await code(process.maintenance.evacuateNode({ name: "node02" })), "failed_precondition/node_alive");
  const told = await process.operations.waitOperation({
    project: "",
    id: (await process.maintenance.evacuateNode({ name: "node01" })).id,
    timeoutMs: 20_000,
  });
  assert.match(told.error!.message, /it keeps running on a worker that is only cut off/);
  await register(process, "node01");
  await until("the old copy is removed", () => !world.agent("node01").vms.has(before.meta!.id));
  assert.deepEqual(world.agent("node02").running(), [before.meta!.id]);
});

Deno.test("a failed VM is restarted by its policy, and no faster than its cool-down", async () => {
  const { world, process, stack, done } = await ready(["node01"]);
  await using _ = stack;
  const policy = { restartPolicy: RestartPolicy.ON_FAILURE, restartCooldownMs: 3_600_000n };
  assert.equal(
    await code(process.vms.createVm({ ...vmRequest, restartCooldownMs: 1n })),
    "invalid_argument/invalid_field",
  );
  await done(process.vms.createVm({ ...vmRequest, ...policy }));
  const agent = world.agent("node01");
  const [vm] = agent.vms.values();
  vm!.state = VmState.FAILED;
  await until("it runs again", async () => {
    const now = await process.vms.getVm({ project, vm: "web" });
    return now.restarts === 1 && now.state === VmState.RUNNING;
  });
  [...agent.vms.values()][0]!.state = VmState.FAILED;
  await until("it is failed", async () => (await process.vms.getVm({ project, vm: "web" })).state === VmState.FAILED);
  assert.equal((await process.vms.getVm({ project, vm: "web" })).restarts, 1);
});

Deno.test("a VM is paused, resumed, resized and rebuilt", async () => {
  const { world, process, stack, done } = await ready(["node01"]);
  await using _ = stack;
  const { vms } = process;
  await done(vms.createVm({ ...vmRequest, deleteProtection: true }));
  const agent = world.agent("node01");
  const spec = () => [...agent.vms.values()][0]!.spec;
  await done(vms.pauseVm({ project, vm: "web" }));
  assert.equal((await vms.getVm({ project, vm: "web" })).state, VmState.PAUSED);
  assert.equal(await code(vms.startVm({ project, vm: "web" })), "failed_precondition/vm_paused");
  await done(vms.resumeVm({ project, vm: "web" }));
  const flavor = { name: "big", vcpus: 2, memoryBytes: 512n * mib, diskBytes: 0n };
  await process.flavors.createFlavor({ flavor });
  assert.equal(
    await code(vms.resizeVm({ project, vm: "web", flavor: "big" })),
    "failed_precondition/vm_not_stopped",
  );
  assert.equal(
    await code(vms.resizeVm({ project, vm: "web", flavor: "small", restart: true })),
    "failed_precondition/disk_differs",
  );
  await done(vms.resizeVm({ project, vm: "web", flavor: "big", restart: true }));
  const vm = await vms.getVm({ project, vm: "web" });
  assert.deepEqual([vm.flavor, vm.vcpus, vm.state, spec().vcpus], ["big", 2, VmState.RUNNING, 2]);
  assert.equal((await process.nodes.getNode({ name: "node01" })).allocated!.vcpus, 2);
  await done(vms.resizeVm({ project, vm: "web", flavor: "tiny", restart: true }));
  assert.equal((await process.nodes.getNode({ name: "node01" })).allocated!.vcpus, 1);
  const { rootEpoch } = spec();
  await done(vms.rebuildVm({ project, vm: "web" }));
  assert.equal(spec().rootEpoch, rootEpoch + 1n);
  assert.equal(await code(vms.deleteVm({ project, vm: "web" })), "failed_precondition/vm_protected");
  await vms.updateVm({ project, vm: "web", updateMask: { paths: ["delete_protection"] } });
  await gone(world, process);
});

Deno.test("a size a worker has no room for is refused and the VM runs on with its own", async () => {
  const { world, process, stack, done } = await ready(["node01"]);
  await using _ = stack;
  await done(process.vms.createVm(vmRequest));
  const flavor = { name: "huge", vcpus: 32, memoryBytes: 1024n * 1024n * mib, diskBytes: 0n };
  await process.flavors.createFlavor({ flavor: { ...flavor, memoryBytes: 16n * 1024n * mib } });
  const request = { project, vm: "web", flavor: "huge", restart: true };
  assert.equal((await over(process, await process.vms.resizeVm(request))).error!.code, "no_room");
  assert.equal((await process.vms.getVm({ project, vm: "web" })).flavor, "tiny");
  assert.equal((await process.nodes.getNode({ name: "node01" })).allocated!.vcpus, 1);
  assert.equal(home(world), "node01");
  await gone(world, process);
});
