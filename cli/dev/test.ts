import { fault } from "@ultracloud/base";
import { type Command, parseFlags } from "./_command.ts";
import { nixTests } from "./nix_check.ts";
import { formatTotals, runStages, type Stage } from "./_stages.ts";
import { listSources, loadWorkspace, readTextIfPresent, workRoot } from "./_workspace.ts";

const tool = ["run", "-q", "--frozen", "-A", "cli/dev/main.ts"];
const quickstartEntry = "cli/main.ts";
const secretScan = "test-cluster/process/secret_scan_main.ts";

/** Tests that start processes run a part of a cloud each: they wait more than they compute, for its timers and guests. */
const startsProcesses = /\b(startComponent|prepareStack|spawnComponent|Deno\.Command)\b/;

/** Test files of the workspace: those that stay inside their process, and those that start others. */
export async function findTests(root: string): Promise<{ inside: string[]; processes: string[] }> {
  const inside: string[] = [];
  const processes: string[] = [];
  for (const member of (await loadWorkspace(root)).members) {
    for (const file of await listSources(root, member.dir)) {
      if (!/_test\.ts$/.test(file)) continue;
      const alone = /_process_test\.ts$/.test(file) || startsProcesses.test(await Deno.readTextFile(`${root}/${file}`));
      (alone ? processes : inside).push(file);
    }
  }
  return { inside, processes };
}

/** The quickstart says itself, in its result file, whether the VM was reached. */
async function verifyQuickstart(root: string): Promise<string | undefined> {
  const file = `${workRoot(root)}/quickstart/latest/result.json`;
  const text = await readTextIfPresent(file);
  if (text === undefined) return `it left no ${file}`;
  const result = JSON.parse(text) as { success?: unknown };
  return result.success === true ? undefined : `${file} does not say success`;
}

const minute = 60_000;

/** All that CI runs, in the order in which a mistake is cheapest to learn of. */
export async function stagesOf(root: string): Promise<Stage[]> {
  const { inside, processes } = await findTests(root);
  const deno = ["test", "-q", "--frozen", "--no-check", "-A"];
  return [
    { name: "fmt", args: ["fmt", "--check"], timeoutMs: minute },
    // With a plugin Deno 2.9 dies in it now and then, whatever the sources are.
    { name: "lint", args: ["lint"], timeoutMs: minute, mayCrash: true },
    { name: "types", args: ["check", "--frozen"], timeoutMs: 4 * minute },
    { name: "gen", args: [...tool, "gen", "--check"], timeoutMs: 2 * minute },
    { name: "rooms", args: [...tool, "rooms"], timeoutMs: minute },
    { name: "permissions", args: [...tool, "permissions"], timeoutMs: minute },
    { name: "surface", args: [...tool, "surface-guard"], timeoutMs: minute },
    {
      name: "tests",
      args: [...deno, "--parallel", ...inside],
      env: { DENO_JOBS: "2" },
      timeoutMs: 10 * minute,
      countsTests: true,
    },
    {
      name: "process tests",
      args: [...deno, "--parallel", ...processes],
      env: { DENO_JOBS: "3" },
      timeoutMs: 40 * minute,
      countsTests: true,
      ...(processes.length === 0 ? { skip: "no test starts a process" } : {}),
    },
    { name: "nix", args: [...deno, "--parallel", ...nixTests], timeoutMs: 5 * minute, countsTests: true },
    { name: "simulation", args: [...tool, "sim"], timeoutMs: 3 * minute },
    { name: "build", args: [...tool, "build", "--proof"], timeoutMs: 4 * minute },
    {
      name: "quickstart",
      args: ["run", "-q", "--frozen", "-A", quickstartEntry, "quickstart"],
      timeoutMs: 4 * minute,
      verify: () => verifyQuickstart(root),
    },
    // Of what the stages before have written; the logs of components are looked at by each test that starts them.
    { name: "secrets", args: ["run", "-q", "--frozen", "-A", secretScan, `${workRoot(root)}/test`], timeoutMs: minute },
  ];
}

function listOf(text: string | undefined): string[] {
  return (text ?? "").split(",").map((part) => part.trim()).filter((part) => part !== "");
}

/** Marks what the caller left out; a skip is printed and counted like any other. */
export function selectStages(stages: readonly Stage[], only: readonly string[], skip: readonly string[]): Stage[] {
  return stages.map((stage) => {
    if (skip.includes(stage.name)) return { ...stage, skip: "left out by --skip" };
    if (only.length > 0 && !only.includes(stage.name)) return { ...stage, skip: "left out by --only" };
    return stage;
  });
}

const help = `deno task test [--only <stage,...>] [--skip <stage,...>]

Runs what CI runs: fmt, lint, types, gen, rooms, permissions, surface (nothing unfinished ships), tests, process tests,
simulation, build, quickstart and secrets (no log of the run holds one).
Every stage runs whatever fails before it; each counts as one test beside the tests it contains. Output of a stage
goes to work/test/<stage>.log. The last line is the count; the exit code is 1 when anything failed.

  --only   run these stages and count the others as skipped
  --skip   leave these stages out and count them as skipped`;

async function run(args: readonly string[], root: string): Promise<number> {
  const { values } = parseFlags({ args: [...args], options: { only: { type: "string" }, skip: { type: "string" } } });
  const stages = await stagesOf(root);
  const only = listOf(values.only);
  const skip = listOf(values.skip);
  const names = stages.map((stage) => stage.name);
  const unknown = [...only, ...skip].find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw fault("invalid_argument", "usage", `Cannot select the stage ${unknown}: wanted one of ${names.join(", ")}`);
  }
  const totals = await runStages(selectStages(stages, only, skip), { root, logDir: `${workRoot(root)}/test` });
  console.log(formatTotals(totals));
  return totals.failed === 0 ? 0 : 1;
}

/** What the README's test command runs. */
export const testCommand: Command = { name: "test", help, run };

/** The same under the name people type before they push. */
export const okCommand: Command = {
  name: "ok",
  help: help.replace("deno task test", "deno task ok"),
  run,
};
