import { workspaceRoot } from "@ultracloud/testing";
import { DatabaseSync } from "node:sqlite";
import { runTool } from "../tools.ts";

/** Caches of Deno that name programs by their URL, with the table in each. */
const caches: Readonly<Record<string, string>> = {
  dep_analysis_cache_v2: "moduleinfocache",
  v8_code_cache_v2: "codecache",
};
/** No component finds its configuration there: each ends as soon as its modules are loaded. */
const nothing = "/nonexistent";

export interface WarmOptions {
  /** Bundles, below `from`. */
  readonly files: readonly string[];
  /** Directory of the bundles now. */
  readonly from: string;
  /** Their directory on a node. */
  readonly to: string;
  /** Made here. */
  readonly denoDir: string;
  /** As on the nodes: code that was compiled under others is not used. */
  readonly v8Flags: string;
}

/**
 * Loads programs once and keeps what Deno learned of them: under emulation the first start of a program takes half as
 * long again without it. They run with no permission at all. Where this Deno keeps its caches otherwise than expected,
 * nodes only start more slowly.
 */
export async function warmDenoDir(options: WarmOptions): Promise<void> {
  const { files, from, to, denoDir, v8Flags } = options;
  const env = [`DENO_DIR=${denoDir}`, `DENO_V8_FLAGS=${v8Flags}`, "DENO_NO_UPDATE_CHECK=1"];
  const deno = [Deno.execPath(), "run", "--quiet", "--no-config", "--unstable-no-legacy-abort", "--no-prompt"];
  // How each ends says nothing: it is to load, not to work.
  for (const file of files) {
    await runTool(["env", ...env, ...deno, file, "--config", nothing], { cwd: workspaceRoot });
  }
  const [there, here] = [to, from].map((dir) => `file://${dir}/`) as [string, string];
  for (const [name, table] of Object.entries(caches)) {
    const path = `${denoDir}/${name}`;
    if (!await Deno.stat(path).then(() => true, () => false)) continue;
    using db = new DatabaseSync(path);
    if (db.prepare("SELECT 1 FROM sqlite_master WHERE name = ?").get(table) === undefined) continue;
    db.prepare(`UPDATE ${table} SET specifier = ? || substr(specifier, ?) WHERE substr(specifier, 1, ?) = ?`)
      .run(there, here.length + 1, here.length, here);
  }
}
