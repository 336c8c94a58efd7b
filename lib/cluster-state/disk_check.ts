import type { DiskFacts, MachineFacts } from "./facts.ts";

/** The part of an install plan that says something about the disk. */
export interface DiskPlan {
  readonly target_disk_by_id: string;
  readonly expected_disk_serial?: string | undefined;
  readonly expected_disk_bytes_min?: number | undefined;
  readonly expected_disk_bytes_max?: number | undefined;
  readonly wipe_existing_data: boolean;
}

export interface Refusal {
  readonly code: string;
  readonly message: string;
}

/** A disk that an enrolled node was installed on. */
export interface HeldDisk {
  readonly node: string;
  readonly serial: string;
  readonly wwn: string;
}

/**
 * Why the plan must not be carried out on the machine; undefined when it may. The order is that of harm: what would
 * destroy a running system or somebody's data is told before what would merely not fit.
 */
export function refusalOf(
  node: string,
  plan: DiskPlan,
  facts: MachineFacts,
  held: readonly HeldDisk[],
): Refusal | undefined {
  const wanted = plan.target_disk_by_id;
  const refuse = (code: string, why: string): Refusal => ({
    code,
    message: `Cannot install ${node} on ${wanted}: ${why}`,
  });
  const matches = facts.disks.filter((disk) => disk.by_id.includes(wanted));
  if (matches.length === 0) {
    const there = facts.disks.flatMap((disk) => disk.by_id).slice(0, 16).join(", ");
    return refuse(
      "disk_not_found",
      `the machine does not have it, wanted one of ${there === "" ? "its disks, of which it names none" : there}`,
    );
  }
  const [disk] = matches as [DiskFacts];
  if (matches.length > 1) return refuse("disk_ambiguous", `${matches.length} disks have that name`);
  if (disk.boot_medium) return refuse("disk_is_boot_medium", "it is what the installer was started from");
  if (plan.expected_disk_serial !== undefined && disk.serial !== plan.expected_disk_serial) {
    return refuse(
      "disk_serial_mismatch",
      `its serial is ${disk.serial || "empty"}, wanted ${plan.expected_disk_serial}`,
    );
  }
  const owner = ownerOf(node, disk, held);
  if (owner !== undefined) {
    return refuse("disk_holds_node", `it holds the data of the node ${owner}, which is enrolled`);
  }
  const { expected_disk_bytes_min: min, expected_disk_bytes_max: max } = plan;
  if (min !== undefined && disk.bytes_count < min) {
    return refuse("disk_too_small", `it has ${disk.bytes_count} bytes, wanted at least ${min}`);
  }
  if (max !== undefined && disk.bytes_count > max) {
    return refuse("disk_too_large", `it has ${disk.bytes_count} bytes, wanted at most ${max}`);
  }
  if (disk.signatures.length > 0 && disk.owner_node !== node && !plan.wipe_existing_data) {
    const what = disk.signatures.slice(0, 8).join(", ");
    return refuse(
      "disk_foreign_data",
      `it holds data (${what}), wanted an empty disk or wipe_existing_data in the plan`,
    );
  }
  return undefined;
}

/** Another enrolled node whose data is on the disk: by the mark on it, or because that node was installed on it. */
function ownerOf(node: string, disk: DiskFacts, held: readonly HeldDisk[]): string | undefined {
  const same = (a: string, b: string) => a !== "" && a === b;
  return held.find((other) =>
    other.node !== node &&
    (other.node === disk.owner_node || same(other.serial, disk.serial) || same(other.wwn, disk.wwn))
  )?.node;
}
