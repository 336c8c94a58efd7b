import { fault } from "@ultracloud/base";
import type { Lane } from "./harness/lane.ts";
import { suites } from "./harness/suites.ts";
import { table } from "./harness/terminal.ts";
import { lanes } from "./lanes/mod.ts";

/** Lines of a log that are shown at once. */
export const logLines = 200;

/** How each command of `deno task cluster` is written, and what it does. */
export const commandHelp: readonly (readonly [usage: string, summary: string])[] = [
  ["up [PROFILE]", "start the cluster of a profile and leave it up (ha-control-plane)"],
  ["status", "what runs, and whether it is ready"],
  ["logs NODE [COMPONENT]", `the last ${logLines} lines of each log; \`console\` is the node's own (qemu)`],
  ["exec NODE -- COMMAND", "run a command on a node"],
  ["ssh NODE", "a shell on a node"],
  ["kill NODE [COMPONENT]", "take a node's power away, or kill one component"],
  ["start NODE", "power a node on and start what belongs there"],
  ["pause NODE, resume NODE", "stop a node in time"],
  ["partition NODE ..., cut FROM TO, heal", "cut nodes off, or one direction; all ways back"],
  ["fill-disk NODE, free-disk NODE", "a node with its own disk runs out of it"],
  ["step-clock NODE SECONDS", "a node's clock jumps ahead, or back (qemu)"],
  ["stop", "end everything, keep the data"],
  ["clean", "remove everything"],
  ["list", "the lanes"],
  ["components [PROFILE]", "what a cluster file has of its profile, and what is missing (ha-control-plane)"],
  ["work-root-budget VERB", "status, enforce, cleanup-advice, or prune-proof-logs N [--apply]"],
  ["serve-vm-webapp [--port N]", "a tenant's web application on this machine (8080), until Ctrl-C"],
  ["LANE --help", "what a lane proves, and its options"],
  ["publishable-suite", "the lanes of a release; supported-surface-final-proof adds the quickstart"],
  ["[fresh-]LANE", "run a lane: on a new cluster, or on the one that is up"],
];

/** Options of the commands that are no lanes; those of a lane stand in it. */
const optionsOf: Readonly<Record<string, readonly string[]>> = {
  "up": ["substrate"],
  "serve-vm-webapp": ["port", "substrate"],
  "work-root-budget": ["apply"],
  ...Object.fromEntries(suites.map(({ name }) => [name, ["substrate"]])),
};

/** Refuses an option that the command does not know: a typing error would else run something else. */
export function checkOptions(command: string, options: Readonly<Record<string, string>>, known = optionsOf[command]) {
  const unknown = Object.keys(options).find((option) => !(known ?? []).includes(option));
  if (unknown === undefined) return;
  const wanted = known === undefined ? "no option" : `one of ${known.map((option) => `--${option}`).join(", ")}`;
  throw fault("invalid_argument", "usage", `Cannot use --${unknown} with ${command}: wanted ${wanted}`);
}

/** What a lane proves and takes. */
export function laneHelp(lane: Lane): string {
  const options: readonly (readonly [string, string])[] = [
    ["--substrate netns|qemu", "what the nodes are (netns)"],
    ["--keep", "leave the cluster up afterwards"],
    ...Object.entries(lane.options ?? {}).map(([name, what]) => [`--${name} VALUE`, what] as const),
  ];
  return [
    `deno task cluster [fresh-]${lane.name} [--NAME VALUE]`,
    "",
    lane.summary,
    "",
    table(options.map(([left, right]) => [`  ${left}`, right])),
  ].join("\n");
}

/** Every first word that `deno task cluster` takes, lanes without their `fresh-`. */
export const clusterCommands: readonly string[] = [
  ...commandHelp.flatMap(([usage]) => usage.split(", ").map((one) => one.split(" ")[0]!)),
  ...[...lanes, ...suites].map(({ name }) => name),
  "help",
];
