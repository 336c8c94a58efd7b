import { fault } from "@ultracloud/base";
import { type BootstrapParameters, formatCmdline } from "@ultracloud/bootstrap";
import { Buffer } from "node:buffer";
import { tool } from "../harness/tools.ts";
import { mediumLabel } from "./early.ts";
import { siteConfig, siteMark } from "./site_config.ts";
import { buildKernel, type Kernel } from "./kernel.ts";
import { dhcpScript, liveInit } from "./live.ts";
import { bundleComponents, placementOn } from "./programs.ts";
import { cached, requireBuildTools } from "./store.ts";
import { buildUserland, type Userland } from "./userland.ts";
import { digestOf } from "../harness/qemu/packing.ts";

const version = 3;

/** The installer's medium: boots by BIOS and by UEFI, from a CD, a stick or a BMC's virtual drive. */
export interface Iso {
  readonly path: string;
  /** Of its inputs: the same digest is the same image. */
  readonly digest: string;
  readonly bytes: number;
  /** False when the cache had it. */
  readonly built: boolean;
  readonly kernelVersion: string;
}

/** Words of the kernel that do not depend on the site: console on the serial line and the screen, no hang on a panic. */
const baseCmdline = "console=tty0 console=ttyS0,115200 net.ifnames=0 panic=5 quiet loglevel=4";

const grubConfig = `set timeout=0
set default=0
set ultracloud_params=""
source /boot/grub/site.cfg
menuentry "Install UltraCloud" {
  linux /boot/vmlinuz ${baseCmdline} $ultracloud_params
  initrd /boot/initrd
}
`;

const installerConfig = `rebootCommand = ["reboot", "-f"]
retryMsMin = 1000
retryMsMax = 15000
`;

/** What the medium and the systems of the nodes are made of. */
export interface Parts {
  readonly userland: Userland;
  readonly kernel: Kernel;
}

export async function buildParts(cacheDir: string, say: (text: string) => void): Promise<Parts> {
  await requireBuildTools();
  return { userland: await buildUserland(cacheDir, say), kernel: await buildKernel(cacheDir, say) };
}

/** The medium without the parameters of any site; built when the cache does not hold it for the sources of now. */
export async function buildIso(
  cacheDir: string,
  say: (text: string) => void,
  parts?: Parts,
): Promise<Iso> {
  const { userland, kernel } = parts ?? await buildParts(cacheDir, say);
  const work = await Deno.makeTempDir({ prefix: "uc-iso-" });
  try {
    const configDir = "/ultracloud";
    const [program] = await bundleComponents(
      work,
      ["installer"],
      (name) => placementOn(name, { configDir, trustFile: "/ultracloud/trust.json" }),
    );
    const deno = await Deno.realPath(Deno.execPath());
    const inputs = [
      ...[
        version,
        userland.digest,
        kernel.digest,
        grubConfig,
        liveInit,
        dhcpScript,
        installerConfig,
        Deno.version.deno,
      ],
      ...[program!.flags, await digestOf([program!.path])],
    ];
    const { dir, digest, made } = await cached(cacheDir, "iso", inputs, async (fresh) => {
      say("packing the installer's medium");
      const root = `${work}/root`;
      await tool(["cp", "-a", userland.dir, root]);
      for (
        const [path, target] of [["bin", "usr/bin"], ["sbin", "usr/sbin"], ["lib", "usr/lib"], ["lib64", "usr/lib64"]]
      ) {
        await Deno.symlink(target!, `${root}/${path}`);
      }
      for (const name of ["proc", "sys", "dev", "run", "tmp", "mnt", "etc/nix", "var/lib", "root", "ultracloud"]) {
        await Deno.mkdir(`${root}/${name}`, { recursive: true });
      }
      const texts: Readonly<Record<string, string>> = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\ndisk:x:6:\ncdrom:x:24:\nkvm:x:36:\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "etc/nix/nix.conf":
          "experimental-features = nix-command\nsubstituters =\nbuild-users-group =\nsandbox = false\n",
        "ultracloud/installer.toml": installerConfig,
        "ultracloud/installer.flags": program!.flags.join("\n") + "\n",
      };
      for (const [path, text] of Object.entries(texts)) await Deno.writeTextFile(`${root}/${path}`, text);
      await Deno.symlink("/run/resolv.conf", `${root}/etc/resolv.conf`);
      await Deno.writeTextFile(`${root}/ultracloud/init`, liveInit, { mode: 0o755 });
      await Deno.writeTextFile(`${root}/ultracloud/dhcp`, dhcpScript, { mode: 0o755 });
      await Deno.copyFile(program!.path, `${root}/ultracloud/installer.js`);
      await Deno.copyFile(deno, `${root}/ultracloud/deno`);
      await Deno.chmod(`${root}/ultracloud/deno`, 0o755);
      await packIso(fresh, root, kernel, work);
    });
    const path = `${dir}/uc.iso`;
    return { path, digest, bytes: (await Deno.stat(path)).size, built: made, kernelVersion: kernel.version };
  } finally {
    await tool(["rm", "-rf", work]);
  }
}

async function packIso(out: string, root: string, kernel: Kernel, work: string): Promise<void> {
  const iso = `${work}/iso`;
  for (const dir of ["boot/grub", "live"]) await Deno.mkdir(`${iso}/${dir}`, { recursive: true });
  const squash = ["-quiet", "-no-progress", "-noappend", "-comp", "zstd", "-Xcompression-level", "6", "-no-xattrs"];
  await tool(["mksquashfs", root, `${iso}/live/root.squashfs`, ...squash], { timeoutMs: 300_000 });
  await Deno.copyFile(`${kernel.dir}/vmlinuz`, `${iso}/boot/vmlinuz`);
  await Deno.copyFile(`${kernel.dir}/initrd-medium`, `${iso}/boot/initrd`);
  await Deno.writeTextFile(`${iso}/boot/grub/grub.cfg`, grubConfig);
  await Deno.writeFile(`${iso}/boot/grub/site.cfg`, siteConfig(""));
  const words = ["-o", `${out}/uc.iso`, iso, "--", "-volid", mediumLabel];
  await tool(["grub-mkrescue", ...words], { timeoutMs: 300_000 });
}

/**
 * A copy of the medium with the parameters of a site, or of one machine, in its boot menu: what is written to a stick or
 * handed to a BMC, as nobody types a command line there. The bytes of that file are replaced where they lie, so that
 * every way of booting stays as it was. Only the owner reads the copy: the token is in it.
 */
export async function writeSiteIso(
  iso: Pick<Iso, "path">,
  parameters: Partial<BootstrapParameters>,
  into: string,
): Promise<void> {
  const config = siteConfig(formatCmdline(parameters));
  const image = Buffer.from((await Deno.readFile(iso.path)).buffer);
  const at = image.indexOf(siteMark);
  if (at < 0 || image.indexOf(siteMark, at + 1) >= 0) {
    throw fault("data_loss", "medium_invalid", `Cannot find the site's parameters in ${iso.path}, once`);
  }
  image.set(config, at);
  await Deno.remove(into).catch(() => {});
  await Deno.writeFile(into, image, { mode: 0o600 });
}
