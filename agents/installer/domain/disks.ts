import { fault } from "@ultracloud/base";
import type { DiskFacts } from "@ultracloud/cluster-state";
import { z } from "zod";
import { nodeOfPartition } from "./layout.ts";

const text = z.string().nullish().transform((value) => value?.trim() ?? "");

/** One device of `lsblk --json`, as far as it is looked at. */
export interface BlockDevice {
  readonly kname: string;
  readonly path: string;
  readonly type: string;
  readonly size: number;
  readonly serial: string;
  readonly wwn: string;
  readonly model: string;
  readonly fstype: string;
  readonly pttype: string;
  readonly label: string;
  readonly partlabel: string;
  readonly children: readonly BlockDevice[];
}

const deviceSchema: z.ZodType<BlockDevice> = z.object({
  kname: z.string().min(1),
  path: z.string().startsWith("/dev/"),
  type: z.string(),
  size: z.union([z.number(), z.string()]).nullish().transform((size) => Number(size ?? 0)),
  serial: text,
  wwn: text,
  model: text,
  fstype: text,
  pttype: text,
  label: text,
  partlabel: text,
  get children() {
    return z.array(deviceSchema).default([]);
  },
}) as z.ZodType<BlockDevice>;

/** Columns that `lsblk --json --bytes --tree` is asked for. */
export const lsblkColumns = "KNAME,PATH,TYPE,SIZE,SERIAL,WWN,MODEL,FSTYPE,PTTYPE,LABEL,PARTLABEL";

/** What a machine says of a disk, and where it is now. */
export interface FoundDisk extends DiskFacts {
  /** `/dev/vda`: of this boot only, never told to anybody. */
  readonly device: BlockDevice;
}

/** The devices in the output of lsblk. */
export function parseLsblk(output: string): BlockDevice[] {
  let json: unknown;
  try {
    json = JSON.parse(output);
  } catch (cause) {
    throw fault("internal", "lsblk_unreadable", "Cannot read what lsblk says as JSON", { cause });
  }
  const parsed = z.object({ blockdevices: z.array(deviceSchema) }).safeParse(json);
  if (parsed.success) return parsed.data.blockdevices;
  throw fault("internal", "lsblk_unreadable", `Cannot read what lsblk says: ${z.prettifyError(parsed.error)}`);
}

/** Stable names by kernel name, from lines `NAME<tab>TARGET` as find prints links. */
export function parseById(output: string): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const line of output.split("\n")) {
    const [name, target] = line.split("\t");
    if (name === undefined || target === undefined) continue;
    const kname = target.slice(target.lastIndexOf("/") + 1);
    found.set(kname, [...found.get(kname) ?? [], name].sort());
  }
  return found;
}

function below(device: BlockDevice): BlockDevice[] {
  return [device, ...device.children.flatMap(below)];
}

/**
 * What is on a device and what is below it. A table without partitions and without anything in it holds nobody's data:
 * that is what a power cut in the middle of writing one leaves.
 */
function signaturesOf(device: BlockDevice): string[] {
  const all = below(device);
  const systems = all.map(({ fstype }) => fstype).filter((name) => name !== "");
  const table = device.pttype !== "" && device.children.length > 0 ? [device.pttype] : [];
  return [...new Set([...table, ...systems])].slice(0, 32);
}

/** The disks of a machine. `owners` says whose mark was found on a file system, by kernel name of its partition. */
export function disksOf(
  devices: readonly BlockDevice[],
  byId: ReadonlyMap<string, readonly string[]>,
  options: { readonly mediumLabel: string; readonly owners: ReadonlyMap<string, string> },
): FoundDisk[] {
  return devices.filter(({ type }) => type === "disk" || type === "rom").map((device) => {
    const all = below(device);
    const named = all.map(({ partlabel }) => nodeOfPartition(partlabel)).find((node) => node !== "");
    const marked = all.map(({ kname }) => options.owners.get(kname)).find((node) => node !== undefined);
    return {
      by_id: (byId.get(device.kname) ?? []).slice(0, 32),
      serial: device.serial,
      bytes_count: device.size,
      wwn: device.wwn,
      model: device.model,
      boot_medium: device.type === "rom" || all.some(({ label }) => label === options.mediumLabel),
      signatures: signaturesOf(device),
      owner_node: marked ?? named ?? "",
      device,
    };
  });
}

/** Partitions that may hold the mark of an installation: those with the label of our EFI file system. */
export function markCandidates(devices: readonly BlockDevice[], label: string): BlockDevice[] {
  return devices.flatMap(below).filter((device) => device.label === label && device.fstype === "vfat");
}

/** The partition of the disk with this name in its table. */
export function partitionNamed(disk: BlockDevice, name: string): BlockDevice | undefined {
  return disk.children.find(({ partlabel }) => partlabel === name);
}
