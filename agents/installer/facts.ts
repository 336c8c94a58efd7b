import { identityOf, type MachineFacts } from "@ultracloud/cluster-state";
import { must, readSystemFile, type Run } from "@ultracloud/bootstrap";
import { z } from "zod";
import type { InstallerConfig } from "./config.ts";
import {
  type BlockDevice,
  disksOf,
  type FoundDisk,
  lsblkColumns,
  markCandidates,
  parseById,
  parseLsblk,
} from "./domain/disks.ts";
import { espLabel } from "./domain/layout.ts";

/** Mark of an installation, below the root of the EFI partition. */
export const markPath = "ultracloud/owner.json";
const markSchema = z.object({ node: z.string().max(63), machine_id: z.string().max(64) });
export type Mark = z.infer<typeof markSchema>;

/** What the machine is, and its disks with where they are now. */
export interface Machine {
  readonly facts: MachineFacts;
  readonly disks: readonly FoundDisk[];
}

export interface FactsDeps {
  readonly run: Run;
  readonly version: string;
  /** Id of a machine whose board has none; made once per boot unless a disk remembers one. */
  readonly freshId: string;
}

/** Looks at the machine. Nothing is written but the empty directory that file systems are looked at in. */
export async function lookAtMachine(config: InstallerConfig, deps: FactsDeps): Promise<Machine> {
  const { run } = deps;
  await run("udevadm", ["settle", "--timeout=20"]);
  const devices = parseLsblk(
    await must(run, "lsblk_failed", "lsblk", ["--json", "--bytes", "--tree", "--output", lsblkColumns]),
  );
  const links = await run("find", [config.byIdDir, "-type", "l", "-printf", "%p\\t%l\\n"]);
  const marks = await readMarks(config, devices, run);
  const owners = new Map([...marks].map(([kname, { node }]) => [kname, node]));
  const disks = disksOf(devices, parseById(links.stdout), { mediumLabel: config.mediumLabel, owners });
  const dmi = (name: string) => readSystemFile(run, `${config.dmiDir}/${name}`);
  const serial = await dmi("product_serial");
  const remembered = [...marks.values()].map(({ machine_id }) => machine_id).find((id) => id !== "") ?? "";
  const hasSerial = identityOf({ serial, machine_id: "" }) !== "";
  const facts: MachineFacts = {
    serial,
    machine_id: remembered !== "" ? remembered : hasSerial ? "" : deps.freshId,
    vendor: await dmi("sys_vendor"),
    product: await dmi("product_name"),
    architecture: Deno.build.arch,
    cpus: navigator.hardwareConcurrency,
    memory_bytes: Deno.systemMemoryInfo().total,
    mac_addresses: [...new Set(Deno.networkInterfaces().map(({ mac }) => mac))].filter((mac) =>
      mac !== "00:00:00:00:00:00"
    ),
    disks: disks.map(({ device: _, ...facts }) => facts),
    uefi: (await run("find", [config.efiDir, "-maxdepth", "0"])).code === 0,
    installer_version: deps.version,
  };
  return { facts, disks };
}

/** Marks of earlier installations, by kernel name of their partition. One that cannot be read says nothing. */
async function readMarks(
  config: InstallerConfig,
  devices: readonly BlockDevice[],
  run: Run,
): Promise<Map<string, Mark>> {
  const found = new Map<string, Mark>();
  const dir = `${config.stateDir}/look`;
  for (const { kname, path } of markCandidates(devices, espLabel)) {
    await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
    if ((await run("mount", ["-t", "vfat", "-o", "ro,noexec,nodev,nosuid", path, dir])).code !== 0) continue;
    try {
      const parsed = markSchema.safeParse(JSON.parse(await Deno.readTextFile(`${dir}/${markPath}`)));
      if (parsed.success) found.set(kname, parsed.data);
    } catch {
      // Not one of ours, or damaged.
    } finally {
      await run("umount", [dir]);
    }
  }
  return found;
}
