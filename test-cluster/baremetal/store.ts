import { fault } from "@ultracloud/base";
import { createHash } from "node:crypto";
import { tool, whichTool } from "../harness/tools.ts";

/** What is kept when the same inputs are asked for again; others go after a week without a reader. */
const unusedMsMax = 7 * 86_400_000;

/**
 * A directory of the cache that is made once for its inputs. `make` fills a fresh directory; it appears under its name
 * whole or not at all. Answers where it is, and whether it was made now.
 */
export async function cached(
  cacheDir: string,
  kind: string,
  inputs: unknown,
  make: (dir: string) => Promise<void>,
): Promise<{ readonly dir: string; readonly digest: string; readonly made: boolean }> {
  const digest = createHash("sha256").update(JSON.stringify(inputs)).digest("hex").slice(0, 32);
  const parent = `${cacheDir}/baremetal/${kind}`;
  const dir = `${parent}/${digest}`;
  if (await exists(dir)) {
    await Deno.utime(dir, new Date(), new Date());
    return { dir, digest, made: false };
  }
  await Deno.mkdir(parent, { recursive: true });
  const fresh = await Deno.makeTempDir({ dir: parent, prefix: ".new-" });
  try {
    await make(fresh);
    await Deno.chmod(fresh, 0o755);
    await Deno.rename(fresh, dir).catch(async (error) => {
      // Another run was first.
      if (!await exists(dir)) throw error;
    });
  } finally {
    await removeTree(fresh);
  }
  await removeUnused(parent);
  return { dir, digest, made: true };
}

/** Stores keep their directories read-only, which the platform's own removal stumbles over. */
export async function removeTree(path: string): Promise<void> {
  if (!await exists(path)) return;
  await tool(["chmod", "-R", "u+w", path]).catch(() => {});
  await tool(["rm", "-rf", path]);
}

async function removeUnused(parent: string): Promise<void> {
  for await (const { name } of Deno.readDir(parent)) {
    const { mtime } = await Deno.stat(`${parent}/${name}`).catch(() => ({ mtime: null }));
    if (mtime !== null && Date.now() - mtime.getTime() > unusedMsMax) await removeTree(`${parent}/${name}`);
  }
}

export async function exists(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}

/** Programs of the host that building needs, with the package of Debian that has them. */
const needed: Readonly<Record<string, string>> = {
  "mmdebstrap": "mmdebstrap",
  "xorriso": "xorriso",
  "grub-mkrescue": "grub-common",
  "mformat": "mtools",
  "mksquashfs": "squashfs-tools",
  "qemu-system-x86_64": "qemu-system-x86",
  "apt-get": "apt",
};
const neededFiles: Readonly<Record<string, string>> = {
  "/usr/lib/grub/x86_64-efi": "grub-efi-amd64-bin",
  "/usr/lib/grub/i386-pc": "grub-pc-bin",
  "/usr/share/OVMF/OVMF_CODE_4M.fd": "ovmf",
};

/** Refuses with the one command that installs what is missing. */
export async function requireBuildTools(): Promise<void> {
  const missing = Object.entries(needed).filter(([program]) => whichTool(program) === undefined).map(([, name]) =>
    name
  );
  for (const [path, name] of Object.entries(neededFiles)) if (!await exists(path)) missing.push(name);
  if (missing.length === 0) return;
  throw fault(
    "failed_precondition",
    "tool_missing",
    `Cannot build an installer here: run \`apt-get install ${[...new Set(missing)].join(" ")}\` first`,
  );
}
