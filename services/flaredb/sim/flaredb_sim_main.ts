import { parseArgs } from "node:util";
import { runSeeds } from "@ultracloud/testing";
import { plantedBugs } from "./test_bugs.ts";
import { simulateFlaredb } from "./test_world.ts";

const help = `deno task flaredb:sim [--seeds N] [--from N] [--seed N] [--twice] [--bug NAME]

Runs several groups of databases on a simulated cluster under faults.
  --seeds N   how many seeds (100)
  --from N    the first one (0)
  --seed N    this one only: repeats a failure
  --twice     every seed twice, which must go the same way
  --bug NAME  with a planted bug, which is to be found; --bug list names them`;

/** Runs seeds as asked; answers the exit code. */
function main(args: string[]): number {
  const text = { type: "string" } as const, flag = { type: "boolean", default: false } as const;
  const { values } = parseArgs({
    args,
    options: { seeds: text, from: text, seed: text, bug: text, twice: flag, help: flag },
  });
  const bug = values.bug === undefined ? {} : plantedBugs[values.bug];
  if (values.help || bug === undefined) {
    console.log(values.help ? help : `Planted bugs:\n  ${Object.keys(plantedBugs).join("\n  ")}`);
    return values.help || values.bug === "list" ? 0 : 2;
  }
  const from = Number(values.seed ?? values.from ?? 0),
    count = values.seed === undefined ? Number(values.seeds ?? 100) : 1;
  if (!Number.isSafeInteger(from) || !Number.isSafeInteger(count) || count < 1) {
    console.log(help);
    return 2;
  }
  const start = performance.now();
  const summary = runSeeds({ from, count, twice: values.twice }, (seed) => simulateFlaredb(seed, bug));
  const seconds = (performance.now() - start) / 1000;
  for (const kind of Object.keys(summary.faults).sort()) console.log(`  ${kind}: ${summary.faults[kind]}`);
  console.log(
    `${summary.seeds} seeds, ${summary.events} events in ${seconds.toFixed(1)} s: ${
      (summary.seeds / seconds).toFixed(1)
    } seeds/s`,
  );
  if (!summary.failure) return 0;
  const { seed, error } = summary.failure;
  console.log(`Seed ${seed} failed: ${error.message}`);
  if (error.cause instanceof Error) console.log(error.cause.stack ?? "");
  console.log(`Repeat with: deno task flaredb:sim --seed ${seed}${values.bug ? ` --bug "${values.bug}"` : ""}`);
  return 1;
}

if (import.meta.main) Deno.exit(main(Deno.args));
