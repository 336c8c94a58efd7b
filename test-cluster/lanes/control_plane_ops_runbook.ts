import { fault } from "@ultracloud/base";
import { buildUc, type Io } from "@ultracloud/cli";
import { workspaceRoot } from "@ultracloud/testing";
import { run } from "@stricli/core";
import { runTool } from "../harness/tools.ts";

const page = "docs/control-plane-ops.md";
/** Words in capitals stand for what the reader puts in. */
const placeholder = /\b[A-Z][A-Z_]{2,}\b/g;
/** Words in capitals that are no placeholders: of openssl. */
const literal: ReadonlySet<string> = new Set(["URI", "DNS", "CA", "TRUE", "CN"]);

/** Commands of the page by section, one for each line of its code blocks. */
export async function readRunbooks(): Promise<ReadonlyMap<string, readonly string[]>> {
  const sections = new Map<string, string[]>();
  let section: string | undefined;
  let inside = false;
  for (const line of (await Deno.readTextFile(`${workspaceRoot}/${page}`)).split("\n")) {
    if (line.startsWith("```")) inside = !inside;
    else if (!inside && line.startsWith("## ")) sections.set(section = line.slice(3).trim(), []);
    else if (inside && section !== undefined && line.trim() !== "") sections.get(section)!.push(line.trim());
  }
  return sections;
}

export interface RunbookOptions {
  readonly section: string;
  readonly commands: readonly string[];
  /** The operator's `uc`. */
  readonly contextsFile: string;
  /** Where files that a command names are. */
  readonly dir: string;
  readonly signal: AbortSignal;
}

/** One section of the page being executed: every command is run as it stands there, and none is left out. */
export class Runbook {
  readonly #o: RunbookOptions;
  readonly #unrun: Set<string>;
  readonly #lines: string[] = [];

  constructor(options: RunbookOptions) {
    this.#o = options;
    this.#unrun = new Set(options.commands);
    if (options.commands.length === 0) throw notThere(options.section, "a section with commands");
  }

  get commands(): readonly string[] {
    return this.#o.commands;
  }

  /** What was run and printed, secrets masked. */
  get log(): string {
    return this.#lines.join("\n") + "\n";
  }

  note(text: string): void {
    this.#lines.push(`# ${new Date().toISOString()} ${text}`);
  }

  /** Runs a command of the section with its placeholders filled in, `more` behind it; answers standard output. */
  async run(command: string, values: Readonly<Record<string, string>> = {}, more: readonly string[] = []) {
    if (!this.#o.commands.includes(command)) throw notThere(this.#o.section, `the command ${command}`);
    this.#unrun.delete(command);
    const line = command.replaceAll(placeholder, (word) => {
      const value = values[word];
      if (value === undefined && !literal.has(word)) throw notThere(this.#o.section, `a value for ${word}`);
      return value ?? word;
    });
    this.#lines.push(`$ ${[line, ...more].join(" ")}`);
    return command.startsWith("uc ") ? await this.#uc([...line.split(/\s+/).slice(1), ...more]) : await this.#sh(line);
  }

  /** The same for a command that prints messages. */
  async json<T>(command: string, values: Readonly<Record<string, string>> = {}, more: readonly string[] = []) {
    return JSON.parse(await this.run(command, values, [...more, "-o", "json"])) as T;
  }

  /** Fails when the page has a command that the lane did not run. */
  done(): void {
    if (this.#unrun.size > 0) throw notThere(this.#o.section, `a lane that runs ${[...this.#unrun].join(" and ")}`);
  }

  async #uc(words: readonly string[]): Promise<string> {
    let out = "", err = "";
    const io: Io = {
      out: (text) => out += text,
      err: (text) => err += text,
      interactive: false,
      env: (name) => name === "UC_CONFIG" ? this.#o.contextsFile : undefined,
      ask: () => undefined,
      signal: this.#o.signal,
    };
    const process = { exitCode: 0, stdout: { write: io.out }, stderr: { write: io.err } };
    // File names are those of the runbook's own directory.
    const own = words.map((word) => /^[a-z.]+\.(key|token|csr|crt)$/.test(word) ? `${this.#o.dir}/${word}` : word);
    await run(await buildUc(own), own, { io, process } as never);
    this.#lines.push(...masked(err + out).trimEnd().split("\n"));
    if (Number(process.exitCode) !== 0) {
      throw fault("failed_precondition", "runbook_failed", `Cannot go on after uc ${words.join(" ")}: ${err.trim()}`);
    }
    return out;
  }

  async #sh(line: string): Promise<string> {
    const { code, stdout, stderr } = await runTool(["sh", "-c", `umask 077; ${line}`], { cwd: this.#o.dir });
    if (code === 0) return stdout;
    throw fault("failed_precondition", "runbook_failed", `Cannot go on after ${line}: ${stderr.trim()}`);
  }
}

/** A secret is shown once, to its owner; not to who reads the proof. */
function masked(text: string): string {
  return text.replaceAll(/("secret"\s*:\s*")[^"]+/g, "$1<shown once>");
}

function notThere(section: string, wanted: string) {
  return fault("failed_precondition", "runbook_other", `Cannot execute "${section}" of ${page}: wanted ${wanted}`);
}
