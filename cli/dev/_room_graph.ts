import { type ImportRef, scanImports } from "./_imports.ts";
import { domainRooms, isExempt, leafRooms, mayImport, roomOf, ruleOf } from "./_room_rules.ts";
import { listSources, type Member, type Workspace } from "./_workspace.ts";

export interface Violation {
  readonly file: string;
  readonly line: number;
  readonly sentence: string;
}

export interface RoomGraph {
  readonly filesCount: number;
  /** Room to the rooms and npm packages its shipped files import. */
  readonly edges: ReadonlyMap<string, ReadonlySet<string>>;
  readonly violations: readonly Violation[];
}

type Target =
  | { readonly kind: "file"; readonly path: string; readonly room: string; readonly byName: boolean }
  | { readonly kind: "npm" | "node" | "unknown"; readonly name: string };

/** `a/b/../c` as `a/c`; a path that leaves the repository starts with `..`. */
function normalize(path: string): string {
  const out: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === ".." && out.length > 0 && out.at(-1) !== "..") out.pop();
    else out.push(part);
  }
  return out.join("/");
}

function packageName(specifier: string): string {
  return specifier.split("/").slice(0, specifier.startsWith("@") ? 2 : 1).join("/");
}

function resolve(workspace: Workspace, file: string, specifier: string): Target {
  if (specifier.startsWith("node:")) return { kind: "node", name: specifier };
  if (specifier.startsWith(".")) {
    const path = normalize(`${file.replace(/[^/]*$/, "")}${specifier}`);
    return { kind: "file", path, room: roomOf(path), byName: false };
  }
  const name = packageName(specifier.replace(/^npm:/, ""));
  const member = workspace.members.find((candidate) => candidate.name === name);
  if (member) {
    const key = specifier === name ? "." : `.${specifier.slice(name.length)}`;
    const exported = member.exports[key];
    if (exported === undefined) return { kind: "unknown", name: specifier };
    return { kind: "file", path: normalize(`${member.dir}/${exported}`), room: roomOf(member.dir), byName: true };
  }
  if (specifier.startsWith("npm:")) return { kind: "npm", name: name.replace(/(.)@.*$/, "$1") };
  return workspace.npmNames.has(name) ? { kind: "npm", name } : { kind: "unknown", name: specifier };
}

/** What is wrong with one import, as a sentence. */
function judge(file: string, ref: ImportRef, target: Target): string | undefined {
  const from = roomOf(file);
  if (target.kind === "unknown") {
    return `Cannot import ${target.name}: wanted a file, an exported name of the workspace, or an npm package of the root deno.json`;
  }
  const exempt = isExempt(file);
  // `uc dev` is the one door from the command line to the repository's tools, in the same package.
  // A planted fault is a component's own entry on another disk.
  const door = target.kind === "file" && ((file === "cli/main.ts" && target.path === "cli/dev/main.ts") ||
    (file.startsWith("test-cluster/planted/") && /^services\/[^/]+\/main\.ts$/.test(target.path)));
  if (target.kind === "file" && target.room !== from && !target.byName && from !== "cli/dev" && !door) {
    return `Cannot reach ${target.path} by path: wanted the package's name, as a room exports only its mod.ts`;
  }
  if (exempt) return undefined;
  const rule = ruleOf(from);
  if (rule === undefined) return `Cannot place ${from}: wanted a row for this room in cli/dev/_room_rules.ts`;
  const inDomain = /^(services|agents)\/[^/]+\/domain\//.test(file);
  if (target.kind === "file") {
    if (target.room === from) {
      if (isExempt(target.path)) return `Cannot import ${target.path} here: only tests may`;
      return inDomain && !ref.typeOnly ? judgeDomainFile(target.path) : undefined;
    }
    if (leafRooms.has(target.room)) return `Cannot import ${target.room} here: only tests may`;
    if (!mayImport(rule, target.room)) return `Cannot import ${target.room} in ${from}: ${rule.reason}`;
    if (inDomain && !ref.typeOnly && !domainRooms.includes(target.room)) {
      return `Cannot import ${target.room} in domain/: wanted ${domainRooms.join(", ")} or a type only`;
    }
    return undefined;
  }
  if (target.kind === "node") {
    if (rule.noNode) return `Cannot import ${target.name} in ${from}: ${rule.reason}`;
    if (inDomain) return `Cannot import ${target.name} in domain/: what it needs comes in through (options, deps)`;
    return undefined;
  }
  if (rule.npm && !rule.npm.includes(target.name)) return `Cannot import ${target.name} in ${from}: ${rule.reason}`;
  return undefined;
}

