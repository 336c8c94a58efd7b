import { Fault } from "@ultracloud/base";
import type { Command } from "./_command.ts";
import { endChildrenOnSignal } from "./_process.ts";
import { bold, formatTable, red } from "./_term.ts";

/** Only what a call names is loaded, so that one broken tool does not take the others with it. */
const commands: readonly (readonly [name: string, summary: string, load: () => Promise<Command>])[] = [
  ["ok", "run all that CI runs (the same as test)", async () => (await import("./test.ts")).okCommand],
  ["test", "run every check and test", async () => (await import("./test.ts")).testCommand],
  ["sim", "run the simulated cluster by seeds", async () => (await import("./sim.ts")).simCommand],
  ["slt", "run sqllogictest files against flaredb", async () => (await import("./slt.ts")).sltCommand],
  [
    "raft-datadriven",
    "hold lib/raft against scenario texts",
    async () => (await import("./raft_datadriven.ts")).raftDatadrivenCommand,
  ],
  ["lincheck", "decide logs of a register", async () => (await import("./lincheck.ts")).lincheckCommand],
  ["bench", "measure the hot paths beside their peers", async () => (await import("./bench.ts")).benchCommand],
  ["gen", "lint the contracts and generate code from them", async () => (await import("./gen.ts")).genCommand],
  ["rooms", "check who may import whom", async () => (await import("./rooms.ts")).roomsCommand],
  [
    "permissions",
    "check what each component may do",
    async () => (await import("./permissions.ts")).permissionsCommand,
  ],
  [
    "surface-guard",
    "look for what a release must not ship",
    async () => (await import("./surface_guard.ts")).surfaceGuardCommand,
  ],
  [
    "quickstart-image",
    "run the quickstart and show it in the README",
    async () => (await import("./quickstart_image.ts")).quickstartImageCommand,
  ],
  ["nix-check", "evaluate the flake without nixpkgs", async () => (await import("./nix_check.ts")).nixCheckCommand],
  ["build", "compile every component and uc", async () => (await import("./build.ts")).buildCommand],
  ["run", "run one component and its callees until Ctrl-C", async () => (await import("./run.ts")).runCommand],
];

function printOverview(): void {
  console.log("Tools of the repository; each is also a task of deno.json.\n");
  console.log(formatTable(commands.map(([name, summary]) => [`  ${name}`, summary])));
  console.log(`\nMore on one: ${bold("<command> --help")}`);
}

/** Runs one tool; answers its exit code. */
export async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    printOverview();
    return name === undefined ? 2 : 0;
  }
  const found = commands.find(([candidate]) => candidate === name);
  if (found === undefined) {
    const names = commands.map(([candidate]) => candidate).join(", ");
    console.error(`${red("error")}: Cannot run ${name}: wanted one of ${names}`);
    return 2;
  }
  const command = await found[2]();
  const end = rest.indexOf("--");
  const own = end < 0 ? rest : rest.slice(0, end);
  if (own.includes("--help") || own.includes("-h")) {
    console.log(command.help);
    return 0;
  }
  if (!command.handlesSignals) endChildrenOnSignal();
  try {
    return await command.run(rest, new URL("../..", import.meta.url).pathname.replace(/\/$/, ""));
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    console.error(`${red("error")}: ${error.message}`);
    if (error.code === "usage") console.error(`  see: ${name} --help`);
    return error.code === "usage" ? 2 : 1;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
