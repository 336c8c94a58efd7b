import { OperationState } from "@ultracloud/proto/common/v1";
import { MigrationStorage, VmState } from "@ultracloud/proto/plasmavmc/v1";
import { ComputeCloud, project, until, vmRequest } from "./cloud.ts";
import type { Proof } from "./proof.ts";
import { deviceScript } from "./volume.ts";

const mib = 1024n ** 2n;

/** A guest goes from worker to worker, with disks that stay and disks that come along; then one that does not get there. */
export async function migration(proof: Proof): Promise<void> {
  await using cloud = await ComputeCloud.open({ workers: ["n1", "n2"] });
  const { vms, volumes } = cloud;
  const vmOf = () => vms.getVm({ project, vm: "web" });
  const qemus = () => [cloud.workers.qemusOf("n1").length, cloud.workers.qemusOf("n2").length];
  await cloud.done(vms.createVm(vmRequest("web")));
  await cloud.guest("web", "true");
  const bootId = await cloud.guest("web", "cat /proc/sys/kernel/random/boot_id");

  /** Moves the VM and checks that it is the same guest that went on. */
  async function move(storage: MigrationStorage): Promise<void> {
    const before = await vmOf();
    const count = Number(await cloud.guest("web", "cat /tmp/count"));
    await cloud.done(vms.migrateVm({ project, vm: "web", storage }));
    const after = await vmOf();
    const counted = Number(await cloud.guest("web", "cat /tmp/count"));
    const sameBoot = await cloud.guest("web", "cat /proc/sys/kernel/random/boot_id") === bootId;
    proof.check(
      after.node !== before.node && after.state === VmState.RUNNING && sameBoot && counted >= count,
      `${before.node} to ${after.node} (${
        MigrationStorage[storage].toLowerCase()
      }): the counter went on from ${count} ` +
        `to ${counted}; ${after.migration!.downtimeMs} ms down, ${after.migration!.totalMs} ms in all`,
    );
    const rest = await cloud.workers.vmIdsOn(before.node);
    proof.check(rest.length === 0, `${before.node} has nothing of it any more (${rest.length})`);
    await until(`one QEMU is left of ${qemus().join(" and ")}`, 30_000, () => qemus().reduce((a, b) => a + b) === 1);
  }

  await move(MigrationStorage.SHARED);
  await move(MigrationStorage.SHARED);

  for (
    const [name, shared, storage] of [["common", true, MigrationStorage.SHARED], [
      "own",
      false,
      MigrationStorage.MIRROR,
    ]] as const
  ) {
    const { node } = await vmOf();
    await cloud.done(volumes.createVolume({ project, name, sizeBytes: 64n * mib, shared, node }));
    await cloud.done(vms.attachVolume({ project, vm: "web", volume: name }));
    const id = (await volumes.getVolume({ project, volume: name })).meta!.id;
    let device = "";
    await until(
      "the guest sees the disk",
      30_000,
      async () => (device = await cloud.guest("web", deviceScript(id))) !== "",
    );
    const sum =
      `sync; echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/${device} bs=65536 count=512 2>/dev/null | sha256sum`;
    await cloud.guest("web", `dd if=/dev/urandom of=/dev/${device} bs=65536 count=512 2>/dev/null; sync`);
    const written = await cloud.guest("web", sum);
    const { writerEpoch } = await volumes.getVolume({ project, volume: name });
    await move(storage);
    const read = await cloud.guest("web", sum);
    proof.check(read === written, `its ${shared ? "shared" : "mirrored"} disk reads the same (${read.slice(0, 12)})`);
    const after = await volumes.getVolume({ project, volume: name });
    proof.check(
      after.writerEpoch > writerEpoch,
      `the disk's writer epoch went from ${writerEpoch} to ${after.writerEpoch}`,
    );
    await cloud.guest("web", `dd if=/dev/zero of=/dev/${device} bs=65536 count=1 2>/dev/null; sync`);
    await cloud.done(vms.detachVolume({ project, vm: "web", volume: name }));
    await cloud.done(volumes.deleteVolume({ project, volume: name }));
  }

  // A guest that writes all its memory takes long enough to be cancelled.
  await cloud.guest(
    "web",
    "(while :; do dd if=/dev/urandom of=/tmp/noise bs=65536 count=200 2>/dev/null; done) >/dev/null 2>&1 &",
  );
  const source = (await vmOf()).node;
  const operation = await vms.migrateVm({ project, vm: "web", storage: MigrationStorage.SHARED });
  await until("it moves", 60_000, async () => {
    const seen = await cloud.operations.getOperation({ project, id: operation.id });
    return seen.step.startsWith("Moving the guest") || seen.state >= OperationState.DONE;
  });
  await cloud.operations.cancelOperation({ project, id: operation.id }).catch(() => {});
  const ended = await cloud.over(operation);
  const there = await vmOf();
  const moved = ended.state === OperationState.DONE;
  proof.check(
    there.state === VmState.RUNNING && (there.node === source || moved),
    `cancelled under way: it ended ${OperationState[ended.state].toLowerCase()} and runs on ${there.node}`,
  );
  await cloud.guest("web", "true");

  // The target dies in the middle of it.
  const from = (await vmOf()).node;
  const target = from === "n1" ? "n2" : "n1";
  const doomed = await vms.migrateVm({ project, vm: "web", storage: MigrationStorage.SHARED });
  await until("the target's QEMU waits", 60_000, () => cloud.workers.qemusOf(target).length > 0);
  await cloud.workers.killQemus(target);
  const lost = await cloud.over(doomed);
  await cloud.guest("web", "true");
  const still = await vmOf();
  proof.check(
    lost.state === OperationState.FAILED && still.node === from && still.state === VmState.RUNNING,
    `the target's QEMU was killed: ${lost.error?.code}, and the guest runs on ${from} as before`,
  );
  await until("nothing is left on the target", 30_000, () => cloud.workers.qemusOf(target).length === 0);
  await cloud.done(vms.deleteVm({ project, vm: "web" }));
  proof.check(qemus().every((n) => n === 0), "deleted: no QEMU is left");
}
