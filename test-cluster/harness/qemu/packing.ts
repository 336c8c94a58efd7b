import { fault } from "@ultracloud/base";
import { createHash } from "node:crypto";
import { tool, whichTool } from "../tools.ts";

/** Ids of a disk that is only read mean nothing. */
const fixedId = "75636c75-7374-4572-8e6f-646500000000";
const mib = 2 ** 20;

/** Packs a directory into a file system that is only read. */
export async function packReadOnly(dir: string, image: string): Promise<void> {
  const { bytes, files } = await settle(dir);
  // Inodes, directories and block rounding, generously: what is not used stays a hole.
  const size = Math.ceil((bytes * 1.1 + files * 8_192 + 4 * mib) / mib);
  const features = ["-O", "^has_journal,^resize_inode", "-m", "0", "-N", String(2 * files + 1_024)];
  const fixed = ["-U", fixedId, "-E", `hash_seed=${fixedId},root_owner=0:0`];
  const argv = ["mkfs.ext4", "-q", "-F", ...features, ...fixed, "-d", dir, image, `${size}M`];
  await tool(["env", "E2FSPROGS_FAKE_TIME=1", ...argv], { timeoutMs: 300_000 });
}

/** A new empty file system in a sparse file. */
export async function makeDisk(image: string, bytes: number): Promise<void> {
  await tool(["truncate", "-s", String(bytes), image]);
  await tool(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "assume_storage_prezeroed=1", image]);
}

/** Dates everything below alike; answers what there is. */
async function settle(dir: string): Promise<{ bytes: number; files: number }> {
  let [bytes, files] = [0, 1];
  for await (const entry of Deno.readDir(dir)) {
    const path = `${dir}/${entry.name}`;
    files++;
    if (entry.isSymlink) await tool(["touch", "-h", "-d", "@1", path]);
    else if (entry.isDirectory) {
      const below = await settle(path);
      bytes += below.bytes;
      files += below.files;
    } else {
      bytes += (await Deno.stat(path)).size;
      await Deno.utime(path, 1, 1);
    }
  }
  await Deno.utime(dir, 1, 1);
  return { bytes, files };
}

/** SHA-256 of files, one after the other, as hex. */
export async function digestOf(paths: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const path of paths) {
    using file = await Deno.open(path);
    for await (const chunk of file.readable) hash.update(chunk);
  }
  return hash.digest("hex");
}

export function digestOfText(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** A program of this host and every library it needs, as absolute paths. */
export async function withLibraries(program: string): Promise<string[]> {
  const text = await tool(["ldd", program]).catch(() => "");
  const missing = text.split("\n").find((line) => line.includes("not found"));
  if (missing !== undefined) {
    throw fault("failed_precondition", "library_missing", `Cannot pack ${program}: ${missing.trim()}`);
  }
  return [program, ...[...text.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)].map((match) => match[1]!)];
}

/** Where a program of this host is; a fault that names its package when it is nowhere. */
export function needTool(name: string, debianPackage: string): string {
  const path = whichTool(name);
  if (path !== undefined) return path;
  throw fault(
    "failed_precondition",
    "tool_missing",
    `Cannot make nodes without ${name}: wanted the package ${debianPackage}`,
  );
}
