import { NodeLossPolicy, NodeState, VmState } from "@ultracloud/proto/plasmavmc/v1";
import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";
import type { Proof } from "./proof.ts";
import { deviceScript } from "./volume.ts";

const mib = 1024n ** 2n;
const leaseTtlMs = 6_000;

/** A worker that hears nothing of the control plane stops its VMs before its lease can have ended; then one starts elsewhere. */
export async function fencing(proof: Proof): Promise<void> {
  await using cloud = await ComputeCloud.open({
    workers: ["n1", "n2", "n3"],
    leaseTtlMs,
  });
  const { vms, volumes, nodes } = cloud;
  // Its disk must outlive its VM's worker: it is a file of another.
  await cloud.done(volumes.createVolume({ project, name: "data", sizeBytes: 16n * mib, shared: true, node: "n3" }));
  for (const name of ["n2", "n3"]) await nodes.setNodeCordoned({ name, cordoned: true });
  await cloud.done(vms.createVm({
    ...vmRequest("web"),
    nodeLossPolicy: NodeLossPolicy.EVACUATE,
    volumes: [{ volume: "data" }],
  }));
  await cloud.done(vms.createVm(vmRequest("stays", { network: false })));
  const { writerEpoch, node } = await vms.getVm({ project, vm: "web" });
  proof.check(node === "n1", "the VM runs on n1, its shared disk is on n3");
  const id = (await volumes.getVolume({ project, volume: "data" })).meta!.id;
  const device = await cloud.guest("web", deviceScript(id));
  await cloud.guest("web", `echo written-on-n1 | dd of=/dev/${device} conv=fsync 2>/dev/null; sync`);
  await nodes.setNodeCordoned({ name: "n2", cordoned: false });

  // Cut off: the worker's agent lives on and is heard by nobody.
  const vmId = (await vms.getVm({ project, vm: "web" })).meta!.id;
  const mend = cloud.workers.cutOff("n1");
  const cut = performance.now();
  proof.seen("n1 is cut off from the control plane");
  let copiesMax = 0;
  let stoppedMs = 0;
  await until("it runs elsewhere", 120_000, async () => {
    const here = cloud.workers.qemusOf("n1", vmId).length;
    const there = cloud.workers.qemusOf("n2", vmId).length;
    copiesMax = Math.max(copiesMax, here + there);
    if (here === 0 && stoppedMs === 0) stoppedMs = performance.now() - cut;
    const vm = await vms.getVm({ project, vm: "web" });
    return vm.node === "n2" && vm.state === VmState.RUNNING;
  });
  proof.check(
    stoppedMs > 0 && stoppedMs < leaseTtlMs,
    `n1 stopped it by itself after ${Math.round(stoppedMs)} ms, before its lease of ${leaseTtlMs} ms could end`,
  );
  proof.check(copiesMax === 1, "there never were two copies");
  const after = await vms.getVm({ project, vm: "web" });
  proof.check(after.writerEpoch > writerEpoch, `its writer epoch went from ${writerEpoch} to ${after.writerEpoch}`);
  const found = await cloud.guest(
    "web",
    `for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "${id.slice(-20)}" ] && head -c 13 /dev/$(basename $d); done`,
  );
  proof.check(found === "written-on-n1", "what it wrote on n1 is on its disk");
  const other = await vms.getVm({ project, vm: "stays" });
  proof.check(
    other.node === "n1" && other.state === VmState.UNKNOWN,
    "a VM that is to stay is unknown, and nobody starts it",
  );
  mend();
  await cloud.untilNode("n1", NodeState.READY);
  await until("the old copy is gone", 60_000, async () => (await cloud.workers.vmIdsOn("n1")).every((v) => v !== vmId));
  proof.seen("n1 is back, and what it had of the VM is removed");
  const stays = await vms.getVm({ project, vm: "stays" });
  await until(
    "the other is known again",
    30_000,
    async () => (await vms.getVm({ project, vm: "stays" })).state !== VmState.UNKNOWN,
  );
  proof.seen(
    `the VM that stayed is ${VmState[(await vms.getVm({ project, vm: stays.meta!.name })).state].toLowerCase()} again`,
  );

  const drain = await cloud.maintenance.drainNode({ name: "n2" });
  await nodes.setNodeCordoned({ name: "n3", cordoned: false });
  const ended = await cloud.over(drain, { project: "" });
  proof.check(ended.progressPercent === 100, "n2 is drained: an operation with progress, step by step");
  proof.check((await vms.getVm({ project, vm: "web" })).node !== "n2", "its VM runs elsewhere");
  await cloud.guest("web", "true");
}
