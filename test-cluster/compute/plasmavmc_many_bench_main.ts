import { FlavorService } from "@ultracloud/proto/plasmavmc/v1";
import { OperationState } from "@ultracloud/proto/common/v1";
import { ComputeCloud, project } from "./cloud.ts";

/** One worker full of tiny VMs. */

const wanted = 50;

await using cloud = await ComputeCloud.open({
  workers: ["n1"],
  leaseTtlMs: 60_000,
  // Idle guests share processors: what the worker promises is slots and memory.
  workerConfig: { capacity: { vcpusPerCore: Math.ceil(wanted / navigator.hardwareConcurrency) } },
});
const flavor = { name: "least", vcpus: 1, memoryBytes: 48n * 1024n ** 2n, diskBytes: 0n };
await cloud.client(FlavorService).createFlavor({ flavor });
const [node] = (await cloud.nodes.listNodes({})).nodes;
const { vmSlots, vcpus } = node!.capacity!;
const start = performance.now();
const ends = await Promise.all(Array.from({ length: wanted }, async (_, i) => {
  const request = { ...cloud.vmRequest(`vm${i}`, { network: false }), flavor: "least" };
  return await cloud.over(await cloud.vms.createVm(request, { timeoutMs: 60_000 }));
}));
const done = ends.filter((o) => o.state === OperationState.DONE).length;
const qemus = cloud.qemusOf("n1");
let residentBytes = 0;
for (const pid of qemus) {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  residentBytes += Number(/VmRSS:\s*(\d+)/.exec(status)?.[1] ?? 0) * 1024;
}
const { vms } = await cloud.vms.listVms({ project });
console.log(
  `${wanted} tiny VMs asked of one worker with ${vmSlots} slots and ${vcpus} vCPUs: ${done} run after ` +
    `${((performance.now() - start) / 1000).toFixed(1)} s, ${qemus.length} QEMUs, ` +
    `${(residentBytes / 2 ** 20 / Math.max(1, qemus.length)).toFixed(0)} MiB each (wanted: ${wanted})`,
);
if (done < wanted) console.log(`the others: ${ends.find((o) => o.error)?.error?.message}`);
if (vms.length !== done) throw new Error(`${vms.length} VMs are listed, ${done} were made`);
