import { workspaceRoot } from "@ultracloud/testing";
import { commitOf, environment, makeArtifactsDir, refreshLatest } from "./artifacts.ts";
import type { LaneResult } from "./run_lane.ts";
import { bold, clockText, dim, green, red, table, yellow } from "./terminal.ts";

/** Lanes in an order, run into one dated root. */
export interface Suite {
  readonly name: string;
  readonly summary: string;
  /** Commands of the workspace that come first, by name. */
  readonly commands: Readonly<Record<string, readonly string[]>>;
  /** As they are asked for. */
  readonly lanes: readonly string[];
  /** Proofs of the same release that are not run here, with the reason. */
  readonly notRun: readonly string[];
}

const publishable = [
  "fresh-smoke",
  "fresh-demo-vm-webapp",
  "fresh-chainfire-live-membership-proof",
  "fresh-durability-proof",
];
const notBuilt = [
  "fresh-matrix: the services it proves are not built yet",
  "provider-vm-reality-proof: the services it proves are not built yet",
  "baremetal-iso, hardware-smoke-proof: proofs of their own, with machines of their own",
];

export const suites: readonly Suite[] = [
  {
    name: "publishable-suite",
    summary: "the lanes a release needs, in order, into one root",
    commands: {},
    lanes: publishable,
    notRun: notBuilt,
  },
  {
    name: "supported-surface-final-proof",
    summary:
      "rooms, permissions, supported surface and quickstart of this checkout, then the lanes of publishable-suite and the runbooks of the control plane",
    commands: {
      rooms: [Deno.execPath(), "task", "rooms"],
      permissions: [Deno.execPath(), "task", "permissions"],
      surface: [Deno.execPath(), "task", "supported-surface-guard"],
      quickstart: [Deno.execPath(), "task", "quickstart"],
    },
    lanes: [...publishable, "fresh-core-control-plane-ops-proof", "fresh-rollout-soak"],
    notRun: [...notBuilt, "single-node-trial-vm: building it needs nixpkgs"],
  },
  {
    name: "portable-control-plane-regressions",
    summary: "deployer to nix-agent, fleet-scheduler to node-agent: no KVM, no network, no Nix but the project's own",
    commands: {
      "nix-check": [Deno.execPath(), "task", "nix:check"],
      "fleet-sim": [Deno.execPath(), "task", "fleet:sim"],
    },
    lanes: [
      "fresh-deployer-bootstrap-e2e",
      "fresh-host-lifecycle-e2e",
      "fresh-deployer-vm-smoke",
      "fresh-deployer-vm-rollback",
      "fresh-fleet-scheduler-e2e",
    ],
    notRun: ["canonical profile eval guard: it needs nixpkgs; nix-check evaluates the same profiles with a stub of it"],
  },
];

interface Part {
  readonly name: string;
  readonly success: boolean;
  readonly durationMs: number;
  readonly log?: string;
  readonly notRun: readonly string[];
}

const interrupted = 130;

/**
 * Runs every part whatever fails before it; answers the exit code. `runLane` gets the root its artifacts belong to. An
 * interrupt ends the part that runs, and those after it do not begin.
 */
export async function runSuite(
  suite: Suite,
  workRoot: string,
  substrate: string,
  runLane: (lane: string, root: string) => Promise<number>,
): Promise<number> {
  const started = new Date();
  const begin = performance.now();
  const root = await makeArtifactsDir(workRoot, suite.name, started);
  const before = await environment();
  await Deno.writeTextFile(`${root}/environment.json`, JSON.stringify(before, null, 2) + "\n");
  const parts: Part[] = [];
  let ended = false;
  for (const [name, command] of Object.entries(suite.commands)) {
    if (ended) break;
    const { interrupted: ends, ...part } = await runCommand(name, command, root);
    ended = ends;
    parts.push(part);
  }
  for (const lane of suite.lanes) {
    if (ended) break;
    console.log(bold(`\n${lane}`));
    const at = performance.now();
    const code = await runLane(lane, root);
    ended = code === interrupted;
    const result = await readResult(`${root}/${lane}/latest/result.json`);
    parts.push({
      name: lane,
      success: code === 0 && result?.success === true,
      durationMs: Math.round(performance.now() - at),
      notRun: result?.notRun ?? [],
    });
  }
  const begun = new Set(parts.map(({ name }) => name));
  const left = [...Object.keys(suite.commands), ...suite.lanes].filter((name) => !begun.has(name));
  const success = !ended && parts.every((part) => part.success);
  const result = {
    success,
    suite: suite.name,
    substrate,
    commit: await commitOf(workspaceRoot),
    started: started.toISOString(),
    duration: Math.round(performance.now() - begin) / 1000,
    parts,
    notRun: [
      ...suite.notRun,
      ...left.map((name) => `${name}: interrupted before it`),
      ...parts.flatMap((part) => part.notRun.map((text) => `${part.name}: ${text}`)),
    ],
    environment: before,
  };
  await Deno.writeTextFile(`${root}/result.json`, JSON.stringify(result, null, 2) + "\n");
  await refreshLatest(root);
  const rows = parts.map((part) => [part.success ? "ok" : "FAILED", clockText(part.durationMs), part.name]);
  console.log(
    ["", bold(suite.name), table(rows), ...result.notRun.map((text) => `${yellow("not run")} ${text}`)].join("\n"),
  );
  console.log(
    `${success ? green("green") : red("RED")} ${parts.length} parts in ${clockText(performance.now() - begin)}`,
  );
  console.log(dim(`${root}/result.json`));
  return success ? 0 : ended ? interrupted : 1;
}

async function runCommand(
  name: string,
  command: readonly string[],
  root: string,
): Promise<Part & { readonly interrupted: boolean }> {
  console.log(bold(`\n${name}`));
  const at = performance.now();
  const [program, ...args] = command as [string, ...string[]];
  const log = `${root}/${name}.log`;
  const options = { args, cwd: workspaceRoot, stdin: "null", stdout: "piped", stderr: "piped" } as const;
  const child = new Deno.Command(program, options).spawn();
  let asked = false;
  const onSignal = () => {
    // A Ctrl-C has reached it already: its terminal is ours. Twice does no harm.
    child.kill("SIGTERM");
    asked = true;
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, onSignal);
  const { code, stdout, stderr } = await child.output();
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.removeSignalListener(signal, onSignal);
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  await Deno.writeTextFile(log, text);
  console.log(text.trimEnd().split("\n").slice(-3).join("\n"));
  const durationMs = Math.round(performance.now() - at);
  return { name, success: code === 0, durationMs, log, notRun: [], interrupted: asked };
}

async function readResult(path: string): Promise<LaneResult | undefined> {
  try {
    return JSON.parse(await Deno.readTextFile(path)) as LaneResult;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
