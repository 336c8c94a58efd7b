import { fault } from "@ultracloud/base";
import { type Command, parseFlags } from "./_command.ts";
import { capture } from "./_process.ts";
import { green, red } from "./_term.ts";
import { readTextIfPresent } from "./_workspace.ts";

/** Newer releases fail to install where an optional platform package is missing. */
const bufVersion = "1.66.1";

/** Runs buf in proto/; the `deno` its plugin list asks for is this one, wherever it lives. */
async function buf(root: string, binDir: string, args: readonly string[]): Promise<void> {
  const result = await capture(Deno.execPath(), {
    args: ["run", "-q", "-A", `npm:@bufbuild/buf@${bufVersion}`, ...args],
    cwd: `${root}/proto`,
    env: { PATH: `${binDir}:${Deno.env.get("PATH") ?? ""}`, NO_COLOR: "1" },
  });
  if (result.code === 0) return;
  const text = `${result.stdout}${result.stderr}`.trim();
  throw fault("failed_precondition", "gen_failed", `Cannot run buf ${args[0]}: it ended with ${result.code}\n${text}`);
}

/** Relative paths of all files below `dir`; empty when there is none. */
async function listFiles(dir: string): Promise<string[]> {
  const found: string[] = [];
  const walk = async (at: string): Promise<void> => {
    for await (const entry of Deno.readDir(`${dir}${at}`)) {
      if (entry.isDirectory) await walk(`${at}/${entry.name}`);
      else found.push(`${at}/${entry.name}`);
    }
  };
  try {
    await walk("");
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return found.sort();
}

/** Sentences on how the committed tree differs from the fresh one; empty when equal. */
export async function compareTrees(committed: string, fresh: string): Promise<string[]> {
  const have = new Set(await listFiles(committed));
  const want = new Set(await listFiles(fresh));
  const found: string[] = [];
  for (const path of [...new Set([...have, ...want])].sort()) {
    if (!have.has(path)) found.push(`${path.slice(1)} is missing`);
    else if (!want.has(path)) found.push(`${path.slice(1)} is left over from a contract that is gone`);
    else if (await readTextIfPresent(`${committed}${path}`) !== await readTextIfPresent(`${fresh}${path}`)) {
      found.push(`${path.slice(1)} differs`);
    }
  }
  return found;
}

/** Makes `tree` equal to `fresh` file by file, so that programs that load it meanwhile find every file whole. */
export async function replaceTree(tree: string, fresh: string): Promise<void> {
  const want = new Set(await listFiles(fresh));
  for (const path of want) {
    const text = await Deno.readTextFile(`${fresh}${path}`);
    if (await readTextIfPresent(`${tree}${path}`) === text) continue;
    await Deno.mkdir(`${tree}${path.slice(0, path.lastIndexOf("/"))}`, { recursive: true });
    await Deno.writeTextFile(`${tree}${path}.new`, text);
    await Deno.rename(`${tree}${path}.new`, `${tree}${path}`);
  }
  for (const path of await listFiles(tree)) if (!want.has(path)) await Deno.remove(`${tree}${path}`);
}

/** Rewrites the golden files that follow from code and manifests; these tools are loaded only now, as they read both. */
async function updateReference(root: string): Promise<number> {
  const { roomsCommand } = await import("./rooms.ts");
  const { permissionsCommand } = await import("./permissions.ts");
  const rooms = await roomsCommand.run(["--update"], root);
  const permissions = await permissionsCommand.run(["--update"], root);
  return rooms === 0 ? permissions : rooms;
}

/** Lints the contracts and writes proto/gen, or proves that it is what they say. */
export const genCommand: Command = {
  name: "gen",
  help: `deno task gen [--check]

Runs buf lint and buf generate (@bufbuild/buf ${bufVersion}, plugins of proto/buf.gen.yaml) into proto/gen, then
rewrites every golden file of docs/reference, as rooms --update and permissions --update do.

  --check   generate into a temporary directory and fail when proto/gen is not the same`,
  async run(args, root) {
    const { values } = parseFlags({ args: [...args], options: { check: { type: "boolean", default: false } } });
    const temp = await Deno.makeTempDir({ prefix: "uc-gen-" });
    try {
      await Deno.mkdir(`${temp}/bin`);
      await Deno.symlink(Deno.execPath(), `${temp}/bin/deno`);
      await buf(root, `${temp}/bin`, ["lint"]);
      await buf(root, `${temp}/bin`, ["generate", "-o", `${temp}/out`]);
      if (values.check !== true) {
        await replaceTree(`${root}/proto/gen`, `${temp}/out/gen`);
        console.log(`${green("ok")} proto/gen is written`);
        return await updateReference(root);
      }
      const differences = await compareTrees(`${root}/proto/gen`, `${temp}/out/gen`);
      for (const sentence of differences) console.log(`${red("stale")} proto/gen/${sentence}`);
      if (differences.length > 0) {
        console.log("  run: deno task gen");
        return 1;
      }
      console.log(`${green("ok")} proto/gen is what the contracts say`);
      return 0;
    } finally {
      await Deno.remove(temp, { recursive: true });
    }
  },
};
