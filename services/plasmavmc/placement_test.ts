import assert from "node:assert/strict";
import { OperationState } from "@ultracloud/proto/common/v1";
import { GroupStrictness } from "@ultracloud/proto/plasmavmc/v1";
import { code, importImage, over, project, register, vmRequest, World } from "./test_world.ts";

async function ready() {
  const world = await World.open();
  const process = await world.boot();
  await importImage(process);
  const stack = new AsyncDisposableStack();
  stack.use(world);
  stack.use(process);
  const make = async (o: object) => await over(process, await process.vms.createVm({ ...vmRequest, ...o }));
  const nodeOf = async (vm: string) => (await process.vms.getVm({ project, vm })).node;
  return { world, process, stack, make, nodeOf };
}

Deno.test("of 100 VMs at once on workers with room for 50 exactly 50 are placed and 50 told why not", async () => {
  const { world, process, stack } = await ready();
  await using _ = stack;
  for (const node of ["node01", "node02", "node03"]) {
    await register(process, node, { slots: node === "node03" ? 10 : 20 });
  }
  const ends = await Promise.all(Array.from({ length: 100 }, async (_, i) => {
    const name = `web${i}`;
    return await over(process, await process.vms.createVm({ ...vmRequest, name, subnets: [], securityGroups: [] }));
  }));
  assert.equal(ends.filter((o) => o.state === OperationState.DONE).length, 50);
  assert.equal(ends.filter((o) => o.error?.code === "no_node_fits").length, 50);
  for (const [node, slots] of [["node01", 20], ["node02", 20], ["node03", 10]] as const) {
    assert.equal(world.agent(node).running().length, slots);
    assert.equal((await process.nodes.getNode({ name: node })).allocated!.vmSlots, slots);
  }
});

Deno.test("a hard group is kept apart or refused, by worker and by rack; a soft one where there is room", async () => {
  const { process, stack, make, nodeOf } = await ready();
  await using _ = stack;
  for (const [node, rack] of [["node01", "a"], ["node02", "a"], ["node03", "b"]] as const) {
    await register(process, node, { labels: { rack } });
  }
  const { groups } = process;
  const group = (name: string, strictness: GroupStrictness, domainLabel = "") =>
    groups.createPlacementGroup({ project, name, strictness, domainLabel });
  await group("hosts", GroupStrictness.HARD);
  await group("racks", GroupStrictness.HARD, "rack");
  await group("soft", GroupStrictness.SOFT);
  assert.equal(await code(group("bad", GroupStrictness.UNSPECIFIED)), "invalid_argument/invalid_field");

  const names = ["a", "b", "c", "d"];
  const ends = await Promise.all(names.map((name) => make({ name, groups: ["hosts"] })));
  assert.equal(ends.filter((o) => o.state === OperationState.DONE).length, 3);
  const refused = ends.find((o) => o.state !== OperationState.DONE)!;
  assert.match(refused.error!.message, /node01: it has a VM of group hosts already/);
  const placed = names.filter((_, i) => ends[i]!.state === OperationState.DONE);
  assert.equal(new Set(await Promise.all(placed.map(nodeOf))).size, 3);

  const racks = await Promise.all(["r1", "r2", "r3"].map((name) => make({ name, groups: ["racks"] })));
  assert.equal(racks.filter((o) => o.state === OperationState.DONE).length, 2);

  const soft = await Promise.all(["s1", "s2", "s3", "s4"].map((name) => make({ name, groups: ["soft"] })));
  assert.ok(soft.every((o) => o.state === OperationState.DONE));
  assert.equal(new Set(await Promise.all(["s1", "s2", "s3", "s4"].map(nodeOf))).size, 3);

  assert.equal(await code(groups.deletePlacementGroup({ project, group: "soft" })), "failed_precondition/group_in_use");
  for (const vm of ["s1", "s2", "s3", "s4"]) await over(process, await process.vms.deleteVm({ project, vm }));
  await groups.deletePlacementGroup({ project, group: "soft" });
});

Deno.test("placement explains itself for each worker", async () => {
  const { process, stack, make } = await ready();
  await using _ = stack;
  await register(process, "node01", { slots: 1 });
  await register(process, "node02", { labels: { disk: "ssd" } });
  await process.nodes.setNodeCordoned({ name: "node02", cordoned: true });
  await make({});
  const answer = await process.placement.explainPlacement({ project, flavor: "tiny", nodeSelector: { disk: "hdd" } });
  assert.deepEqual(answer.verdicts.map((v) => [v.node, v.whyNot]), [
    ["node01", ['its label disk is "", not "hdd"', "all its 1 VM slots are taken"]],
    ["node02", ["it is cordoned", 'its label disk is "ssd", not "hdd"']],
  ]);
  assert.equal(answer.chosen, "");
  await process.nodes.setNodeCordoned({ name: "node02", cordoned: false });
  assert.equal((await process.placement.explainPlacement({ project, vm: "web" })).chosen, "node02");
});

