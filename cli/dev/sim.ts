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

/** Runs the simulated cluster by seeds. */
export const simCommand: Command = {
  name: "sim",
  help: `deno task test:sim [arguments of the simulation]

Runs the simulated cluster; a failing run prints the seed that repeats it. Arguments are handed on as they are:
see the entry's own --help with \`deno task test:sim -- --help\`.`,
  async run(args, root) {
    const entry = await simEntry(root);
    if (entry === undefined) {
      throw fault("not_found", "sim_missing", `Cannot simulate: wanted one of ${entries.join(", ")}`);
    }
    const own = args.filter((arg, i) => !(arg === "--" && args.indexOf("--") === i));
    return (await runDeno({ args: ["run", "-q", "-A", entry, ...own], cwd: root })).code;
  },
};
