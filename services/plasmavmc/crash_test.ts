import assert from "node:assert/strict";
import { fault } from "@ultracloud/base";
import type { KvBackend } from "@ultracloud/platform";
import { type Operation, OperationState } from "@ultracloud/proto/common/v1";
import { code, importImage, nothing, over, type Process, project, register, vmRequest, World } from "./test_world.ts";

/** A store's connection that dies with write number `n`: before it takes effect, or after but before the answer. */
function dyingAt(
  kv: KvBackend,
  n: number,
  when: "before" | "after",
): KvBackend & { readonly dead: Promise<void>; died(): boolean } {
  let writes = 0;
  let dead = false;
  let told = () => {};
  const death = new Promise<void>((resolve) => told = resolve);
  const check = () => {
    if (dead) throw fault("unavailable", "process_dead", "Cannot go on as this process is dead");
  };
  const die = () => {
    dead = true;
    told();
    check();
  };
  return {
    dead: death,
    died: () => dead,
    get: (...args) => (check(), kv.get(...args)),
    scan: (...args) => (check(), kv.scan(...args)),
    watch: (...args) => (check(), kv.watch(...args)),
    async write(...args) {
      check();
      if (++writes === n && when === "before") die();
      const result = await kv.write(...args);
      if (writes === n) die();
      return result;
    },
  };
}

/** Runs `begin` in a process that dies at its n-th write; answers false when it got through. */
async function crash(
  world: World,
  n: number,
  when: "before" | "after",
  begin: (process: Process) => Promise<Operation>,
) {
  const kv = dyingAt(world.kv, n, when);
  await using process = await world.boot({ kv, reconcileMs: 3_600_000 });
  const leave = new AbortController();
  const done = begin(process).then((operation) => over(process, operation, leave.signal)).then(() => {}, () => {});
  await Promise.race([kv.dead, done]);
  leave.abort();
  await done;
  return kv.died();
}

/** The one operation of the project, over in a process that lives. */
async function settled(process: Process, kind: string): Promise<Operation | undefined> {
  const { operations } = await process.operations.listOperations({ project });
  const operation = operations.find((o) => o.kind === kind);
  return operation && await over(process, operation);
}

for (const when of ["before", "after"] as const) {
  Deno.test(`create: a process that dies ${when} any of its writes ends in done or undone, nothing leaked`, async () => {
    for (let n = 1;; n++) {
      await using world = await World.open();
      {
        await using setup = await world.boot({ run: false });
        await register(setup, "node01");
        await importImage(setup);
      }
      const died = await crash(world, n, when, (process) => process.vms.createVm(vmRequest));
      await using survivor = await world.boot();
      const end = await settled(survivor, "vm.create");
      if (end) {
        assert.equal(end.state, OperationState.DONE, `write ${n}: ${end.error?.message}`);
        assert.equal(world.agent("node01").vms.size, 1);
        assert.equal(world.network.ports.size, 1);
        await over(survivor, await survivor.vms.deleteVm({ project, vm: "web" }));
      } else {
        assert.equal(await code(survivor.vms.getVm({ project, vm: "web" })), "not_found/vm_not_found");
      }
      assert.deepEqual(await world.leftovers(survivor.platform), nothing, `after write ${n}`);
      if (!died) {
        assert.ok(n > 8, `only ${n - 1} writes were tried`);
        return;
      }
    }
  });

  Deno.test(`failing create: a process that dies ${when} any write of its undo leaves nothing`, async () => {
    for (let n = 1;; n++) {
      await using world = await World.open();
      {
        await using setup = await world.boot({ run: false });
        await register(setup, "node01");
        await importImage(setup);
      }
      world.agent("node01").hook = (call) => {
        if (call === "ensure") throw fault("failed_precondition", "refused", "Cannot boot this");
      };
      const died = await crash(world, n, when, (process) => process.vms.createVm(vmRequest));
      await using survivor = await world.boot();
      const end = await settled(survivor, "vm.create");
      if (end) assert.equal(end.state, OperationState.FAILED, `write ${n}`);
      assert.deepEqual(await world.leftovers(survivor.platform), nothing, `after write ${n}`);
      if (!died) return;
    }
  });

  Deno.test(`delete: a process that dies ${when} any of its writes still ends it`, async () => {
    for (let n = 1;; n++) {
      await using world = await World.open();
      {
        await using setup = await world.boot();
        await register(setup, "node01");
        await importImage(setup);
        await over(setup, await setup.vms.createVm(vmRequest));
      }
      const died = await crash(world, n, when, (process) => process.vms.deleteVm({ project, vm: "web" }));
      await using survivor = await world.boot();
      const end = await settled(survivor, "vm.delete");
      if (end) {
        assert.equal(end.state, OperationState.DONE, `write ${n}`);
        assert.deepEqual(await world.leftovers(survivor.platform), nothing, `after write ${n}`);
      } else assert.equal(await code(survivor.vms.getVm({ project, vm: "web" })), "ok");
      if (!died) return;
    }
  });
}
