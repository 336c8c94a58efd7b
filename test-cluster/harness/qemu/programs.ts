import { fault } from "@ultracloud/base";
import { workspaceRoot } from "@ultracloud/testing";
import { runTool } from "../tools.ts";
import { removeUnused } from "./node_image.ts";
import { digestOf, packReadOnly } from "./packing.ts";

/** Bundlers at work at once. */
const atOnce = 2;
const agentEntry = `${workspaceRoot}/test-cluster/harness/qemu/agent_main.ts`;

/** A disk with every component as one file, by its name, and the node's agent; `entries` says from which programs. */
export async function buildPrograms(
  cacheDir: string,
  entries: Readonly<Record<string, string>>,
  say: (text: string) => void,
): Promise<string> {
  const dir = `${cacheDir}/programs`;
  await Deno.mkdir(dir, { recursive: true });
  const work = await Deno.makeTempDir({ dir, prefix: ".programs-" });
  try {
    const out = `${work}/out`;
    await Deno.mkdir(out);
    const all = Object.entries({ ...entries, "node-agent": agentEntry });
    say(`bundling ${all.length} programs`);
    const queue = [...all];
    await Promise.all(Array.from({ length: atOnce }, async () => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        await bundle(next[1], `${out}/${next[0]}.js`);
      }
    }));
    const digest = await digestOf(all.map(([name]) => `${out}/${name}.js`).sort());
    const path = `${dir}/${digest}.ext4`;
    if (await Deno.stat(path).then(() => true, () => false)) await Deno.utime(path, new Date(), new Date());
    else {
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
