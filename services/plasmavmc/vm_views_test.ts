import assert from "node:assert/strict";
import { OperationState } from "@ultracloud/proto/common/v1";
import { code, importImage, over, project, register, vmRequest, World } from "./test_world.ts";

async function ready() {
  const stack = new AsyncDisposableStack();
  const world = stack.use(await World.open());
  const process = stack.use(await world.boot());
  await register(process, "node01");
  await importImage(process);
  const done = async (work: Promise<Parameters<typeof over>[1]>) => {
    const operation = await over(process, await work);
    assert.equal(operation.state, OperationState.DONE, operation.error?.message);
  };
  return { world, process, stack, done };
}

Deno.test("metrics are of the VMs of one project that run, and of no other's", async () => {
  const { process, stack, done } = await ready();
  await using _ = stack;
  const { vms } = process;
  for (const name of ["web", "db"]) await done(vms.createVm({ ...vmRequest, name }));
  const names = async (of: string) => (await vms.listVmMetrics({ project: of })).vms.map((m) => m.vm).sort();
  assert.deepEqual(await names(project), ["db", "web"]);
  assert.deepEqual(await names("acme/other"), []);
  const { meta, node } = await vms.getVm({ project, vm: "web" });
  const one = await vms.getVmMetrics({ project, vm: "web" });
  assert.deepEqual([one.vm, one.vmId, one.node], ["web", meta!.id, node]);
  // Neither by name nor by id.
  for (const vm of ["web", meta!.id]) {
    assert.equal(await code(vms.getVmMetrics({ project: "acme/other", vm })), "not_found/vm_not_found", vm);
    assert.equal(await code(vms.screenshot({ project: "acme/other", vm })), "not_found/vm_not_found", vm);
  }
  await done(vms.stopVm({ project, vm: "db" }));
  assert.deepEqual(await names(project), ["web"], "one that is off has used nothing");
});

Deno.test("a VM that its worker does not know is left out of the metrics, the others are not", async () => {
  const { world, process, stack, done } = await ready();
  await using _ = stack;
  const { vms } = process;
  await done(vms.createVm({ ...vmRequest, name: "web" }));
  await register(process, "node02");
  await process.nodes.setNodeCordoned({ name: "node01", cordoned: true });
  await done(vms.createVm({ ...vmRequest, name: "db" }));
  const { node } = await vms.getVm({ project, vm: "db" });
  assert.equal(node, "node02");
  world.agent(node).vms.clear();
  assert.deepEqual((await vms.listVmMetrics({ project })).vms.map((m) => m.vm), ["web"]);
});
