import type { Finding, Tree } from "./finding.ts";
import { isPage } from "./wording.ts";

/** Everything that can be typed. */
export interface KnownCommands {
  /** Tasks of deno.json. */
  readonly tasks: ReadonlySet<string>;
  /** Lanes and commands of `deno task cluster`. */
  readonly cluster: ReadonlySet<string>;
  /** Every command of `uc` as words: "vm list". */
  readonly uc: ReadonlySet<string>;
}

/** A command as a page has it. */
interface Typed {
  readonly line: number;
  readonly words: readonly string[];
}

/** Commands in fences and in backticks. A line that ends in a backslash goes on in the next one. */
export function commandsOf(page: string): Typed[] {
  const found: Typed[] = [];
  const take = (line: number, text: string) => {
    const bare = text.replace(/^\s*[$#>]\s+/, "").replace(/\s+#\s.*$/, "").replace(/^\s*([A-Z_]+=\S+\s+)+/, "").trim();
    const words = bare.split(/\s+/);
    if (words[0] === "npx" && /^deno@/.test(words[2] ?? "")) words.splice(0, 3, "deno");
    if ((words[0] === "deno" && words[1] === "task") || words[0] === "uc") found.push({ line, words });
  };
  const lines = page.split("\n");
  let fence: string | undefined;
  for (let i = 0; i < lines.length; i++) {
    const mark = /^\s*(```+|~~~+)\s*(\w*)/.exec(lines[i]!);
    if (mark !== null) {
      fence = fence === undefined ? mark[1]! : lines[i]!.includes(fence) ? undefined : fence;
      continue;
    }
    if (fence !== undefined) {
      const first = i;
      let text = lines[i]!;
      while (text.endsWith("\\") && i + 1 < lines.length) text = `${text.slice(0, -1)} ${lines[++i]}`;
      for (const part of text.split(/\s(?:&&|\|\||;)\s/)) take(first + 1, part);
    } else {
      for (const [, code = ""] of lines[i]!.matchAll(/`([^`]+)`/g)) take(i + 1, code);
    }
  }
  return found;
}

/** A word that stands for others: NAME, <name>, [NAME], ..., a|b is looked at one by one. */
const isStandIn = (word: string) => /^[<[(]|\.\.\.|^[A-Z][A-Z0-9_-]*$|^[-–]+$|[…*]/.test(word);

/** Commands that pages name and nobody can run. */
export function judgeCommands(tree: Tree, known: KnownCommands): Finding[] {
  const findings: Finding[] = [];
  for (const [file, text] of tree) {
    if (!isPage(file)) continue;
    for (const { line, words } of commandsOf(text)) {
      const reason = words[0] === "uc" ? judgeUc(words.slice(1), known) : judgeTask(words.slice(2), known);
      if (reason !== undefined) findings.push({ file, line, text: words.slice(0, 6).join(" "), reason });
    }
  }
  return findings;
}

function judgeTask(words: readonly string[], known: KnownCommands): string | undefined {
  const [task, ...rest] = words;
  if (task === undefined || isStandIn(task)) return undefined;
  if (!known.tasks.has(task)) return `there is no task ${task}`;
  if (task === "uc") return judgeUc(rest, known);
  if (task !== "cluster") return undefined;
  const [command] = rest.filter((word) => word !== "--");
  if (command === undefined || isStandIn(command) || command.startsWith("-")) return undefined;
  for (const one of command.split("|")) {
    if (/[A-Z<]/.test(one)) continue;
    if (!known.cluster.has(one) && !known.cluster.has(one.replace(/^fresh-/, ""))) {
      return `there is no lane or command ${one}`;
    }
  }
  return undefined;
}

/** Follows the words down the tree of commands as far as they are names of it. */
function judgeUc(words: readonly string[], known: KnownCommands): string | undefined {
  let paths = [""];
  for (const word of words) {
    if (word.startsWith("-") || isStandIn(word) || /^["'$]/.test(word)) return undefined;
    const next: string[] = [];
    for (const path of paths) {
      if (known.uc.has(path)) return undefined;
      for (const one of word.replace(/[,.;:]$/, "").split("|")) {
        const longer = path === "" ? one : `${path} ${one}`;
        if (known.uc.has(longer) || [...known.uc].some((command) => command.startsWith(`${longer} `))) {
          next.push(longer);
        } else return `there is no command uc ${longer}`;
      }
    }
    paths = next;
  }
  return undefined;
}
