import { fault } from "@ultracloud/base";
import { must, type Run } from "@ultracloud/bootstrap";
import { type InstallPlan, refusalOf } from "@ultracloud/cluster-state";
import type { InstallerConfig } from "./config.ts";
import { type BlockDevice, type FoundDisk, lsblkColumns, parseLsblk, partitionNamed } from "./domain/disks.ts";
import { espLabel, partitionName, rootLabel, sfdiskScript } from "./domain/layout.ts";
import type { Machine } from "./facts.ts";

/**
 * The disk of the plan, by its stable name. The refusals of the deployer are held to once more on what the machine has
 * now: between its answer and this moment a disk may have been plugged in or taken out.
 */
export function chooseDisk(node: string, plan: InstallPlan, machine: Machine): FoundDisk {
  const refusal = refusalOf(node, plan, machine.facts, []);
  if (refusal !== undefined) throw fault("failed_precondition", refusal.code, refusal.message);
  const disk = machine.disks.find(({ by_id }) => by_id.includes(plan.target_disk_by_id))!;
  // Without an answer of the deployer about it nobody's installation is written over.
  if (disk.owner_node !== "" && disk.owner_node !== node && !plan.wipe_existing_data) {
    throw fault(
      "failed_precondition",
      "disk_holds_node",
      `Cannot install ${node} on ${plan.target_disk_by_id}: it holds the data of the node ${disk.owner_node}`,
    );
  }
  return disk;
}

/** Partitions the disk and mounts the new file systems at the target; what was mounted there before is gone. */
export async function prepareDisk(
  config: InstallerConfig,
  o: { readonly node: string; readonly plan: InstallPlan; readonly disk: FoundDisk },
  run: Run,
): Promise<void> {
  const { targetDir } = config;
  await run("umount", ["-R", targetDir]);
  await Deno.mkdir(targetDir, { recursive: true });
  const { path } = o.disk.device;
  if (config.disko) {
    const words = [o.plan.nixos_configuration, path, targetDir];
    await must(run, "disko_failed", "ultracloud-disko", words);
    return;
  }
  const partition = "partitioning_failed";
  const script = sfdiskScript(o.node, config.espBytes);
  await must(run, partition, "sfdisk", ["--wipe", "always", "--wipe-partitions", "always", path], { stdin: script });
  await run("blockdev", ["--rereadpt", path]);
  await run("udevadm", ["settle", "--timeout=20"]);
  const esp = await partitionOf(path, partitionName("esp", o.node), run);
  const root = await partitionOf(path, partitionName("root", o.node), run);
  await must(run, partition, "mkfs.vfat", ["-F", "32", "-n", espLabel, esp.path]);
  await must(run, partition, "mkfs.ext4", ["-q", "-F", "-L", rootLabel, "-E", "lazy_itable_init=1", root.path]);
  await must(run, partition, "mount", ["-t", "ext4", root.path, targetDir]);
  await Deno.mkdir(`${targetDir}/boot`, { recursive: true });
  await must(run, partition, "mount", ["-t", "vfat", "-o", "umask=0077", esp.path, `${targetDir}/boot`]);
  await run("udevadm", ["settle", "--timeout=20"]);
}

async function partitionOf(disk: string, name: string, run: Run): Promise<BlockDevice> {
  const args = ["--json", "--bytes", "--tree", "--output", lsblkColumns, disk];
  const [device] = parseLsblk(await must(run, "lsblk_failed", "lsblk", args));
  const found = device && partitionNamed(device, name);
  if (found !== undefined) return found;
  throw fault("failed_precondition", "partitioning_failed", `Cannot find the partition ${name} on ${disk}`);
}
