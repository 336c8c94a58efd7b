import { Fault, fault, systemClock } from "@ultracloud/base";
import { environment } from "../../harness/artifacts.ts";
import { clusterHome } from "../../harness/home.ts";
import { bold, green, red, yellow } from "../../harness/terminal.ts";
import { discover } from "../redfish/mod.ts";
import { capture } from "./capture.ts";
import {
  expectedMarkers,
  failureMarkerLines,
  inputsJson,
  kernelParams,
  missingText,
  operatorHandoff,
} from "./documents.ts";
import { type Inputs, inputTexts, readInputs } from "./inputs.ts";
import { judgeInputs, type Missing, type Plan } from "./requirements.ts";
import { openBmc, runPlan } from "./run.ts";
import { RunDir } from "./run_dir.ts";
import { readNodeRecord } from "./sources.ts";

/** What the exit codes say; documented in docs/hardware-bringup.md. */
export const exitCodes = { ok: 0, failed: 1, usage: 2, blocked: 3 } as const;

const help = `deno task hardware-smoke preflight|run|capture [--NAME VALUE] [--keep-media]

  preflight   check every input, log in at the BMC, change nothing
  run         preflight, then insert the image or write the stick, boot it once, watch the markers, take it out
  capture     collect serial log, deployer's record and BMC's logs of a run that goes on or has ended

Each writes ./work/hardware-smoke/<run> and points latest at it ($ULTRACLOUD_WORK_ROOT moves ./work).
Exit code: 0 ready or passed, 1 failed, 2 usage, 3 blocked (missing-requirements.txt says by what).

Inputs, each also as ULTRACLOUD_SMOKE_NAME:
${Object.entries(inputTexts).map(([name, text]) => `  --${name.padEnd(21)} ${text}`).join("\n")}`;

export interface SmokeDeps {
  readonly env: (name: string) => string | undefined;
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
}

/** One call of hardware-smoke; answers its exit code. */
export async function hardwareSmoke(argv: readonly string[], deps: SmokeDeps): Promise<number> {
  const words = readInputs(argv, deps.env);
  const { workRoot } = clusterHome(deps.env);
  switch (words.command) {
    case undefined:
    case "help":
      deps.say(help);
      return words.command === undefined ? exitCodes.usage : exitCodes.ok;
    case "preflight":
    case "run":
      return await preflightAndRun(words.command, words.inputs, words.keepMedia, workRoot, deps);
    case "capture":
      return await captureRun(words.inputs, workRoot, deps);
  }
  throw fault("invalid_argument", "usage", `Cannot ${words.command}: wanted preflight, run or capture`);
}

async function preflightAndRun(
  mode: "preflight" | "run",
  inputs: Inputs,
  keepMedia: boolean,
  workRoot: string,
  deps: SmokeDeps,
): Promise<number> {
  const run = await RunDir.make(workRoot, new Date());
  await run.setStatus({
    status: "checking",
    mode,
    run: run.id,
    node: inputs["node"] ?? "",
    started: new Date().toISOString(),
  });
  const { plan, missing } = await judgeInputs(inputs);
  if (plan !== undefined) hideSecrets(run, plan);
  if (plan !== undefined) missing.push(...await judgeBmc(plan, run, deps.signal), ...await judgeRecord(plan));
  await writeDocuments(run, inputs, plan, missing);
  if (missing.length > 0 || plan === undefined) {
    await run.setStatus({ status: "blocked", missing: missing.length, finished: new Date().toISOString() });
    for (const { input, reason } of missing) deps.say(`${yellow("missing")} ${bold(input)}: ${run.masked(reason)}`);
    deps.say(`blocked by ${missing.length} inputs; see ${run.dir}`);
    return exitCodes.blocked;
  }
  await run.setStatus({ status: "ready", missing: 0, transport: plan.transport.kind });
  if (mode === "preflight") {
    await run.setStatus({ finished: new Date().toISOString() });
    deps.say(`${green("ready")}: ${run.dir}`);
    return exitCodes.ok;
  }
  return await install(plan, run, keepMedia, deps);
}

async function install(plan: Plan, run: RunDir, keepMedia: boolean, deps: SmokeDeps): Promise<number> {
  await run.setStatus({ status: "running" });
  const end = (changes: Record<string, string>) => run.setStatus({ ...changes, finished: new Date().toISOString() });
  try {
    const verdict = await runPlan(plan, run, { clock: systemClock, signal: deps.signal, say: deps.say, keepMedia });
    await captureInto(run, plan, deps);
    if (verdict.state === "passed") {
      await end({ status: "passed" });
      deps.say(`${green("passed")}: ${run.dir}`);
      return exitCodes.ok;
    }
    const [marker, reason] = verdict.state === "failed" ? [verdict.marker, verdict.reason] : [verdict.next, ""];
    await end({ status: "failed", failure_marker: marker, reason });
    deps.say(`${red("failed")} at ${bold(marker)}: ${run.masked(reason)}; see ${run.dir}`);
    return exitCodes.failed;
  } catch (error) {
    const interrupted = deps.signal.aborted;
    const reason = interrupted ? "interrupted" : error instanceof Error ? error.message : String(error);
    await end({ status: interrupted ? "interrupted" : "failed", reason });
    if (!interrupted && !(error instanceof Fault)) throw error;
    deps.say(`${red("failed")}: ${run.masked(reason)}; see ${run.dir}`);
    return exitCodes.failed;
  }
}

