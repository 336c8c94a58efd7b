import type { Command } from "./_command.ts";
import { fromInitialFolder } from "./_place.ts";
import { runDeno } from "./_process.ts";

/** Decides whether logs of a register are linearizable. */
export const lincheckCommand: Command = {
  name: "lincheck",
  help: `deno task lincheck <file> [file ...]

Decides whether a Jepsen log of one register (initially nil) is linearizable. One event a line:
  INFO  jepsen.util - <process> <:invoke|:ok|:fail|:info> <:read|:write|:cas> <value>
with nil, an integer, [old new] or :timed-out as value. Lines of any other form are ignored.
Exit code 0: linearizable, 1: not, 2: unreadable.`,
  async run(args, root) {
    const files = args.filter((arg) => arg !== "--").map((file) => fromInitialFolder(file, root));
    return (await runDeno({ args: ["run", "-q", "-R", "lib/testing/lincheck_main.ts", ...files], cwd: root })).code;
  },
};
