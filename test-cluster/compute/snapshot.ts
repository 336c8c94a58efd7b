import { SnapshotState } from "@ultracloud/proto/plasmavmc/v1";
import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";
import type { Proof } from "./proof.ts";
import { deviceScript } from "./volume.ts";

const mib = 1024n ** 2n;

/** Snapshots by schedule with retention, restored and compared inside the guest. */
export async function snapshot(proof: Proof): Promise<void> {
  await using cloud = await ComputeCloud.open({ workers: ["n1"] });
  const { vms, volumes, snapshots } = cloud;
  await cloud.done(volumes.createVolume({ project, name: "data", sizeBytes: 32n * mib }));
  await cloud.done(vms.createVm({ ...vmRequest("web"), volumes: [{ volume: "data" }] }));
  const id = (await volumes.getVolume({ project, volume: "data" })).meta!.id;
  const device = await cloud.guest("web", deviceScript(id));
  const sum = () =>
    cloud.guest("web", `sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/$(${deviceScript(id)})`);
  await cloud.guest("web", `umount /data; dd if=/dev/urandom of=/dev/${device} bs=65536 count=512 2>/dev/null; sync`);
  const written = await sum();
  await snapshots.createSnapshotSchedule({ project, name: "often", vm: "web", intervalMs: 3_000n, keep: 2 });
  const ready = async () =>
    (await snapshots.listSnapshots({ project })).snapshots.filter((s) => s.state === SnapshotState.READY);
  await until("there is one", 60_000, async () => (await ready()).length > 0);
  const first = (await ready())[0]!.meta!.name;
  await until("the first has gone", 120_000, async () => {
    const names = (await ready()).map((s) => s.meta!.name);
    return !names.includes(first) && names.length === 2;
  });
  proof.seen(`a schedule took snapshots of the running guest, and the first (${first}) made room for newer ones`);
  await snapshots.deleteSnapshotSchedule({ project, schedule: "often" });
  const newest = (await ready()).at(-1)!.meta!.name;
  await cloud.guest("web", `dd if=/dev/zero of=/dev/${device} bs=65536 count=512 2>/dev/null; sync`);
  proof.check(await sum() !== written, "the guest has overwritten its disk");
  await until("no snapshot has the VM", 60_000, async () => (await vms.getVm({ project, vm: "web" })).operation === "");
  await cloud.done(vms.stopVm({ project, vm: "web", force: true }));
  await cloud.done(snapshots.restoreSnapshot({ project, snapshot: newest }));
  await cloud.done(vms.startVm({ project, vm: "web" }));
  const read = await sum();
  proof.check(read === written, `restored from ${newest}: the checksum in the guest is ${read.slice(0, 12)} as before`);

  // Of one volume alone: the other keeps what was written since.
  await cloud.done(volumes.createVolume({ project, name: "other", sizeBytes: 8n * mib, nearVm: "web" }));
  await cloud.done(vms.attachVolume({ project, vm: "web", volume: "other" }));
  const otherId = (await volumes.getVolume({ project, volume: "other" })).meta!.id;
  const mark = (text: string) =>
    cloud.guest(
      "web",
      [id, otherId].map((v) => `echo ${text} | dd of=/dev/$(${deviceScript(v)}) conv=notrunc,fsync 2>/dev/null`)
        .join("; "),
    );
  const marks = () =>
    cloud.guest("web", [id, otherId].map((v) => `head -n 1 /dev/$(${deviceScript(v)}) | head -c 5`).join("; "));
  await until("the guest sees the disk", 30_000, async () => await cloud.guest("web", deviceScript(otherId)) !== "");
  await mark("first");
  await cloud.done(snapshots.createSnapshot({ project, name: "data-only", vm: "web", volume: "data" }));
  await mark("later");
  await cloud.done(vms.stopVm({ project, vm: "web", force: true }));
  await cloud.done(snapshots.restoreSnapshot({ project, snapshot: "data-only" }));
  await cloud.done(vms.startVm({ project, vm: "web" }));
  const found = await marks();
  proof.check(found === "firstlater", `a snapshot of one volume put back: the two disks begin "${found}"`);
  await cloud.done(vms.deleteVm({ project, vm: "web" }));
}
