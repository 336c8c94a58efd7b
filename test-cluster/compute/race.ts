import { OperationState } from "@ultracloud/proto/common/v1";
import { FlavorService } from "@ultracloud/proto/plasmavmc/v1";
import { ComputeCloud, project, vmRequest } from "./cloud.ts";
import type { Proof } from "./proof.ts";

const askedForDefault = 100;
const workers = ["n1", "n2"] as const;
const memoryBytes = 64n * 1024n ** 2n;

/** Twice as many VMs at once as workers have room for: the real control plane on the real store, with real QEMUs. */
export async function race(proof: Proof): Promise<void> {
  const askedFor = Number(Deno.env.get("RACE_VMS") ?? askedForDefault);
  const room = Math.floor(askedFor / 2 / workers.length) * workers.length;
  await using cloud = await ComputeCloud.open({
    workers,
    leaseTtlMs: 60_000,
    workerConfig: { capacity: { vcpusPerCore: room / workers.length / navigator.hardwareConcurrency } },
  });
  const capacity = (await cloud.nodes.listNodes({})).nodes.reduce((sum, n) => sum + n.capacity!.vcpus, 0);
  proof.check(capacity === room, `the workers have room for ${capacity} VMs of one vCPU`);
  const flavor = { name: "race", vcpus: 1, memoryBytes, diskBytes: 0n };
  await cloud.client(FlavorService).createFlavor({ flavor });

  const start = performance.now();
  const looks = { over: 0, count: 0 };
  const stop = new AbortController();
  const looking = (async () => {
    while (!stop.signal.aborted) {
      for (const node of (await cloud.nodes.listNodes({})).nodes) {
        looks.count++;
        if (node.allocated!.vcpus > node.capacity!.vcpus) looks.over++;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  })();
  const ends = await Promise.all(Array.from({ length: askedFor }, async (_, i) => {
    const request = { ...vmRequest(`vm${i}`, { network: false }), flavor: "race" };
    return await cloud.over(await cloud.vms.createVm(request, { timeoutMs: 120_000 }));
  }));
  stop.abort();
  await looking;
  const placed = ends.filter((o) => o.state === OperationState.DONE).length;
  const refused = ends.filter((o) => o.error?.code === "no_node_fits" && o.error.kind === "resource_exhausted").length;
  proof.check(
    placed === room && placed + refused === askedFor,
    `${askedFor} at once on room for ${room}: ${placed} placed, ${refused} refused as ResourceExhausted, in ` +
      `${Math.round(performance.now() - start)} ms`,
  );
  proof.check(looks.over === 0, `no worker had given more than it has in ${looks.count} looks meanwhile`);
  const qemus = workers.map((name) => cloud.workers.qemusOf(name).length);
  proof.check(qemus.reduce((a, b) => a + b) === placed, `${qemus.join(" and ")} QEMUs run`);
  for (const node of (await cloud.nodes.listNodes({})).nodes) {
    proof.check(
      node.allocated!.vcpus === node.capacity!.vcpus,
      `${node.name} has given ${node.allocated!.vcpus} of ${node.capacity!.vcpus} vCPUs`,
    );
  }
  const { vms } = await cloud.vms.listVms({ project, page: { pageSize: 500 } });
  proof.check(vms.length === placed, `${vms.length} VMs are listed: what was refused left no record`);
  await Promise.all(vms.map(async (vm) => await cloud.done(cloud.vms.deleteVm({ project, vm: vm.meta!.name }))));
  proof.check(workers.every((name) => cloud.workers.qemusOf(name).length === 0), "deleted: no QEMU is left");
}
