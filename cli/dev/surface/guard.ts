import { fault } from "@ultracloud/base";
import { allowed as allowedHere } from "./allowed.ts";
import { judgeArchived } from "./archived.ts";
import { judgeCommands, type KnownCommands } from "./commands.ts";
import type { Allowed, Finding, Tree } from "./finding.ts";
import { judgeMatrix } from "./matrix.ts";
import { judgeStubs } from "./stubs.ts";
import { judgeWording } from "./wording.ts";

/** Folders that hold nothing of ours, or nothing that ships. */
const skippedDirs = new Set(["node_modules", "work", "coverage", ".git", "gen"]);
const textFile = /\.(ts|md|proto|nix|json|toml|sh|txt)$/;

/** Every text of a tree that the guard looks at. */
export async function readTree(root: string): Promise<Tree> {
  const tree = new Map<string, string>();
  const walk = async (dir: string): Promise<void> => {
    for await (const entry of Deno.readDir(`${root}/${dir}`)) {
      const path = dir === "" ? entry.name : `${dir}/${entry.name}`;
      if (entry.isDirectory && !skippedDirs.has(entry.name)) await walk(path);
      else if (entry.isFile && textFile.test(entry.name)) tree.set(path, await Deno.readTextFile(`${root}/${path}`));
    }
  };
  await walk("");
  return tree;
}

/** What can be typed in a checkout. The code of `uc` and of the lanes is asked, not its text. */
export async function knownCommands(root: string): Promise<KnownCommands> {
  const load = async (path: string) => await import(new URL(`file://${root}/${path}`).href) as Record<string, unknown>;
  const config = JSON.parse(await Deno.readTextFile(`${root}/deno.json`)) as { tasks?: Record<string, unknown> };
  const { commandPaths } = await load("cli/app.ts") as { commandPaths: () => Promise<string[]> };
  const { clusterCommands } = await load("test-cluster/commands.ts") as { clusterCommands: readonly string[] };
  return {
    tasks: new Set(Object.keys(config.tasks ?? {})),
    cluster: new Set(clusterCommands),
    // `uc dev` hands over to the tools of the repository before the commands are looked at.
    uc: new Set([...await commandPaths(), "dev"]),
  };
}

/** Everything that must not ship, in order of files; entries of the allow-list that match nothing are findings, too. */
export function judgeSurface(tree: Tree, known: KnownCommands, allowed: readonly Allowed[] = allowedHere): Finding[] {
  const all = [
    ...judgeStubs(tree),
    ...judgeWording(tree),
    ...judgeArchived(tree),
    ...judgeCommands(tree, known),
    ...judgeMatrix(tree),
  ];
  const used = new Set<Allowed>();
  const findings = all.filter((finding) => {
    const line = tree.get(finding.file)?.split("\n")[finding.line - 1] ?? finding.text;
    const right = allowed.find(({ file, text }) => file === finding.file && line.includes(text));
    if (right !== undefined) used.add(right);
    return right === undefined;
  });
  for (const { file, text, reason } of allowed) {
    if (reason.trim() === "") throw fault("invalid_argument", "surface_guard", `Cannot allow ${text}: wanted a reason`);
    if ([...used].some((entry) => entry.file === file && entry.text === text)) continue;
    findings.push({ file, line: 0, text, reason: "the allow-list of the guard has an entry that matches nothing" });
  }
  return findings.sort((a, b) => a.file.localeCompare(b.file) || a.line - b.line);
}
