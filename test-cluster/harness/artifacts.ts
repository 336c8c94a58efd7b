import { runTool } from "./tools.ts";

/** A new directory `<work root>/<name>/<timestamp>` for one run. */
export async function makeArtifactsDir(workRoot: string, name: string, started: Date): Promise<string> {
  const dir = `${workRoot}/${name}/${stampOf(started)}`;
  await Deno.mkdir(dir, { recursive: true });
  return dir;
}

/** `20260401T120301Z`, so that names sort by time. */
export function stampOf(time: Date): string {
  return time.toISOString().replaceAll(/[-:]/g, "").replace(/\.\d+/, "");
}

/** Lets `latest` beside the directory point at it, in one step. */
export async function refreshLatest(dir: string): Promise<void> {
  const slash = dir.lastIndexOf("/");
  const latest = `${dir.slice(0, slash)}/latest`;
  await Deno.remove(`${latest}.new`).catch(() => {});
  await Deno.symlink(dir.slice(slash + 1), `${latest}.new`);
  await Deno.rename(`${latest}.new`, latest);
}

/** The commit the sources are at; `-dirty` when something differs from it, "unknown" without git. */
export async function commitOf(root: string): Promise<string> {
  try {
    const head = await runTool(["git", "-C", root, "rev-parse", "HEAD"]);
    if (head.code !== 0) return "unknown";
    const changed = await runTool(["git", "-C", root, "status", "--porcelain"]);
    return head.stdout.trim() + (changed.stdout.trim() === "" ? "" : "-dirty");
  } catch {
    return "unknown";
  }
}

/** What the figures of a run depend on. */
export async function environment(): Promise<Record<string, unknown>> {
  const version = async (argv: string[]) => {
    const out = await runTool(argv).catch(() => undefined);
    return out?.stdout.split("\n")[0]?.trim() ?? "absent";
  };
  return {
    deno: Deno.version.deno,
    kernel: Deno.osRelease(),
    cpus: navigator.hardwareConcurrency,
    memoryBytes: Deno.systemMemoryInfo().total,
    loadAverage: Deno.loadavg(),
    qemu: await version(["qemu-system-x86_64", "--version"]),
    // Its presence says nothing: a stock kernel may hang under it. Workers probe it; the lanes name what they ran with.
    kvmDevice: await Deno.stat("/dev/kvm").then(() => true, () => false),
  };
}
