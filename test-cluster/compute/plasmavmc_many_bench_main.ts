import { OperationState } from "@ultracloud/proto/common/v1";
import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";

/** One worker full of VMs of the flavor `tiny` (128 MiB), each a guest that has booted. */

const wanted = 50;
/** Guests that boot at once: as many as there are processors share them anyway, a few more wait for nothing else. */
const startedAtOnce = navigator.hardwareConcurrency * 2;
const marker = "ULTRACLOUD_GUEST_READY";
const idleMs = 10_000;

await using cloud = await ComputeCloud.open({
  workers: ["n1"],
  leaseTtlMs: 60_000,
  // Idle guests share processors: what the worker promises is slots and memory.
  workerConfig: { capacity: { vcpusPerCore: Math.ceil(wanted / navigator.hardwareConcurrency) } },
});
const { vmSlots, vcpus } = (await cloud.nodes.listNodes({})).nodes[0]!.capacity!;

const upAfterMs: number[] = [];
const failures: string[] = [];
const start = performance.now();

/** From the create call until the guest itself says that it is up. */
async function startOne(name: string): Promise<void> {
  const since = performance.now();
  const request = { ...vmRequest(name, { network: false }), userData: "" };
  const ended = await cloud.over(await cloud.vms.createVm(request, { timeoutMs: 60_000 }));
  if (ended.state !== OperationState.DONE) return void failures.push(ended.error?.message ?? "no reason told");
  await until(`guest ${name} is up`, 120_000, async () => {
    const { data } = await cloud.vms.getConsoleLog({ project, vm: name });
    return new TextDecoder().decode(data).includes(marker);
  });
  upAfterMs.push(performance.now() - since);
}

const names = Array.from({ length: wanted }, (_, i) => `vm${i}`).values();
await Promise.all(Array.from({ length: startedAtOnce }, async () => {
  // The iterator is shared: each takes the next name.
  for (const name of names) await startOne(name);
}));
const allMs = performance.now() - start;

/** Resident bytes, of them those that no other process shares, and clock ticks of processors, of one process. */
async function used(pid: number): Promise<{ residentBytes: number; ownBytes: number; ticks: number }> {
  const rollup = await Deno.readTextFile(`/proc/${pid}/smaps_rollup`);
  const sum = (name: string) =>
    [...rollup.matchAll(new RegExp(`^${name}:\\s*(\\d+) kB`, "gm"))].reduce((all, m) => all + Number(m[1]) * 1024, 0);
  const stat = await Deno.readTextFile(`/proc/${pid}/stat`);
  // Fields 14 and 15; the name before them may hold spaces.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return {
    residentBytes: sum("Rss"),
    ownBytes: sum("Private_Clean") + sum("Private_Dirty"),
    ticks: Number(fields[11]) + Number(fields[12]),
  };
}

const qemus = cloud.workers.qemusOf("n1");
const before = await Promise.all(qemus.map(used));
await new Promise((resolve) => setTimeout(resolve, idleMs));
const after = await Promise.all(qemus.map(used));
const total = (all: typeof after, of: "residentBytes" | "ownBytes" | "ticks") => all.reduce((sum, u) => sum + u[of], 0);
const inMib = (bytes: number) => (bytes / 2 ** 20).toFixed(0);
// A tick is a hundredth of a second on every Linux that Deno runs on.
const cpuShare = (total(after, "ticks") - total(before, "ticks")) / 100 / (idleMs / 1000);

const { vms } = await cloud.vms.listVms({ project });
const running = await Promise.all(vms.map((vm) => cloud.workers.guestsRunning("n1", vm.meta!.id)));
const run = running.filter(Boolean).length;
upAfterMs.sort((a, b) => a - b);
console.log(`${wanted} tiny VMs asked of one worker with ${vmSlots} slots and ${vcpus} vCPUs: ${run} run`);
console.log(
  `all up after ${(allMs / 1000).toFixed(1)} s, ${startedAtOnce} at a time; one took ${
    ((upAfterMs[Math.floor(upAfterMs.length / 2)] ?? NaN) / 1000).toFixed(1)
  } s (median)`,
);
console.log(
  `resident: ${inMib(total(after, "residentBytes"))} MiB in all, ${
    inMib(total(after, "residentBytes") / qemus.length)
  } MiB each, of them ${inMib(total(after, "ownBytes") / qemus.length)} MiB its own`,
);
console.log(
  `idle: ${cpuShare.toFixed(2)} processors for all, ${
    (100 * cpuShare / qemus.length).toFixed(1)
  } % of one for each; load of the machine ${Deno.loadavg()[0]!.toFixed(1)}`,
);
if (run < wanted || qemus.length !== wanted) {
  throw new Error(`${run} VMs run in ${qemus.length} QEMUs, wanted ${wanted}: ${failures[0] ?? "none was refused"}`);
}
