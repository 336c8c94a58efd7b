import { OperationState } from "@ultracloud/proto/common/v1";
import { ComputeCloud, project } from "./cloud.ts";
import type { Proof } from "./proof.ts";

/** More VMs at once than workers have room for: the real control plane on the real store, with real QEMUs. */
export async function race(proof: Proof): Promise<void> {
  const askedFor = Number(Deno.env.get("RACE_VMS") ?? 20);
  await using cloud = await ComputeCloud.open({ workers: ["n1", "n2"], leaseTtlMs: 30_000 });
  const memoryEach = 64n * 1024n ** 2n;
  const flavors = cloud.client((await import("@ultracloud/proto/plasmavmc/v1")).FlavorService);
  const { nodes } = await cloud.nodes.listNodes({});
  const vcpus = nodes.reduce((sum, n) => sum + n.capacity!.vcpus, 0);
  // So many processors each that half of them fit.
  const each = Math.max(1, Math.floor(vcpus / (askedFor / 2)));
  const room = nodes.reduce((sum, n) => sum + Math.min(n.capacity!.vmSlots, Math.floor(n.capacity!.vcpus / each)), 0);
  await flavors.createFlavor({ flavor: { name: "race", vcpus: each, memoryBytes: memoryEach, diskBytes: 0n } });
  const start = performance.now();
  const ends = await Promise.all(Array.from({ length: askedFor }, async (_, i) => {
    const request = { ...cloud.vmRequest(`vm${i}`, { network: false }), flavor: "race" };
    return await cloud.over(await cloud.vms.createVm(request, { timeoutMs: 60_000 }));
  }));
  const placed = ends.filter((o) => o.state === OperationState.DONE).length;
  const refused = ends.filter((o) => o.error?.code === "no_node_fits").length;
  proof.check(
    placed === Math.min(room, askedFor) && placed + refused === askedFor,
    `${askedFor} at once on room for ${room}: ${placed} placed, ${refused} refused as nothing fits, in ` +
      `${Math.round(performance.now() - start)} ms`,
  );
  const qemus = cloud.qemusOf("n1").length + cloud.qemusOf("n2").length;
  proof.check(qemus === placed, `${qemus} QEMUs run`);
  for (const node of (await cloud.nodes.listNodes({})).nodes) {
    proof.check(
      node.allocated!.vcpus <= node.capacity!.vcpus,
      `${node.name} has given ${node.allocated!.vcpus} of ${node.capacity!.vcpus} vCPUs`,
    );
  }
  const { vms } = await cloud.vms.listVms({ project });
  await Promise.all(vms.map(async (vm) => await cloud.done(cloud.vms.deleteVm({ project, vm: vm.meta!.name }))));
  proof.check(cloud.qemusOf("n1").length + cloud.qemusOf("n2").length === 0, "deleted: no QEMU is left");
}
