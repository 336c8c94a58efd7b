import { Fault, utf8 } from "@ultracloud/base";
import { importMessages, writeTar } from "@ultracloud/cli";
import { ImageFormat, MachineType, VmState } from "@ultracloud/proto/plasmavmc/v1";
import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";
import type { Proof } from "./proof.ts";
import { unikernel } from "./unikernel.ts";

const mib = 1024n ** 2n;
const uni = { project, vm: "uni" } as const;
/** Device ids of virtio, as the unikernel says them: place by place, the seed's and the rng's last. */
const withNic = "10000024";
const withVolume = "12000024";

/** Unikernels on a machine of their own: what it can, and what it refuses. */
export async function microvm(proof: Proof): Promise<void> {
  await using cloud = await ComputeCloud.open({ workers: ["n1", "n2"] });
  const { vms } = cloud;
  await importUnikernel(cloud);
  const console = async (vm = "uni") => {
    const { data } = await vms.getConsoleLog({ project, vm, offset: -4096n });
    return new TextDecoder().decode(data);
  };
  /** How often a unikernel with these devices has spoken. */
  const ticks = async (devices: string) =>
    Number([...(await console()).matchAll(new RegExp(`devices ${devices} (\\d{3})\n`, "g"))].at(-1)?.[1] ?? 0);
  const goesOn = async (devices: string, what: string, after?: number) => {
    const before = after ?? await ticks(devices);
    await until(what, 30_000, async () => await ticks(devices) > before);
  };

  const request = { ...vmRequest("uni"), image: "unikernel", machineType: MachineType.MICROVM };
  const start = performance.now();
  await cloud.done(vms.createVm(request));
  await until("the unikernel sees its NIC, the seed and the rng", 60_000, async () => await ticks(withNic) >= 2);
  proof.seen(
    `a unikernel of ${unikernel().length} bytes boots by PVH and its clock ticks, created ${
      Math.round(performance.now() - start)
    } ms ago`,
  );
  const { node, meta } = await vms.getVm(uni);
  const [pid] = cloud.workers.qemusOf(node, meta!.id);
  const args = (await Deno.readTextFile(`/proc/${pid}/cmdline`)).split("\0");
  proof.check(
    args[args.indexOf("-machine") + 1]!.startsWith("microvm,") && !args.some((arg) => /pci/.test(arg)),
    "its QEMU is a microvm without PCI",
  );
  const told = (await console()).match(/virtio_mmio\.device=/g)?.length;
  proof.check(told === 3, "the command line names its three virtio-mmio devices");

  await cloud.done(cloud.volumes.createVolume({ project, name: "data", sizeBytes: 16n * mib, nearVm: "uni" }));
  const refused = {
    "a volume plugged in": () => vms.attachVolume({ ...uni, volume: "data" }),
    "a NIC plugged in": () => vms.attachNic({ ...uni, subnet: "lan" }),
    "a stop by ACPI": () => vms.stopVm(uni),
    "a reboot by ACPI": () => vms.rebootVm(uni),
    "a migration": () => vms.migrateVm(uni),
    "a picture of its screen": () => vms.screenshot(uni),
  };
  for (const [what, call] of Object.entries(refused)) {
    const error = await call().then(() => undefined, (error: unknown) => error);
    if (!(error instanceof Fault && error.code === "machine_is_microvm")) {
      throw new Error(`${what} was not refused as wanted`, { cause: error });
    }
  }
  await goesOn(withNic, "it ticks on after what was refused");
  proof.seen(`refused, each with its reason: ${Object.keys(refused).join(", ")}`);

  await cloud.done(vms.pauseVm(uni));
  proof.check((await vms.getVm(uni)).state === VmState.PAUSED, "it is paused");
  await cloud.done(vms.resumeVm(uni));
  await goesOn(withNic, "it ticks once it is resumed");
  const ticked = await ticks(withNic);
  await cloud.workers.kill(node);
  cloud.workers.start(node);
  await goesOn(withNic, "it ticks under the agent that adopted it", ticked);
  proof.check(
    cloud.workers.qemusOf(node, meta!.id)[0] === pid,
    "resumed; and the same QEMU under an agent that was killed",
  );

  await cloud.done(vms.stopVm({ ...uni, force: true }));
  proof.check(cloud.workers.qemusOf(node, meta!.id).length === 0, "stopped by the plug: no QEMU is left");
  await cloud.done(vms.attachVolume({ ...uni, volume: "data" }));
  await cloud.done(vms.startVm(uni));
  await until("it sees the volume", 60_000, async () => await ticks(withVolume) >= 1);
  proof.seen("started again, it sees the volume that was attached while it was off");
  await cloud.done(cloud.volumes.growVolume({ project, volume: "data", sizeBytes: 32n * mib }));
  const { disks } = await vms.getVmMetrics(uni);
  proof.check(disks.length === 1, "its volume grows and is measured while it runs");

  await cloud.done(vms.createVm({ ...vmRequest("linux"), machineType: MachineType.MICROVM }));
  await until("Linux boots", 90_000, async () => (await console("linux")).includes("ULTRACLOUD_GUEST_READY"));
  proof.seen("the tiny guest's Linux boots on it as well (without devices, which this kernel finds by ACPI alone)");
  for (const vm of ["uni", "linux"]) await cloud.done(vms.deleteVm({ project, vm }));
  const left = ["n1", "n2"].flatMap((name) => [
    ...cloud.workers.qemusOf(name).map(String),
    ...[...Deno.readDirSync(`${cloud.workers.stateDirOf(name)}/vms`)].map((entry) => entry.name),
  ]);
  proof.check(left.length === 0, `deleted: neither QEMU nor file is left (${left.length})`);
}

async function importUnikernel(cloud: ComputeCloud): Promise<void> {
  const path = `${cloud.dir}/unikernel.tar`;
  await Deno.writeFile(
    path,
    writeTar([
      { name: "kernel", data: unikernel() },
      { name: "initrd", data: utf8.encode("none\n") },
      { name: "cmdline", data: utf8.encode("unikernel=1") },
    ]),
  );
  const header = { project, name: "unikernel", format: ImageFormat.KERNEL_BUNDLE };
  await cloud.images.importImage(importMessages(path, header, () => {}));
}