Deno.test("moves that even workers out are suggested, and nothing moves", async () => {
  const { process, stack, make, nodeOf } = await ready();
  await using _ = stack;
  await register(process, "node01", { memoryBytes: 1024 ** 3 });
  for (const name of ["a", "b", "c", "d"]) await make({ name });
  await register(process, "node02", { memoryBytes: 1024 ** 3 });
  const plan = await process.placement.suggestMoves({});
  assert.equal(plan.moves.length, 2);
  assert.deepEqual(plan.moves.map((m) => [m.source, m.target]), [["node01", "node02"], ["node01", "node02"]]);
  assert.deepEqual([plan.spreadPercent, plan.spreadAfterPercent], [50, 0]);
  for (const name of ["a", "b", "c", "d"]) assert.equal(await nodeOf(name), "node01");
});

Deno.test("flavors of the platform stand, administrators add others", async () => {
  const { process, stack } = await ready();
  await using _ = stack;
  const { flavors } = process;
  const flavor = { name: "wide", vcpus: 4, memoryBytes: 1n << 30n, diskBytes: 0n, description: "for tests" };
  await flavors.createFlavor({ flavor });
  assert.equal((await flavors.getFlavor({ project, name: "wide" })).vcpus, 4);
  assert.equal(await code(flavors.createFlavor({ flavor })), "already_exists/flavor_exists");
  assert.equal(
    await code(flavors.createFlavor({ flavor: { ...flavor, name: "tiny" } })),
    "failed_precondition/flavor_builtin",
  );
  assert.equal(
    await code(flavors.createFlavor({ flavor: { ...flavor, name: "none", vcpus: 0 } })),
    "invalid_argument/invalid_field",
  );
  await flavors.updateFlavor({ flavor: { ...flavor, vcpus: 8 } });
  assert.equal((await flavors.listFlavors({ project })).flavors.find((f) => f.name === "wide")!.vcpus, 8);
  await flavors.deleteFlavor({ name: "wide" });
  assert.equal(await code(flavors.getFlavor({ project, name: "wide" })), "not_found/flavor_not_found");
});

Deno.test("an alias names versions of an image, which VMs pin", async () => {
  const { process, stack, make } = await ready();
  await using _ = stack;
  await register(process, "node01");
  const { aliases } = process;
  await aliases.addImageVersion({ project, alias: "os", image: "tiny" });
  const same = await aliases.addImageVersion({ project, alias: "os", image: "tiny" });
  assert.equal(same.versions.length, 1);
  const newer = await importImage(process, { name: "newer", content: (await import("./test_bundles.ts")).bundle("2") });
  await aliases.addImageVersion({ project, alias: "os", image: "newer" });
  await make({ name: "one", image: "os@1" });
  await make({ name: "two", image: "os" });
  const imageOf = async (vm: string) => (await process.vms.getVm({ project, vm })).imageSha256;
  assert.equal(await imageOf("two"), newer.sha256);
  assert.notEqual(await imageOf("one"), newer.sha256);
  assert.equal(await code(process.vms.createVm({ ...vmRequest, image: "os@9" })), "not_found/image_version_not_found");
  assert.equal(await code(process.images.deleteImage({ project, image: "newer" })), "failed_precondition/image_in_use");
  assert.equal(
    await code(aliases.addImageVersion({ project, alias: "tiny", image: "newer" })),
    "already_exists/image_exists",
  );
});

Deno.test("SSH keys are checked, fingerprinted and reach the guest", async () => {
  const { world, process, stack, make } = await ready();
  await using _ = stack;
  await register(process, "node01");
  const publicKey =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl someone@somewhere";
  const key = await process.keys.createSshKey({ project, name: "mine", publicKey });
  assert.equal(key.fingerprint, "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
  for (const bad of ["", "ssh-ed25519 AAAA", 'command="rm" ' + publicKey, publicKey.replace("ed25519", "rsa")]) {
    assert.equal(
      await code(process.keys.createSshKey({ project, name: "bad", publicKey: bad })),
      "invalid_argument/invalid_field",
    );
  }
  await make({ sshKeys: ["mine"] });
  assert.deepEqual([...world.agent("node01").vms.values()][0]!.spec.sshAuthorizedKeys, [publicKey]);
});
