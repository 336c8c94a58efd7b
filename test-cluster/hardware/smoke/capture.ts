import { Fault } from "@ultracloud/base";
import { markerNames, markerNode, parseMarkers } from "@ultracloud/cluster-state";
import { discover, readLogs } from "../redfish/mod.ts";
import type { Inputs } from "./inputs.ts";
import type { Plan } from "./requirements.ts";
import { openBmc, type RunDeps } from "./run.ts";
import type { RunDir } from "./run_dir.ts";
import { readNodeRecord } from "./sources.ts";

/** A serial log of an installation is below 1 MB; one of a machine that loops has no end. */
const serialBytesMax = 32 * 1024 * 1024;

export interface Captured {
  /** Names of the artifacts, and of what could not be had with the reason. */
  readonly files: readonly string[];
  readonly absent: readonly string[];
  /** Whether every marker of an installation was found in what was captured. */
  readonly complete: boolean;
}

/** Collects what there is of a run that goes on or has ended. What cannot be had is named, and the rest is kept. */
export async function capture(
  run: RunDir,
  inputs: Inputs,
  plan: Plan | undefined,
  deps: Pick<RunDeps, "clock" | "signal">,
): Promise<Captured> {
  const files: string[] = [];
  const absent: string[] = [];
  const seen = new Set<string>();
  const part = async (name: string, work: () => Promise<void>) => {
    try {
      await work();
      files.push(name);
    } catch (error) {
      if (deps.signal.aborted) throw error;
      if (!(error instanceof Fault || error instanceof Deno.errors.NotFound)) throw error;
      absent.push(`${name}: ${run.masked(error.message)}`);
    }
  };
  const node = inputs["node"] ?? "";
  const { "serial-log": serialLog, "uc-context": context } = inputs;
  if (serialLog === undefined) absent.push("serial.log: no --serial-log was given");
  else {
    await part("serial.log", async () => {
      const text = await tailOf(serialLog);
      for (const line of parseMarkers(text)) if (line.node === markerNode(node)) seen.add(line.name);
      await run.write("serial.log", text);
    });
  }
  if (context === undefined) absent.push("deployer-node.json: no --uc-context was given");
  else {
    await part("deployer-node.json", async () => {
      const record = await readNodeRecord(node, context, 0);
      for (const line of record.markers) seen.add(line.name);
      await run.write("deployer-node.json", record.json);
    });
  }
  const bmc = plan?.transport.kind === "redfish" ? plan.transport : undefined;
  if (bmc === undefined) absent.push("bmc-system.json, bmc-logs.json: no BMC that can be used was given");
  else {
    await part("bmc-logs.json", async () => {
      await using redfish = await openBmc(bmc, deps);
      const found = await discover(redfish, bmc.system);
      await run.write("bmc-system.json", JSON.stringify(found, null, 2));
      await run.write("bmc-logs.json", JSON.stringify(await readLogs(redfish, found), null, 2));
    });
  }
  const missing = markerNames.filter((name) => !seen.has(name));
  await run.write("capture.json", JSON.stringify({ files, absent, seen: [...seen], missing }, null, 2));
  return { files, absent, complete: missing.length === 0 };
}

async function tailOf(path: string): Promise<string> {
  using file = await Deno.open(path);
  const { size } = await file.stat();
  await file.seek(Math.max(0, size - serialBytesMax), Deno.SeekMode.Start);
  return await new Response(file.readable).text();
}
