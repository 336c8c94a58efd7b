import { plantedBugs } from "./sim_raft_bugs.ts";
import type { MachineKit } from "./sim_raft_machine.ts";
import { simulateRaft, simulateStack } from "./sim_raft.ts";
import { runSeeds, runSeedsAsync, type SeedSummary } from "./seeds.ts";

/** A bug that more seeds do not show is one that the simulation does not look for. */
export const BUG_SEEDS_MAX = 200;

const HELP = `deno task test:sim -- [--seeds N] [--seed N] [--from N] [--bug NAME]

Runs a simulated Raft cluster under network, process and disk faults, every seed twice.
  --seeds N   how many seeds (200)
  --from N    the first one (0)
  --seed N    this one only: repeats a failure
  --stack     with the real write-ahead log on the simulated disks
  --machine chainfire  the same with chainfire's state in SQLite as the state machine
  --bug NAME  with a planted bug, which is to be found; --bug list names them
  --bug all   plants each bug in turn: every one must be found within ${BUG_SEEDS_MAX} seeds`;

/** Runs seeds as asked, on the real log with the given machine if there is one; answers the exit code. */
export async function simMain(
  args: readonly string[],
  print: (line: string) => void,
  machine?: { readonly name: string; readonly kit: () => MachineKit },
): Promise<number> {
  const value = (name: string) => {
    const at = args.findIndex((arg) => arg === name || arg.startsWith(`${name}=`));
    if (at < 0) return undefined;
    const [, inline] = args[at]!.split("=");
    return inline ?? args[at + 1];
  };
  if (args.includes("--help")) {
    print(HELP);
    return 0;
  }
  const name = value("--bug");
  if (name === "all") return plantAll(print);
  const bug = name === undefined ? {} : plantedBugs[name];
  if (!bug) {
    print(`Planted bugs:\n  ${Object.keys(plantedBugs).join("\n  ")}`);
    return name === "list" ? 0 : 2;
  }
  const only = value("--seed");
  const from = Number(only ?? value("--from") ?? 0), count = only ? 1 : Number(value("--seeds") ?? 200);
  if (!Number.isSafeInteger(from) || !Number.isSafeInteger(count) || count < 1) {
    print(HELP);
    return 2;
  }
  const start = performance.now();
  const range = { from, count, twice: true };
  const summary: SeedSummary = machine || args.includes("--stack")
    ? await runSeedsAsync(range, (seed) => simulateStack(seed, machine?.kit()))
    : runSeeds(range, (seed) => simulateRaft(seed, bug));
  const seconds = (performance.now() - start) / 1000;
  for (const kind of Object.keys(summary.faults).sort()) print(`  ${kind}: ${summary.faults[kind]}`);
  print(
    `${summary.seeds} seeds, ${summary.events} events, each run twice, in ${seconds.toFixed(1)} s: ` +
      `${(summary.seeds / seconds).toFixed(1)} seeds/s`,
  );
  if (!summary.failure) return 0;
  const { seed, error } = summary.failure;
  print(`Seed ${seed} failed: ${error.message}`);
  if (error.cause instanceof Error) print(error.cause.stack ?? "");
  const flags = machine ? ` --machine ${machine.name}` : args.includes("--stack") ? " --stack" : "";
  print(`Repeat with: deno task test:sim -- --seed ${seed}${flags}${name ? ` --bug "${name}"` : ""}`);
  return 1;
}

/** Plants each bug in turn; answers 1 when one of them stays hidden. */
function plantAll(print: (line: string) => void): number {
  let hidden = 0;
  for (const [name, bug] of Object.entries(plantedBugs)) {
    const { failure, seeds } = runSeeds(
      { from: 0, count: BUG_SEEDS_MAX, twice: false },
      (seed) => simulateRaft(seed, bug),
    );
    if (!failure) hidden++;
    print(
      failure ? `found by seed ${seeds + 1}: ${name}: ${failure.error.message}` : `HIDDEN for ${seeds} seeds: ${name}`,
    );
  }
  print(`${Object.keys(plantedBugs).length} bugs planted, ${hidden} not found within ${BUG_SEEDS_MAX} seeds`);
  return hidden === 0 ? 0 : 1;
}

if (import.meta.main) Deno.exit(await simMain(Deno.args, (line) => console.log(line)));
