import { fault } from "@ultracloud/base";
import { runTool, tool } from "../harness/tools.ts";
import { cached } from "./store.ts";

/** The suite with a Nix that is new enough; what the nodes run is from it, whatever the host runs. */
const suite = "trixie";
/** Raised by hand when the way of building changes in something that the lists below do not show. */
const version = 3;

/** What the installer and a node need of a distribution. */
const packages = [
  ...["nix-bin", "udev", "fdisk", "util-linux", "mount", "e2fsprogs", "dosfstools", "kmod", "findutils", "coreutils"],
  ...["busybox-static", "ca-certificates", "dash", "grep", "sed", "libgcc-s1", "systemd-boot-efi"],
];
/** Parts of those packages that nobody reads on a node. */
const leftOut = [
  ...["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/perl"],
  ...["usr/share/perl5", "usr/share/bash-completion", "usr/share/zsh", "usr/share/fish", "usr/share/i18n"],
  ...["usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/perl", "usr/lib/x86_64-linux-gnu/perl-base"],
  ...["usr/lib/udev/hwdb.d", "usr/lib/udev/hwdb.bin", "usr/share/bug", "usr/share/initramfs-tools", "usr/bin/perl"],
];

export interface Userland {
  /** Directory that holds `usr/` and nothing else. */
  readonly dir: string;
  readonly digest: string;
}

/** Programs of a node, as a tree of Debian packages; fetched once and kept. Nothing is installed on the host. */
export async function buildUserland(cacheDir: string, say: (text: string) => void): Promise<Userland> {
  const { dir, digest } = await cached(cacheDir, "userland", [version, suite, packages, leftOut], async (fresh) => {
    say(`fetching ${packages.length} packages of ${suite} and what they need (once, about a minute)`);
    const root = `${fresh}.root`;
    try {
      const source = `deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${await mirror()} ${suite} main`;
      const words = ["--variant=extract", "--mode=root", `--include=${packages.join(",")}`, suite, root, source];
      await tool(["mmdebstrap", "--quiet", ...words], { timeoutMs: 600_000 });
      for (const path of leftOut) await tool(["rm", "-rf", `${root}/${path}`]);
      // A store takes no device nodes and no set-user-id programs.
      await tool(["chmod", "-R", "a-s,u+w", `${root}/usr`]);
      await addApplets(root);
      await tool(["mv", `${root}/usr`, `${fresh}/usr`]);
    } finally {
      await tool(["rm", "-rf", root]);
    }
  });
  return { dir, digest };
}

/** Programs that no package brought are busybox's: an address by DHCP, a restart. */
async function addApplets(root: string): Promise<void> {
  const { stdout } = await runTool([`${root}/usr/bin/busybox`, "--list"]);
  for (const name of stdout.split("\n").filter((line) => line !== "")) {
    const taken = await Promise.all(
      ["bin", "sbin"].map((dir) => Deno.lstat(`${root}/usr/${dir}/${name}`).then(() => true, () => false)),
    );
    if (!taken.includes(true)) await Deno.symlink("busybox", `${root}/usr/bin/${name}`);
  }
}

/** Where the host's own package manager fetches from. */
async function mirror(): Promise<string> {
  const files = ["/etc/apt/sources.list"];
  for await (const { name } of Deno.readDir("/etc/apt/sources.list.d")) files.push(`/etc/apt/sources.list.d/${name}`);
  for (const file of files) {
    const text = await Deno.readTextFile(file).catch(() => "");
    const found = /^URIs:\s*(\S+\/debian)\/?\s*$/m.exec(text) ??
      /^deb\s+(?:\[[^\]]*\]\s+)?(\S+\/debian)\/?\s/m.exec(text);
    if (found) return found[1]!;
  }
  throw fault("failed_precondition", "mirror_missing", "Cannot find a Debian mirror in the host's /etc/apt");
}
