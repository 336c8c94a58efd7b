import { fault, utf8 } from "@ultracloud/base";
import { directorySource, resolveModules, resolvePackages, runProgram, unpack, writeCpio } from "@ultracloud/cli";
import { tool } from "../harness/tools.ts";
import { diskInit, mediumInit } from "./early.ts";
import { cached } from "./store.ts";

/** Drivers of the early boot, from the medium and from the disk; those built into the kernel are skipped. */
const modules = [
  ...["virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "virtio_rng", "sd_mod", "sr_mod", "cdrom", "nvme"],
  ...["ahci", "usb_storage", "uas", "xhci_pci", "e1000", "e1000e"],
  ...["ext4", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8", "isofs", "loop", "squashfs", "overlay"],
  ...["efivarfs", "dm_mod"],
];
const version = 2;

export interface Kernel {
  /** Holds `vmlinuz`, `initrd-medium` and `initrd-disk`. */
  readonly dir: string;
  readonly digest: string;
  /** Of the package, as the log says it. */
  readonly version: string;
}

/** The distribution's kernel, with an initramfs that finds the installer's medium and one that finds a root. */
export async function buildKernel(cacheDir: string, say: (text: string) => void): Promise<Kernel> {
  const found = await resolvePackages(runProgram);
  const inputs = [version, found, modules, mediumInit, diskInit];
  const { dir, digest } = await cached(cacheDir, "kernel", inputs, async (fresh) => {
    const work = await Deno.makeTempDir({ prefix: "uc-kernel-" });
    try {
      const packages = `${work}/packages`;
      await Deno.mkdir(packages);
      for (const ref of [...found.kernel, found.busybox]) {
        say(`fetching ${ref.name} ${ref.version}`);
        await unpack(runProgram, ref, work, packages);
      }
      const names = [...Deno.readDirSync(`${packages}/boot`)].map(({ name }) => name);
      const image = names.find((name) => name.startsWith("vmlinuz-"));
      if (image === undefined) throw fault("data_loss", "package_content", "Cannot find a kernel in its package");
      await Deno.copyFile(`${packages}/boot/${image}`, `${fresh}/vmlinuz`);
      const busybox = await firstPresent([`${packages}/bin/busybox`, `${packages}/usr/bin/busybox`]);
      const modulesDir = await firstPresent([`${packages}/lib/modules`, `${packages}/usr/lib/modules`]);
      const source = await directorySource(modulesDir, (path) => runProgram(busybox, ["xzcat", path]));
      const drivers = await resolveModules(modules, source);
      const tree = async (init: string) =>
        writeCpio([
          ...["bin", "dev", "etc", "lib", "lib/modules", "proc", "sys", "run", "new"].map((path) =>
            ({ kind: "dir", path }) as const
          ),
          { kind: "char", path: "dev/console", major: 5, minor: 1 },
          { kind: "file", path: "bin/busybox", data: await Deno.readFile(busybox), mode: 0o755 },
          { kind: "file", path: "init", data: utf8.encode(init), mode: 0o755 },
          { kind: "file", path: "etc/modules", data: utf8.encode(drivers.map(({ name }) => `${name}\n`).join("")) },
          ...drivers.map(({ name, data }) => ({ kind: "file", path: `lib/modules/${name}.ko`, data }) as const),
        ]);
      for (const [name, init] of [["initrd-medium", mediumInit], ["initrd-disk", diskInit]] as const) {
        await Deno.writeFile(`${work}/${name}`, await tree(init));
        await tool(["gzip", "-1", "-n", `${work}/${name}`]);
        await Deno.copyFile(`${work}/${name}.gz`, `${fresh}/${name}`);
      }
    } finally {
      await Deno.remove(work, { recursive: true });
    }
  });
  return { dir, digest, version: found.kernel.map(({ name, version }) => `${name} ${version}`).join(", ") };
}

async function firstPresent(paths: readonly string[]): Promise<string> {
  for (const path of paths) if (await Deno.stat(path).then(() => true, () => false)) return path;
  throw fault("data_loss", "package_content", `Cannot use the packages: wanted ${paths.join(" or ")}`);
}
