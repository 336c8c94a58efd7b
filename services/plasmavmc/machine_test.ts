import assert from "node:assert/strict";
import { OperationState } from "@ultracloud/proto/common/v1";
import { ImageFormat, MachineType, VmState } from "@ultracloud/proto/plasmavmc/v1";
import { code, importImage, over, project, register, vmRequest, World } from "./test_world.ts";

const mib = 1024n ** 2n;
const refused = "failed_precondition/machine_is_microvm";

async function ready() {
  const stack = new AsyncDisposableStack();
  const world = stack.use(await World.open());
  const process = stack.use(await world.boot());
  await register(process, "node01");
  await register(process, "node02");
  await importImage(process);
  const done = async (work: Promise<Parameters<typeof over>[1]>) => {
    const operation = await over(process, await work);
    assert.equal(operation.state, OperationState.DONE, operation.error?.message);
  };
  return { world, process, stack, done };
}

Deno.test("a microvm is told to its worker, boots kernel bundles alone and has six places", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  const { vms } = process;
  await importImage(process, { name: "disk", content: new Uint8Array(1024 * 1024), format: ImageFormat.RAW });
  const micro = { ...vmRequest, machineType: MachineType.MICROVM };
  const tried = (o: object) => code(vms.createVm({ ...micro, ...o }));
  assert.equal(await tried({ image: "disk", flavor: "small" }), "failed_precondition/machine_cannot_boot");
  for (const n of [0, 1, 2]) await done(process.volumes.createVolume({ project, name: `v${n}`, sizeBytes: mib }));
  const volumes = ["v0", "v1", "v2"].map((volume) => ({ volume }));
  const subnets = Array<string>(4).fill("front");
  assert.equal(await tried({ subnets, volumes }), "invalid_argument/invalid_field");
  assert.equal(await tried({ machineType: 9 as MachineType }), "invalid_argument/invalid_field");
  assert.equal((await process.operations.listOperations({ project })).operations.length, 3, "the volumes' alone");

  await done(vms.createVm(micro));
  const vm = await vms.getVm({ project, vm: "web" });
  assert.equal(vm.machineType, MachineType.MICROVM);
  assert.equal(world.agents.get(vm.node)!.vms.get(vm.meta!.id)!.spec.machineType, MachineType.MICROVM);
  await done(vms.createVm({ ...vmRequest, name: "other" }));
  assert.equal((await vms.getVm({ project, vm: "other" })).machineType, MachineType.Q35);
});

Deno.test("what a microvm cannot do is refused with its reason; stopped by force it takes a volume", async () => {
  const { process, stack, done } = await ready();
  await using _ = stack;
  const { vms } = process;
  await done(vms.createVm({ ...vmRequest, machineType: MachineType.MICROVM }));
  await importImage(process, { name: "disk", content: new Uint8Array(1024 * 1024), format: ImageFormat.RAW });
  await done(process.volumes.createVolume({ project, name: "data", sizeBytes: mib, nearVm: "web" }));
  const web = { project, vm: "web" };
  const { nics } = await vms.getVm(web);
  for (
    const call of [
      () => vms.attachVolume({ ...web, volume: "data" }),
      () => vms.attachNic({ ...web, subnet: "front" }),
      () => vms.detachNic({ ...web, portId: nics[0]!.portId }),
      () => vms.stopVm(web),
      () => vms.rebootVm(web),
      () => vms.resizeVm({ ...web, flavor: "tiny", restart: true }),
      () => vms.migrateVm(web),
      () => vms.migrateVm({ ...web, dryRun: true }),
      () => vms.screenshot(web),
    ]
  ) assert.equal(await code(call()), refused, String(call));
  assert.equal(await code(vms.rebuildVm({ ...web, image: "disk" })), "failed_precondition/flavor_too_small");
  assert.equal((await vms.getVm(web)).state, VmState.RUNNING, "none of it touched the guest");

  await done(vms.pauseVm(web));
  await done(vms.resumeVm(web));
  await done(vms.stopVm({ ...web, force: true }));
  await done(vms.attachVolume({ ...web, volume: "data" }));
  await done(vms.startVm(web));
  assert.equal(await code(vms.detachVolume({ ...web, volume: "data" })), refused);
  await done(vms.deleteVm(web));
});

Deno.test("a worker is not drained of a microvm, and the drain says why; nobody suggests to move one", async () => {
  const { process, stack, done } = await ready();
  await using _ = stack;
  const node = "node01";
  for (const name of ["node01", "node02"]) await register(process, name, { memoryBytes: 1024 ** 3 });
  await process.nodes.setNodeCordoned({ name: "node02", cordoned: true });
  await done(process.vms.createVm({ ...vmRequest, machineType: MachineType.MICROVM }));
  for (const name of ["b", "c", "d"]) await done(process.vms.createVm({ ...vmRequest, name }));
  await process.nodes.setNodeCordoned({ name: "node02", cordoned: false });
  assert.deepEqual((await process.placement.suggestMoves({})).moves.map((move) => move.vm).sort(), ["b", "c"]);
  const operation = await process.maintenance.drainNode({ name: node });
  const ended = await process.operations.waitOperation({ project: "", id: operation.id, timeoutMs: 20_000 });
  assert.equal(ended.state, OperationState.FAILED);
  assert.match(ended.error!.message, /acme\/prod\/web \(Cannot migrate VM web as its machine is a microvm/);
});
