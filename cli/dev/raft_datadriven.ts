import type { Command } from "./_command.ts";
import { fromInitialFolder } from "./_place.ts";
import { runDeno } from "./_process.ts";

/** Holds lib/raft against scenario texts. */
export const raftDatadrivenCommand: Command = {
  name: "raft-datadriven",
  help: `deno task raft:datadriven <dir> [dir or file ...]

Runs every scenario text below the given places (the grammar of cockroachdb/datadriven) against lib/raft.
Directives: committed, vote, simple, enter-joint, leave-joint; lib/raft/testdata has examples.
Exit code 0: all passed, 1: some failed, 2: unreadable, or nothing to run.`,
  async run(args, root) {
    const places = args.filter((arg) => arg !== "--").map((place) => fromInitialFolder(place, root));
    return (await runDeno({ args: ["run", "-q", "-R", "lib/testing/datadriven/main.ts", ...places], cwd: root })).code;
  },
};
