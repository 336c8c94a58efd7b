import { type Command, parseFlags } from "./_command.ts";
import { checkGolden } from "./_golden.ts";
import { formatRoomGraph, readRoomGraph } from "./_room_graph.ts";
import { green, red } from "./_term.ts";
import { loadWorkspace } from "./_workspace.ts";

const goldenFile = "docs/reference/rooms.txt";

/** Holds the module graph against the direction rules and the golden list of edges. */
export const roomsCommand: Command = {
  name: "rooms",
  help: `deno task rooms [--update]

Reads every import of the workspace and holds it against the direction rules of ARCHITECTURE.md. Tests, benchmarks
and lib/testing are exempt. The edges that ship are compared with ${goldenFile}.

  --update   rewrite ${goldenFile}; violations still fail`,
  async run(args, root) {
    const { values } = parseFlags({ args: [...args], options: { update: { type: "boolean", default: false } } });
    const graph = await readRoomGraph(await loadWorkspace(root));
    for (const violation of graph.violations) {
      console.log(`${red("violation")} ${violation.file}:${violation.line}: ${violation.sentence}`);
    }
    const stale = await checkGolden(root, goldenFile, formatRoomGraph(graph), {
      update: values.update === true,
      updateCommand: "deno task rooms --update",
    });
    if (stale) console.log(`${red("stale")} ${stale}`);
    if (graph.violations.length > 0 || stale) return 1;
    console.log(`${green("ok")} ${graph.filesCount} files in ${graph.edges.size} rooms keep the direction rules`);
    return 0;
  },
};
