import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";
import type { Proof } from "./proof.ts";

const mib = 1024n ** 2n;

/** The block device of a volume in the guest: its serial is the end of the volume's id. */
export function deviceScript(volumeId: string): string {
  return `for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "${volumeId.slice(-20)}" ] && basename $d; done`;
}

/** Volumes plugged into and out of a running guest, grown under it, and NICs likewise. */
export async function volume(proof: Proof): Promise<void> {
  await using cloud = await ComputeCloud.open({ workers: ["n1"] });
  const { vms, volumes } = cloud;
  await cloud.done(vms.createVm(vmRequest("web")));
  await cloud.guest("web", "true");
  for (const shared of [false, true]) {
    const name = shared ? "common" : "own";
    await cloud.done(volumes.createVolume({ project, name, sizeBytes: 64n * mib, shared }));
    await cloud.done(vms.attachVolume({ project, vm: "web", volume: name }));
    const id = (await volumes.getVolume({ project, volume: name })).meta!.id;
    let device = "";
    await until(
      "the guest sees the disk",
      30_000,
      async () => (device = await cloud.guest("web", deviceScript(id))) !== "",
    );
    const size = async () => Number(await cloud.guest("web", `cat /sys/block/${device}/size`)) * 512;
    proof.check(await size() === 64 * 2 ** 20, `a ${shared ? "shared" : "local"} volume is /dev/${device} of 64 MiB`);
    const written = await cloud.guest(
      "web",
      `dd if=/dev/urandom of=/dev/${device} bs=65536 count=64 2>/dev/null; sync; dd if=/dev/${device} bs=65536 count=64 2>/dev/null | sha256sum`,
    );
    await cloud.done(volumes.growVolume({ project, volume: name, sizeBytes: 128n * mib }));
    await until("the guest sees the new size", 30_000, async () => await size() === 128 * 2 ** 20);
    proof.seen("grown to 128 MiB under the running guest, which sees it");
    await cloud.done(vms.detachVolume({ project, vm: "web", volume: name }));
    await until("the disk is gone", 30_000, async () => await cloud.guest("web", deviceScript(id)) === "");
    proof.seen("detached: the guest sees it no more");
    await cloud.done(vms.attachVolume({ project, vm: "web", volume: name }));
    await until("the disk is back", 30_000, async () => (device = await cloud.guest("web", deviceScript(id))) !== "");
    const read = await cloud.guest("web", `dd if=/dev/${device} bs=65536 count=64 2>/dev/null | sha256sum`);
    proof.check(read === written, `attached again: its content is the same (${read.slice(0, 12)})`);
    await cloud.done(vms.detachVolume({ project, vm: "web", volume: name }));
    await cloud.done(volumes.deleteVolume({ project, volume: name }));
  }
  const nics = async () => Number(await cloud.guest("web", "ls -d /sys/class/net/eth* | wc -l"));
  await cloud.done(vms.attachNic({ project, vm: "web", subnet: "lan" }));
  await until("the guest has two NICs", 30_000, async () => await nics() === 2);
  const { nics: all } = await vms.getVm({ project, vm: "web" });
  await cloud.done(vms.detachNic({ project, vm: "web", portId: all[1]!.portId }));
  await until("the guest has one NIC", 30_000, async () => await nics() === 1);
  proof.seen("a NIC is plugged into the running guest and out again");
  await cloud.done(vms.deleteVm({ project, vm: "web" }));
}
