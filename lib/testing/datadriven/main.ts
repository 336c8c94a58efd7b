import { confchangeHandlers } from "./confchange.ts";
import { DatadrivenSyntaxError } from "./parse.ts";
import { quorumHandlers } from "./quorum.ts";
import { runDatadriven } from "./run.ts";

const HELP = `deno task raft:datadriven <dir> [dir or file ...]

Runs every scenario text below the given places (the grammar of cockroachdb/datadriven) against lib/raft:
  committed, vote                       majorities, simple and joint
  simple, enter-joint, leave-joint      changes of the configuration
Prints what differs (- expected, + printed). Exit code 0: all passed, 1: some failed, 2: unreadable, or nothing to run.`;

/** Editors' leftovers and hidden files are no scenarios. */
const LEFTOVER = /^\.|~$|^#.*#$/;

export interface DirectorySummary {
  readonly files: number;
  readonly passed: number;
  readonly failed: number;
  /** Places that could not be read as scenario texts. */
  readonly unreadable: number;
}

/** Runs the scenario texts below `places`, recursively and in the order of their names. */
export function runDatadrivenFiles(places: readonly string[], print: (line: string) => void): DirectorySummary {
  const total = { files: 0, passed: 0, failed: 0, unreadable: 0 };
  const attempt = (place: string, run: () => void) => {
    try {
      run();
    } catch (error) {
      const known = error instanceof Deno.errors.NotFound || error instanceof Deno.errors.PermissionDenied ||
        error instanceof DatadrivenSyntaxError || error instanceof TypeError;
      if (!known) throw error;
      total.unreadable++;
      print(`unreadable ${place}: ${error.message}`);
    }
  };
  const visit = (place: string): void => {
    if (Deno.statSync(place).isDirectory) {
      const names = [...Deno.readDirSync(place)].map(({ name }) => name).filter((name) => !LEFTOVER.test(name));
      for (const name of names.sort()) attempt(`${place}/${name}`, () => visit(`${place}/${name}`));
      return;
    }
    const text = new TextDecoder("utf-8", { fatal: true }).decode(Deno.readFileSync(place));
    const { passed, failed } = runDatadriven(text, () => ({ ...quorumHandlers(), ...confchangeHandlers() }));
    total.files++;
    total.passed += passed;
    total.failed += failed.length;
    print(`${failed.length === 0 ? "ok" : "FAILED"} ${place}: ${passed} passed, ${failed.length} failed`);
    for (const { line, report } of failed) print(`  ${place}:${line}\n${report}`);
  };
  for (const place of places) attempt(place, () => visit(place.replace(/(?<=.)\/+$/, "")));
  return total;
}

/** Runs what the arguments name; answers the exit code. */
export function datadrivenMain(args: readonly string[], print: (line: string) => void): number {
  if (args.length === 0 || args.some((arg) => arg.startsWith("-"))) {
    print(HELP);
    return args.includes("--help") || args.includes("-h") ? 0 : 2;
  }
  const { files, passed, failed, unreadable } = runDatadrivenFiles(args, print);
  print(
    `${passed} cases passed, ${failed} failed, ${files} files${unreadable > 0 ? `, ${unreadable} unreadable` : ""}`,
  );
  if (unreadable > 0) return 2;
  if (passed + failed === 0) {
    print("No case was found: wanted at least one");
    return 2;
  }
  return failed > 0 ? 1 : 0;
}

if (import.meta.main) Deno.exit(datadrivenMain(Deno.args, (line) => console.log(line)));
