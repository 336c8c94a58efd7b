import assert from "node:assert/strict";
import { fault } from "@ultracloud/base";
import { type Operation, OperationState } from "@ultracloud/proto/common/v1";
import { VolumeState } from "@ultracloud/proto/plasmavmc/v1";
import { crash, settled } from "./test_crash.ts";
import { code, importImage, nothing, over, type Process, project, register, vmRequest, World } from "./test_world.ts";

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

interface Case {
  readonly name: string;
  readonly kind: string;
  /** Ports are taps, which two hosts can carry. */
  readonly taps?: boolean;
  /** Made before the process that dies. */
  readonly setup: (process: Process) => Promise<void>;
  readonly begin: (process: Process) => Promise<Operation>;
  /** How it must be once the operation is over. */
  readonly check: (world: World, process: Process, done: boolean) => Promise<void> | void;
}

const mib = 1024n ** 2n;
const volume = { project, volume: "data" };
const attached = { project, vm: "web", volume: "data" };

async function withVolume(process: Process): Promise<void> {
  await over(process, await process.vms.createVm(vmRequest));
  const shared = { project, name: "data", sizeBytes: mib, shared: true, node: "node01" };
  await over(process, await process.volumes.createVolume(shared));
}

async function withAttached(process: Process): Promise<void> {
  await withVolume(process);
  await over(process, await process.vms.attachVolume(attached));
}

/** The one worker whose processors run the guest. */
function theOneHome(world: World): string {
  const homes = [...world.agents.values()].filter((agent) => agent.running().length > 0);
  assert.equal(homes.length, 1, `the guest runs on ${homes.map((h) => h.name).join(" and ") || "none"}`);
  return homes[0]!.name;
}

async function migrated(world: World, process: Process): Promise<void> {
  const vm = await process.vms.getVm({ project, vm: "web" });
  assert.equal(vm.node, theOneHome(world));
  assert.equal([...world.agents.values()].filter((agent) => agent.vms.size > 0).length, 1);
  const port = [...world.network.ports.values()][0]!;
  assert.deepEqual([port.host, port.arrivingHost], [vm.node, ""]);
  for (const node of ["node01", "node02"]) {
    const { allocated } = await process.nodes.getNode({ name: node });
    assert.equal(allocated!.vmSlots, node === vm.node ? 1 : 0, node);
  }
}

const cases: readonly Case[] = [
  {
    name: "attach",
    kind: "vm.attach_volume",
    setup: withVolume,
    begin: (process) => process.vms.attachVolume(attached),
    async check(world, process, done) {
      const { state } = await process.volumes.getVolume(volume);
      const spec = [...world.agent(theOneHome(world)).vms.values()][0]!.spec;
      assert.equal(spec.volumes.length, done ? 1 : 0);
      assert.equal(state, done ? VolumeState.IN_USE : VolumeState.AVAILABLE);
    },
  },
  {
    name: "detach",
    kind: "vm.detach_volume",
    setup: withAttached,
    begin: (process) => process.vms.detachVolume(attached),
    async check(world, process, done) {
      const { state } = await process.volumes.getVolume(volume);
      assert.equal(state, done ? VolumeState.AVAILABLE : VolumeState.IN_USE);
      const exports = [...world.agent("node01").volumes.values()][0]!.exports.size;
      assert.equal(exports, done ? 0 : 1);
    },
  },
  {
    name: "grow",
    kind: "volume.grow",
    setup: withAttached,
    begin: (process) => process.volumes.growVolume({ ...volume, sizeBytes: 2n * mib }),
    async check(world, process, done) {
      const size = done ? 2n * mib : mib;
      assert.equal((await process.volumes.getVolume(volume)).sizeBytes, size);
      assert.equal([...world.agent(theOneHome(world)).vms.values()][0]!.spec.volumes[0]!.sizeBytes, size);
      assert.equal((await process.nodes.getNode({ name: "node01" })).allocated!.diskBytes, size);
    },
  },
  {
    name: "migrate",
    kind: "vm.migrate",
    setup: withAttached,
    begin: (process) => process.vms.migrateVm({ project, vm: "web" }),
    check: migrated,
  },
  {
    name: "migrate with ports that two hosts carry",
    kind: "vm.migrate",
    taps: true,
    setup: withAttached,
    begin: (process) => process.vms.migrateVm({ project, vm: "web" }),
    check: migrated,
  },
  {
    name: "resize",
    kind: "vm.resize",
    async setup(process) {
      await process.flavors.createFlavor({
        flavor: { name: "big", vcpus: 2, memoryBytes: 256n * mib, diskBytes: 0n },
      });
      await withVolume(process);
    },
    begin: (process) => process.vms.resizeVm({ project, vm: "web", flavor: "big", restart: true }),
    async check(world, process, done) {
      const home = theOneHome(world);
      assert.equal([...world.agent(home).vms.values()][0]!.spec.vcpus, done ? 2 : 1);
      assert.equal((await process.nodes.getNode({ name: home })).allocated!.vcpus, done ? 2 : 1);
    },
  },
  {
    name: "snapshot",
    kind: "snapshot.create",
    setup: withAttached,
    begin: (process) => process.snapshots.createSnapshot({ project, name: "one", vm: "web" }),
    async check(world, process, done) {
      const { snapshots } = await process.snapshots.listSnapshots({ project });
      const copies = [...world.agents.values()].reduce((sum, agent) => sum + agent.snapshots.size, 0);
      assert.deepEqual([snapshots.length, copies], done ? [1, 1] : [0, 0]);
    },
  },
];

for (const one of cases) {
  for (const when of ["before", "after"] as const) {
    Deno.test(`${one.name}: a process that dies ${when} any of its writes ends in done or undone, nothing leaked`, async () => {
      for (let n = 1;; n++) {
        await using world = await World.open();
        world.network.taps = one.taps ?? false;
        {
          await using setup = await world.boot();
          for (const node of ["node01", "node02"]) await register(setup, node);
          await importImage(setup);
          await one.setup(setup);
        }
        const died = await crash(world, n, when, one.begin);
        await using survivor = await world.boot();
        const end = await settled(survivor, one.kind);
        if (end) assert.equal(end.state, OperationState.DONE, `write ${n}: ${end.error?.message}`);
        await one.check(world, survivor, end !== undefined);
        assert.equal((await survivor.vms.getVm({ project, vm: "web" })).operation, "", `after write ${n}`);
        await over(survivor, await survivor.vms.deleteVm({ project, vm: "web" }));
        await over(survivor, await survivor.volumes.deleteVolume(volume));
        assert.deepEqual(await world.leftovers(survivor.platform), nothing, `after write ${n}`);
        if (!died) {
          assert.ok(n > 3, `only ${n - 1} writes were tried`);
          return;
        }
      }
    });
  }
}
