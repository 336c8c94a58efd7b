import { VmState } from "@ultracloud/proto/plasmavmc/v1";
import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";
import { rightsOf } from "./workers.ts";
import type { Proof } from "./proof.ts";

const mib = 1024n ** 2n;

/** The whole life of one VM on one worker, with what the guest sees of each change. */
export async function lifecycle(proof: Proof): Promise<void> {
  await using cloud = await ComputeCloud.open({ workers: ["n1"] });
  const { vms } = cloud;
  const state = async () => (await vms.getVm({ project, vm: "web" })).state;
  proof.seen("a control plane and a worker are up");
  await cloud.done(vms.createVm(vmRequest("web")));
  const hostname = await cloud.guest("web", "hostname");
  proof.check(hostname === "web", "the guest runs and has its name from NoCloud");
  const rights = await rightsOf(cloud.workers.qemusOf("n1")[0]!);
  if (Deno.uid() !== 0) proof.seen("skipped: whom QEMU runs as, as that is another user only where root is");
  else {
    proof.check(
      rights.uid >= 640_000 && /^0+$/.test(rights.capabilities),
      `its QEMU runs as uid ${rights.uid} without any capability`,
    );
  }
  const count = async () => Number(await cloud.guest("web", "cat /tmp/count"));

  await cloud.done(vms.pauseVm({ project, vm: "web" }));
  proof.check(await state() === VmState.PAUSED, "it is paused");
  await cloud.done(vms.resumeVm({ project, vm: "web" }));
  const counted = await count();
  await until("it counts again", 30_000, async () => await count() > counted);
  proof.seen("it goes on counting once it is resumed");

  const id = await cloud.guest("web", "cat /proc/sys/kernel/random/boot_id");
  await cloud.done(vms.rebootVm({ project, vm: "web" }));
  await until(
    "another boot id",
    90_000,
    async () => await cloud.guest("web", "cat /proc/sys/kernel/random/boot_id", 5_000) !== id,
  );
  proof.seen("a reboot is a fresh boot of the guest");

  const memory = async () =>
    Number(await cloud.guest("web", "sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"));
  const before = await memory();
  const flavors = await import("@ultracloud/proto/plasmavmc/v1");
  const client = cloud.client(flavors.FlavorService);
  await client.createFlavor({ flavor: { name: "twice", vcpus: 1, memoryBytes: 256n * mib, diskBytes: 0n } });
  await cloud.done(vms.resizeVm({ project, vm: "web", flavor: "twice", restart: true }));
  const after = await memory();
  proof.check(after > before * 1.5, `resized: the guest sees ${after} kB of memory instead of ${before}`);

  const stopStart = performance.now();
  await cloud.done(vms.stopVm({ project, vm: "web" }));
  const log = await vms.getConsoleLog({ project, vm: "web", offset: -4096n });
  proof.check(
    new TextDecoder().decode(log.data).includes("ULTRACLOUD_GUEST_STOPPING"),
    `stopped by ACPI in ${Math.round(performance.now() - stopStart)} ms: the guest said so`,
  );
  proof.check(cloud.workers.qemusOf("n1").length === 0, "no QEMU is left");
  await cloud.done(vms.startVm({ project, vm: "web" }));
  await cloud.guest("web", "true");
  await cloud.done(vms.stopVm({ project, vm: "web", force: true }));
  proof.seen("started again, and stopped by the plug");
  await cloud.done(vms.rebuildVm({ project, vm: "web" }));
  await cloud.done(vms.startVm({ project, vm: "web" }));
  await cloud.guest("web", "true");
  proof.seen("rebuilt and started");
  await cloud.done(vms.deleteVm({ project, vm: "web" }));
  proof.check(cloud.workers.qemusOf("n1").length === 0, "deleted: no QEMU is left");
  const left = [...Deno.readDirSync(`${cloud.workers.stateDirOf("n1")}/vms`)].map((e) => e.name);
  proof.check(left.length === 0, `deleted: no file of the VM is left on the worker (${left.length})`);
}
