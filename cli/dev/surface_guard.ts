import { type Command, parseFlags } from "./_command.ts";
import { bold, green, red } from "./_term.ts";
import { judgeSurface, knownCommands, readTree } from "./surface/guard.ts";

/** Holds what is shipped and what is written about it against each other. */
export const surfaceGuardCommand: Command = {
  name: "surface-guard",
  help: `deno task supported-surface-guard

Looks for what a release must not ship: RPCs without an answer of their own, unfinished wording in pages and in what
ships, archived helpers that came back, commands in pages that nobody can run, and components that the component
matrix does not have, or has in vain. Each finding has its place and a reason. What is right as it stands is in
cli/dev/surface/allowed.ts, with the reason.`,
  async run(args, root) {
    parseFlags({ args: [...args], options: {} });
    const tree = await readTree(root);
    const findings = judgeSurface(tree, await knownCommands(root));
    for (const { file, line, text, reason } of findings) {
      console.log(`${red("surface")} ${file}${line > 0 ? `:${line}` : ""}: ${bold(text)}: ${reason}`);
    }
    if (findings.length > 0) console.log(`${findings.length} findings`);
    else console.log(`${green("ok")} ${tree.size} files hold nothing that must not ship`);
    return findings.length > 0 ? 1 : 0;
  },
};
