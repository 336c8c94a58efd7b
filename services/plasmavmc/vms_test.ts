import assert from "node:assert/strict";
import { fromBinary } from "@bufbuild/protobuf";
import { fault, utf8 } from "@ultracloud/base";
import { OperationState } from "@ultracloud/proto/common/v1";
import { DesiredState, NodeState, VmSchema, VmState } from "@ultracloud/proto/plasmavmc/v1";
import { code, importImage, nothing, over, project, register, until, vmRequest, World } from "./test_world.ts";

async function ready(o: { slots?: number } = {}) {
  const world = await World.open();
  const process = await world.boot();
  await register(process, "node01", o);
  await importImage(process);
  const stack = new AsyncDisposableStack();
  stack.use(world);
  stack.use(process);
  return { world, process, stack };
}

Deno.test("a VM is created, shown with its endpoint, stopped, started, rebooted and deleted without a trace", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  const { vms } = process;
  const created = await over(process, await vms.createVm(vmRequest));
  assert.equal(created.state, OperationState.DONE, created.error?.message);
  const result = fromBinary(VmSchema, created.result!.value);
  assert.equal(result.state, VmState.RUNNING);
  const vm = await vms.getVm({ project, vm: "web" });
  assert.equal(vm.node, "node01");
  assert.equal(vm.accelerator, "tcg");
  assert.deepEqual(vm.nics[0]!.endpoints.map((e) => `${e.protocol} ${e.guestPort} ${e.address}`), [
    "tcp 80 127.0.0.1:20000",
  ]);
  assert.equal((await process.nodes.getNode({ name: "node01" })).allocated!.vmSlots, 1);

  await over(process, await vms.stopVm({ project, vm: "web" }));
  const stopped = await vms.getVm({ project, vm: "web" });
  assert.deepEqual([stopped.state, stopped.desiredState], [VmState.STOPPED, DesiredState.STOPPED]);
  assert.equal(await code(vms.rebootVm({ project, vm: "web" })), "failed_precondition/vm_not_running");
  await over(process, await vms.startVm({ project, vm: "web" }));
  assert.equal((await vms.getVm({ project, vm: vm.meta!.id })).state, VmState.RUNNING);
  assert.equal((await vms.startVm({ project, vm: "web" })).state, OperationState.DONE);
  await over(process, await vms.rebootVm({ project, vm: "web" }));

  const log = await vms.getConsoleLog({ project, vm: "web", offset: 6n });
  assert.equal(utf8.decode(log.data), "from the guest\n");
  assert.equal(log.nextOffset, 21n);

  assert.equal(await code(vms.deleteVm({ project, vm: "web", etag: "stale" })), "aborted/etag_mismatch");
  await over(process, await vms.deleteVm({ project, vm: "web" }));
  assert.equal(await code(vms.getVm({ project, vm: "web" })), "not_found/vm_not_found");
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("following the console yields what is there and ends with its reader", async () => {
  const { process, stack } = await ready();
  await using _ = stack;
  await over(process, await process.vms.createVm(vmRequest));
  const stop = new AbortController();
  let seen = "";
  for await (const part of process.vms.followConsole({ project, vm: "web" }, { signal: stop.signal })) {
    seen += utf8.decode(part.data);
    stop.abort();
  }
  assert.equal(seen, "hello from the guest\n");
});

Deno.test("what cannot be is refused before anything happens", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  const { vms } = process;
  const tried = (o: object) => code(vms.createVm({ ...vmRequest, ...o }));
  assert.equal(await tried({ name: "Web" }), "invalid_argument/invalid_name");
  assert.equal(await tried({ flavor: "giant" }), "not_found/flavor_not_found");
  assert.equal(await tried({ image: "absent" }), "not_found/image_not_found");
  assert.equal(await tried({ subnets: ["absent"] }), "not_found/not_found");
  assert.equal(
    await tried({ subnets: ["front", "front", "front", "front", "front"] }),
    "invalid_argument/invalid_field",
  );
  assert.equal(await tried({ userData: "x".repeat(70_000) }), "invalid_argument/invalid_field");
  assert.equal(await tried({ subnets: ["a b"] }), "invalid_argument/invalid_field");
  assert.equal(await tried({ sshAuthorizedKeys: ["command=x ssh-ed25519 AAAA"] }), "invalid_argument/invalid_field");
  assert.deepEqual(await world.leftovers(process.platform), nothing);
  assert.equal((await process.operations.listOperations({ project })).operations.length, 0);
});

