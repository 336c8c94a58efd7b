import { parseArgs } from "node:util";
import { runSeeds } from "@ultracloud/testing";
import type { Bugs } from "./test_fleet.ts";
import { chaos, storm } from "./test_scenarios.ts";

const help = `deno task fleet:sim [--nodes N] [--instances N] [--seeds N] [--seed N] [--bug NAME]

Places a large fleet and drains a tenth of it at once; then runs small fleets under faults, one for each seed.
  --nodes N       nodes of the large fleet (1000)
  --instances N   instances of it (10000)
  --seeds N       small fleets (200)
  --seed N        this small one only: repeats a failure
  --bug NAME      with a planted bug, which is to be found: ${"lostEarly, drainAtOnce, blindToRoom, blindToHealth"}`;
const bugNames = ["lostEarly", "drainAtOnce", "blindToRoom", "blindToHealth"] as const satisfies (keyof Bugs)[];

/** Runs what is asked for; answers the exit code. */
function main(args: string[]): number {
  const text = { type: "string" } as const;
  const { values } = parseArgs({
    args: args.filter((arg) => arg !== "--"),
    options: {
      nodes: text,
      instances: text,
      seeds: text,
      seed: text,
      bug: text,
      help: { type: "boolean", default: false },
    },
  });
  const bug = bugNames.find((name) => name === values.bug);
  const numbers = [values.nodes, values.instances, values.seeds, values.seed].map((n) => Number(n ?? 1));
  if (values.help || values.bug !== undefined && !bug || numbers.some((n) => !Number.isSafeInteger(n) || n < 0)) {
    console.log(help);
    return values.help ? 0 : 2;
  }
  const bugs: Bugs = bug ? { [bug]: true } : {};
  if (values.seed === undefined && !bug) large(Number(values.nodes ?? 1000), Number(values.instances ?? 10_000));
  const from = Number(values.seed ?? 0), count = values.seed === undefined ? Number(values.seeds ?? 200) : 1;
  const start = performance.now();
  const summary = runSeeds({ from, count, twice: false }, (seed) => chaos(seed, bugs));
  const seconds = (performance.now() - start) / 1000;
  for (const kind of Object.keys(summary.faults).sort()) console.log(`  ${kind}: ${summary.faults[kind]}`);
  console.log(`${summary.seeds} fleets, ${summary.events} decisions in ${seconds.toFixed(1)} s`);
  if (!summary.failure) {
    if (bug) console.log(`The planted bug ${bug} was not found`);
    else console.log("0 violations");
    return bug ? 1 : 0;
  }
  const { seed, error } = summary.failure;
  console.log(`Seed ${seed} failed: ${error.message}`);
  console.log(`Repeat with: deno task fleet:sim --seed ${seed}${bug ? ` --bug ${bug}` : ""}`);
  return bug ? 0 : 1;
}

function large(nodes: number, instances: number): void {
  // Where every node has one of a service, a drained one has nowhere to go.
  const replicas = Math.min(20, Math.max(1, Math.floor(nodes / 50)));
  const figures = storm({ seed: 1, nodes, services: Math.ceil(instances / replicas), replicas });
  const seconds = (ms: number) => (ms / 1000).toFixed(1);
  console.log(`${figures.instances} instances placed on ${nodes} nodes in ${seconds(figures.placeMs)} s`);
  console.log(
    `${figures.drained} nodes drained at once: ${figures.moved} instances moved in ${
      seconds(figures.stormMs)
    } s of the fleet's time (${seconds(figures.wallMs)} s here); ${figures.leastServing}`,
  );
}

if (import.meta.main) Deno.exit(main(Deno.args));
