import { fault } from "@ultracloud/base";

/** A member of the workspace as its deno.json and folder describe it. */
export interface Member {
  /** Folder relative to the root: `lib/base`. */
  readonly dir: string;
  /** Package name: `@ultracloud/base`. */
  readonly name: string;
  /** Import path after the name (`.`, `./iam/v1`) to file relative to the folder. */
  readonly exports: Readonly<Record<string, string>>;
}

export interface Workspace {
  readonly root: string;
  readonly members: readonly Member[];
  /** Bare names that the root import map pins to npm. */
  readonly npmNames: ReadonlySet<string>;
}

interface ConfigFile {
  workspace?: string[];
  imports?: Record<string, string>;
  name?: string;
  exports?: string | Record<string, string>;
}

async function readConfig(file: string): Promise<ConfigFile> {
  try {
    return JSON.parse(await Deno.readTextFile(file)) as ConfigFile;
  } catch (cause) {
    throw fault("invalid_argument", "workspace_invalid", `Cannot read ${file} as JSON`, { cause });
  }
}

/** The workspace at `root`, members in the order of deno.json. */
export async function loadWorkspace(root: string): Promise<Workspace> {
  const config = await readConfig(`${root}/deno.json`);
  const members: Member[] = [];
  for (const path of config.workspace ?? []) {
    const dir = path.replace(/^\.\//, "").replace(/\/$/, "");
    const member = await readConfig(`${root}/${dir}/deno.json`);
    const exports = typeof member.exports === "string" ? { ".": member.exports } : member.exports ?? {};
    members.push({ dir, name: member.name ?? "", exports });
  }
  return { root, members, npmNames: new Set(Object.keys(config.imports ?? {})) };
}

/** Folders that hold nothing of ours. */
const skippedDirs = new Set(["node_modules", "work", "coverage", "testdata", ".git"]);

/** TypeScript files below `dir`, relative to `root`, sorted; test data left out. */
export async function listSources(root: string, dir: string): Promise<string[]> {
  const found: string[] = [];
  const walk = async (at: string): Promise<void> => {
    for await (const entry of Deno.readDir(`${root}/${at}`)) {
      const path = `${at}/${entry.name}`;
      if (entry.isDirectory) {
        if (!skippedDirs.has(entry.name)) await walk(path);
      } else if (/\.(ts|tsx|mts|js|mjs)$/.test(entry.name)) {
        found.push(path);
      }
    }
  };
  await walk(dir);
  return found.sort();
}

/** Where tools put what they make: `ULTRACLOUD_WORK_ROOT`, otherwise `work` in the repository. */
export function workRoot(root: string): string {
  return Deno.env.get("ULTRACLOUD_WORK_ROOT") ?? `${root}/work`;
}

/** Text of a file; undefined when there is none. */
export async function readTextIfPresent(path: string): Promise<string | undefined> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
