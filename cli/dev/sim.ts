import { fault } from "@ultracloud/base";
import type { Command } from "./_command.ts";
import { runDeno } from "./_process.ts";
import { readTextIfPresent } from "./_workspace.ts";

/** Where the simulation's entry may stand, first found first. */
const entries = ["lib/testing/sim_main.ts", "lib/raft/sim_main.ts", "lib/raft/sim/main.ts"];

/** Path of the simulation's entry; undefined when there is none. */
export async function simEntry(root: string): Promise<string | undefined> {
  for (const entry of entries) if (await readTextIfPresent(`${root}/${entry}`) !== undefined) return entry;
  return undefined;
}

/** Entries of state machines that bring their own simulation, by the name `--machine` takes. */
const machineEntries: Readonly<Record<string, string>> = {
  chainfire: "services/chainfire/sim/chainfire_sim_main.ts",
};

/** The entry that `--machine NAME` asks for, and the arguments without it. */
function machineEntry(args: readonly string[]): { entry: string | undefined; rest: string[] } {
  const at = args.indexOf("--machine");
  if (at < 0) return { entry: undefined, rest: [...args] };
  const name = args[at + 1] ?? "";
  if (!Object.hasOwn(machineEntries, name)) {
    const names = Object.keys(machineEntries).join(", ");
    throw fault("invalid_argument", "usage", `Cannot simulate machine ${name || "(none)"}: wanted one of ${names}`);
  }
  return { entry: machineEntries[name], rest: args.toSpliced(at, 2) };
}

/** Runs the simulated cluster by seeds. */
export const simCommand: Command = {
  name: "sim",
  help: `deno task test:sim [arguments of the simulation]

Runs the simulated cluster; a failing run prints the seed that repeats it. \`--machine chainfire\` takes the real log and
chainfire's state in SQLite, other arguments are handed on as they are:
see the entry's own --help with \`deno task test:sim -- --help\`.`,
  async run(args, root) {
    const asked = machineEntry(args);
    const entry = asked.entry ?? await simEntry(root);
    if (entry === undefined) {
      throw fault("not_found", "sim_missing", `Cannot simulate: wanted one of ${entries.join(", ")}`);
    }
    const own = asked.rest.filter((arg, i) => !(arg === "--" && asked.rest.indexOf("--") === i));
    return (await runDeno({ args: ["run", "-q", "-A", entry, ...own], cwd: root })).code;
  },
};