/** The evidence of a run is kept by the run itself; a part that cannot be had does not change its verdict. */
async function captureInto(run: RunDir, plan: Plan, deps: SmokeDeps): Promise<void> {
  const inputs = JSON.parse(await run.read("inputs.json") ?? "{}") as Inputs;
  const { absent } = await capture(run, inputs, plan, { clock: systemClock, signal: deps.signal });
  for (const what of absent) deps.say(`${yellow("not captured")} ${what}`);
}

async function captureRun(given: Inputs, workRoot: string, deps: SmokeDeps): Promise<number> {
  const run = await RunDir.open(workRoot, given.run ?? "latest");
  const { run: _run, ...more } = given;
  const inputs: Inputs = { ...JSON.parse(await run.read("inputs.json") ?? "{}") as Inputs, ...more };
  const { plan, missing } = await judgeInputs(inputs);
  if (plan !== undefined) hideSecrets(run, plan);
  else for (const { input, reason } of missing) deps.say(`${yellow("missing")} ${bold(input)}: ${reason}`);
  if (inputs["serial-log"] === undefined && inputs["uc-context"] === undefined) {
    deps.say("blocked: wanted --serial-log or --uc-context, there is nothing else to capture from");
    return exitCodes.blocked;
  }
  const { files, absent, complete } = await capture(run, inputs, plan, { clock: systemClock, signal: deps.signal });
  for (const file of files) deps.say(`${green("kept")} ${run.dir}/${file}`);
  for (const what of absent) deps.say(`${yellow("not captured")} ${what}`);
  await run.setStatus({ captured: new Date().toISOString(), markers: complete ? "complete" : "incomplete" });
  return complete ? exitCodes.ok : exitCodes.failed;
}

function hideSecrets(run: RunDir, plan: Plan): void {
  run.hide(plan.token);
  if (plan.transport.kind === "redfish") run.hide(plan.transport.credentials.password);
}

/** Whether the BMC lets us in and has what a run needs; reads only. */
async function judgeBmc(plan: Plan, run: RunDir, signal: AbortSignal): Promise<Missing[]> {
  if (plan.transport.kind !== "redfish") return [];
  try {
    await using redfish = await openBmc(plan.transport, { clock: systemClock, signal });
    const found = await discover(redfish, plan.transport.system);
    await run.write("bmc-system.json", JSON.stringify(found, null, 2));
    return [];
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    const input = error.code === "bmc_denied"
      ? "--bmc-credentials-file"
      : error.code.startsWith("bmc_system")
      ? "--bmc-system"
      : "--bmc-url";
    return [{ input, reason: error.message }];
  }
}

/** Whether the deployer tells us of the node; a run would wait for its markers in vain. */
async function judgeRecord({ node, ucContext }: Plan): Promise<Missing[]> {
  if (ucContext === undefined) return [];
  try {
    await readNodeRecord(node, ucContext, 0);
    return [];
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    return [{ input: "--uc-context", reason: error.message }];
  }
}

async function writeDocuments(
  run: RunDir,
  inputs: Inputs,
  plan: Plan | undefined,
  missing: readonly Missing[],
): Promise<void> {
  await run.write("kernel-params.txt", kernelParams(inputs));
  await run.write("expected-markers.txt", expectedMarkers(inputs));
  await run.write("failure-markers.txt", failureMarkerLines(inputs));
  await run.write("missing-requirements.txt", missingText(missing));
  await run.write("inputs.json", inputsJson(inputs));
  await run.write("operator-handoff.md", operatorHandoff({ run: run.id, inputs, plan, missing }));
  const facts = Object.entries(await environment()).map(([name, value]) => `${name}=${value}`);
  await run.write("environment.txt", facts.join("\n"));
}

if (import.meta.main) {
  const interrupt = new AbortController();
  const stop = () => interrupt.abort(fault("cancelled", "interrupted", "Cannot go on: interrupted"));
  for (const name of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(name, stop);
  try {
    const deps = { env: (name: string) => Deno.env.get(name), say: console.log, signal: interrupt.signal };
    Deno.exit(await hardwareSmoke(Deno.args, deps));
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    console.error(`${red("error")}: ${error.message}`);
    Deno.exit(error.code === "usage" ? exitCodes.usage : exitCodes.failed);
  }
}