Deno.test("a dry run checks placement too and changes nothing", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  const dry = await process.vms.createVm({ ...vmRequest, dryRun: true });
  assert.equal(dry.state, OperationState.DONE);
  assert.equal(dry.target!.id, "");
  const nowhere = process.vms.createVm({ ...vmRequest, dryRun: true, nodeSelector: { zone: "moon" } });
  assert.equal(await code(nowhere), "resource_exhausted/no_node_fits");
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("a VM that fits nowhere fails with the reason of each worker and leaves nothing", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  await register(process, "node02");
  await process.nodes.setNodeCordoned({ name: "node02", cordoned: true });
  const done = await over(process, await process.vms.createVm({ ...vmRequest, nodeSelector: { zone: "moon" } }));
  assert.equal(done.state, OperationState.FAILED);
  assert.equal(done.error!.code, "no_node_fits");
  assert.match(done.error!.message, /node01: its label zone is "", not "moon"; node02: it is cordoned/);
  assert.equal(await code(process.vms.getVm({ project, vm: "web" })), "not_found/vm_not_found");
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("ten VMs at once never take more slots than a worker has", async () => {
  const { world, process, stack } = await ready({ slots: 4 });
  await using _ = stack;
  const operations = await Promise.all(
    Array.from({ length: 10 }, (_, i) => process.vms.createVm({ ...vmRequest, name: `web${i}` })),
  );
  const ends = await Promise.all(operations.map((operation) => over(process, operation)));
  assert.equal(ends.filter((o) => o.state === OperationState.DONE).length, 4);
  assert.ok(ends.every((o) => o.state === OperationState.DONE || o.error!.code === "no_node_fits"));
  assert.equal(world.agent("node01").vms.size, 4);
  assert.equal((await world.leftovers(process.platform)).active, 0);
});

Deno.test("quota is told at once and never passed by VMs made together", async () => {
  const world = await World.open();
  await using _world = world;
  const quota = { vms: 3, vcpus: 100, memoryBytes: 2 ** 40, diskBytes: 2 ** 40 };
  await using process = await world.boot({ quota });
  await register(process, "node01");
  await importImage(process);
  const results = await Promise.all(Array.from({ length: 6 }, async (_, i) => {
    try {
      return (await over(process, await process.vms.createVm({ ...vmRequest, name: `web${i}` }))).error?.code ?? "ok";
    } catch (error) {
      return (error as { code: string }).code;
    }
  }));
  assert.equal(results.filter((r) => r === "ok").length, 3);
  assert.equal(results.filter((r) => r === "quota_exceeded").length, 3);
  assert.equal(await code(process.vms.createVm({ ...vmRequest, name: "more" })), "resource_exhausted/quota_exceeded");
});

Deno.test("a worker that refuses the VM has everything taken back", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  world.agent("node01").hook = (call) => {
    if (call === "ensure") throw fault("failed_precondition", "image_malformed", "Cannot boot this");
  };
  const done = await over(process, await process.vms.createVm(vmRequest));
  assert.equal(done.error!.code, "image_malformed");
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("cancelling a create that hangs at its worker undoes it", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  world.agent("node01").hook = (call, signal) =>
    call !== "ensure"
      ? undefined
      : new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
  const operation = await process.vms.createVm(vmRequest);
  await until("the worker is asked", () => world.agent("node01").calls.includes("ensure"));
  assert.equal(await code(process.vms.deleteVm({ project, vm: "web" })), "failed_precondition/vm_busy");
  await process.operations.cancelOperation({ project, id: operation.id });
  assert.equal((await over(process, operation)).state, OperationState.CANCELLED);
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("an idempotency key makes one VM of two calls", async () => {
  const { process, stack } = await ready();
  await using _ = stack;
  const headers = { "idempotency-key": "k" };
  const [a, b] = await Promise.all([1, 2].map(() => process.vms.createVm(vmRequest, { headers })));
  assert.equal(a!.id, b!.id);
  await over(process, a!);
  assert.equal((await process.vms.createVm(vmRequest, { headers })).id, a!.id);
  assert.equal(await code(process.vms.createVm(vmRequest)), "already_exists/vm_exists");
});

Deno.test("heartbeats tell the VM's state, and a lost worker's VMs are unknown until it returns", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  await over(process, await process.vms.createVm(vmRequest));
  const vmId = (await process.vms.getVm({ project, vm: "web" })).meta!.id;
  const stateIs = (state: VmState) => async () => (await process.vms.getVm({ project, vm: "web" })).state === state;
  world.agent("node01").vms.get(vmId)!.state = VmState.FAILED;
  const beat = () =>
    process.nodes.heartbeat({ node: "node01", vms: [{ vmId, state: VmState.FAILED, reason: "QEMU has died" }] });
  assert.equal((await beat()).reregister, false);
  await until("the failure is known", stateIs(VmState.FAILED));

  world.leaseMs += 5000;
  await until("its VMs are unknown", stateIs(VmState.UNKNOWN));
  assert.equal((await process.nodes.getNode({ name: "node01" })).state, NodeState.LOST);
  assert.equal((await beat()).reregister, true);
  world.agent("node01").vms.get(vmId)!.state = VmState.RUNNING;
  await register(process, "node01");
  await until("it runs again", stateIs(VmState.RUNNING));
});

Deno.test("a VM its worker does not have is failed, and one nobody asked for is removed", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  await over(process, await process.vms.createVm(vmRequest));
  const agent = world.agent("node01");
  const [spare] = agent.vms.values();
  agent.vms.clear();
  await until("it is failed", async () => (await process.vms.getVm({ project, vm: "web" })).state === VmState.FAILED);
  agent.vms.set("vm_01J00000000000000000000000", spare!);
  await until("the stranger is removed", () => agent.vms.size === 0);
});

Deno.test("a VM on a lost worker is deleted, and its guest removed when the worker returns", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  await over(process, await process.vms.createVm(vmRequest));
  world.leaseMs += 5000;
  const done = await over(process, await process.vms.deleteVm({ project, vm: "web" }));
  assert.equal(done.state, OperationState.DONE);
  assert.equal(world.agent("node01").vms.size, 1);
  await register(process, "node01");
  await until("the guest is removed", () => world.agent("node01").vms.size === 0);
  assert.deepEqual(await world.leftovers(process.platform), nothing);
});

Deno.test("an agent that is away for a moment is waited for", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  let away = 2;
  world.agent("node01").hook = () => {
    if (away-- > 0) throw fault("unavailable", "agent_away", "Cannot reach the agent");
  };
  assert.equal((await over(process, await process.vms.createVm(vmRequest))).state, OperationState.DONE);
});
