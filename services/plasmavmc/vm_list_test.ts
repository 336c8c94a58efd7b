import assert from "node:assert/strict";
import { type Vm, VmService, VmState } from "@ultracloud/proto/plasmavmc/v1";
import { inProcessClient, serveLocally } from "@ultracloud/testing";
import { importImage, over, type Process, project, register, vmRequest, World } from "./test_world.ts";

const list = async (
  process: Process,
  o: { readonly project?: string; readonly labels?: Record<string, string> } = {},
) => (await process.vms.listVms({ project: o.project ?? project, page: { labels: o.labels ?? {}, filter: [] } })).vms;
const names = (vms: readonly Vm[]) => vms.map((vm) => vm.meta!.name);

Deno.test("lists tell every write at once, in each replica, and nobody else's VMs", async () => {
  await using world = await World.open();
  await using one = await world.boot({ reconcileMs: 3_600_000 });
  await using two = await world.boot({ reconcileMs: 3_600_000, run: false });
  await register(one, "node01");
  await importImage(one);
  assert.deepEqual([await list(one), await list(two)], [[], []]);
  for (const name of ["a", "b", "c"]) {
    const done = await over(one, await one.vms.createVm({ ...vmRequest, name }));
    assert.equal(done.error?.message, undefined);
  }
  for (const process of [one, two]) {
    const vms = await list(process);
    assert.deepEqual(vms.map((vm) => [vm.meta!.name, vm.state]), ["a", "b", "c"].map((n) => [n, VmState.RUNNING]));
    assert.deepEqual(await list(process), vms, "the second time from what is kept");
    assert.deepEqual(await list(process, { project: "acme/dev" }), []);
  }

  // What one replica has answered before is no reason to tell it again.
  for (let round = 0; round < 5; round++) {
    const labels = { round: String(round) };
    const updated = await one.vms.updateVm({ project, vm: "b", labels, updateMask: { paths: ["labels"] } });
    for (const process of [two, one]) {
      const found = (await list(process)).find((vm) => vm.meta!.name === "b");
      assert.deepEqual(found, updated);
      assert.deepEqual(names(await list(process, { labels })), ["b"]);
    }
  }
  await over(one, await one.vms.deleteVm({ project, vm: "a" }));
  for (const process of [one, two]) assert.deepEqual(names(await list(process)), ["b", "c"]);
  await over(one, await one.vms.createVm({ ...vmRequest, name: "a" }));
  for (const process of [one, two]) {
    const [a] = await list(process);
    assert.deepEqual(a, await process.vms.getVm({ project, vm: "a" }));
  }
});

Deno.test("a list over the wire says in its bytes what it says by itself, page by page", async () => {
  await using world = await World.open();
  await using process = await world.boot({ reconcileMs: 3_600_000 });
  await using server = await serveLocally("plasmavmc", process.services);
  await register(process, "node01");
  await importImage(process);
  for (const name of ["a", "b", "c"]) await over(process, await process.vms.createVm({ ...vmRequest, name }));
  const far = server.client(VmService);
  const near = inProcessClient(VmService, process.services);
  const seen: string[] = [];
  for (let pageToken = "", round = 0; round === 0 || pageToken !== ""; round++) {
    const request = { project, page: { pageSize: 2, pageToken } };
    const answer = await far.listVms(request);
    const plain = await near.listVms(request);
    assert.deepEqual(answer.vms, plain.vms);
    assert.deepEqual(answer.page, plain.page);
    assert.deepEqual((await far.listVms(request)).vms, plain.vms, "again from what is kept");
    seen.push(...names(answer.vms));
    pageToken = answer.page!.nextPageToken;
  }
  assert.deepEqual(seen, ["a", "b", "c"]);
  await process.vms.updateVm({ project, vm: "b", labels: { new: "yes" }, updateMask: { paths: ["labels"] } });
  assert.deepEqual((await far.listVms({ project })).vms[1]?.meta?.labels, { new: "yes" });
});
