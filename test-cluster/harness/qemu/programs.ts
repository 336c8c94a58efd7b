import { fault } from "@ultracloud/base";
import { workspaceRoot } from "@ultracloud/testing";
import { runTool } from "../tools.ts";
import { warmDenoDir } from "./deno_dir.ts";
import { nodePaths } from "./guest_tree.ts";
import { removeUnused } from "./node_image.ts";
import { digestOf, digestOfText, packReadOnly } from "./packing.ts";

/** Raised by hand when the way of building changes in something its inputs do not show. */
const builderVersion = 1;

/** Bundlers at work at once. */
const atOnce = 2;
const agentEntry = `${workspaceRoot}/test-cluster/harness/qemu/agent_main.ts`;

/** Name of a helper of a component among the programs; no component has a point in its name. */
export function helperProgram(component: string, name: string): string {
  return `${component}.${name}`;
}

/**
 * A disk with every program as one file, by its name, and the node's agent; `entries` says from which sources. A
 * component may be named anything but `harness`.
 */
export async function buildPrograms(
  cacheDir: string,
  entries: Readonly<Record<string, string>>,
  v8Flags: string,
  say: (text: string) => void,
): Promise<string> {
  const dir = `${cacheDir}/programs`;
  await Deno.mkdir(dir, { recursive: true });
  const work = await Deno.makeTempDir({ dir, prefix: ".programs-" });
  try {
    const out = `${work}/out`;
    await Deno.mkdir(out);
    const all = Object.entries({ ...entries, harness: agentEntry });
    say(`bundling ${all.length} programs`);
    const queue = [...all];
    await Promise.all(Array.from({ length: atOnce }, async () => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        await bundle(next[1], `${out}/${next[0]}.js`);
      }
    }));
    const files = all.map(([name]) => `${out}/${name}.js`).sort();
    const inputs = [builderVersion, await digestOf(files), v8Flags, Deno.version];
    const path = `${dir}/${digestOfText(JSON.stringify(inputs))}.ext4`;
    if (await Deno.stat(path).then(() => true, () => false)) await Deno.utime(path, new Date(), new Date());
    else {
      say("loading the programs once, so that nodes need not analyse them");
      await warmDenoDir({ files, from: out, to: nodePaths.programs, denoDir: `${out}/deno`, v8Flags });
      await packReadOnly(out, `${work}/programs.ext4`);
      await Deno.rename(`${work}/programs.ext4`, path);
    }
    await removeUnused(dir);
    return path;
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

async function bundle(entry: string, into: string): Promise<void> {
  const options = ["--quiet", "--frozen", `--config=${workspaceRoot}/deno.json`, "--platform=deno", "--no-check"];
  const argv = [Deno.execPath(), "bundle", ...options, `--output=${into}`, entry];
  const { code, stderr } = await runTool(argv, { timeoutMs: 300_000, cwd: workspaceRoot });
  if (code === 0) return;
  throw fault("unavailable", "bundle_failed", `Cannot bundle ${entry}: ${stderr.trim().slice(-600)}`);
}
