import { suites } from "./harness/suites.ts";
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
  ["publishable-suite", "the lanes of a release; supported-surface-final-proof adds the quickstart"],
  ["[fresh-]LANE", "run a lane: on a new cluster, or on the one that is up"],
];

/** Every first word that `deno task cluster` takes, lanes without their `fresh-`. */
export const clusterCommands: readonly string[] = [
  ...commandHelp.flatMap(([usage]) => usage.split(", ").map((one) => one.split(" ")[0]!)),
  ...[...lanes, ...suites].map(({ name }) => name),
  "help",
];