/** Files of its own component that domain/ may use: domain/ itself and the error table. */
function judgeDomainFile(path: string): string | undefined {
  const inside = path.split("/").slice(2).join("/");
  if (inside.startsWith("domain/") || inside === "errors.ts") return undefined;
  return `Cannot import ${inside} in domain/: wanted main -> service -> domain, never back`;
}

/** What is wrong with a member's own description. */
function judgeMember(member: Member): string | undefined {
  if (!member.name.startsWith("@ultracloud/")) return `Cannot name a package ${member.name}: wanted @ultracloud/<room>`;
  const keys = Object.keys(member.exports);
  if (member.dir === "proto") {
    const strange = keys.find((key) => !/^\.(\/[a-z]+)+\/v\d+((alpha|beta)\d+)?$/.test(key));
    return strange && `Cannot export ${strange}: wanted one name per contract version, like ./iam/v1`;
  }
  // A call of `uc` waits for what it loads, and needs of lib/rpc a client alone.
  const known = member.dir === "lib/rpc" ? { "./client": "./client_side.ts" } : {};
  const wanted: Readonly<Record<string, string>> = { ".": "./mod.ts", ...known };
  if (keys.includes(".") && keys.every((key) => wanted[key] === member.exports[key])) return undefined;
  return `Cannot export ${keys.join(", ")}: wanted ./mod.ts only, so that the inside stays free to change`;
}

function lineOf(text: string, needle: string): number {
  const at = text.indexOf(needle);
  return at < 0 ? 1 : text.slice(0, at).split("\n").length;
}

/** Reads every source file of the workspace and holds each import against the rules. */
export async function readRoomGraph(workspace: Workspace): Promise<RoomGraph> {
  const edges = new Map<string, Set<string>>();
  const violations: Violation[] = [];
  let filesCount = 0;
  for (const member of workspace.members) {
    const sentence = judgeMember(member);
    if (sentence) {
      const file = `${member.dir}/deno.json`;
      const text = await Deno.readTextFile(`${workspace.root}/${file}`);
      violations.push({ file, line: lineOf(text, '"exports"'), sentence });
    }
    for (const file of await listSources(workspace.root, member.dir)) {
      filesCount++;
      const from = roomOf(file);
      const shipped = !isExempt(file);
      if (shipped && !edges.has(from)) edges.set(from, new Set());
      for (const ref of scanImports(await Deno.readTextFile(`${workspace.root}/${file}`))) {
        const target = resolve(workspace, file, ref.specifier);
        const wrong = judge(file, ref, target);
        if (wrong) violations.push({ file, line: ref.line, sentence: wrong });
        if (!shipped) continue;
        if (target.kind === "file" && target.room !== from) edges.get(from)?.add(target.room);
        if (target.kind === "npm") edges.get(from)?.add(`npm:${target.name}`);
      }
    }
  }
  violations.sort((a, b) => a.file.localeCompare(b.file) || a.line - b.line);
  return { filesCount, edges, violations };
}

/** The golden text: one line per room, what it stands on behind it. */
export function formatRoomGraph(graph: RoomGraph): string {
  const lines = [
    "# Who imports whom, tests left out. Written by `deno task rooms --update`; a changed line is a design decision.",
    "",
  ];
  for (const room of [...graph.edges.keys()].sort()) {
    const targets = [...graph.edges.get(room) ?? []];
    const rooms = targets.filter((target) => !target.startsWith("npm:")).sort();
    const npm = targets.filter((target) => target.startsWith("npm:")).sort();
    lines.push(`${room} -> ${[...rooms, ...npm].join(" ") || "nothing"}`);
  }
  return lines.join("\n") + "\n";
}
