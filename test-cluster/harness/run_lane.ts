import { workspaceRoot } from "@ultracloud/testing";
import { commitOf, environment, makeArtifactsDir, refreshLatest } from "./artifacts.ts";
import type { Cluster } from "./cluster.ts";
import { judgeComponents } from "./component_matrix.ts";
import { CheckFailed, type CheckResult, type Lane, type LaneArgs, type LaneProgress, LaneRun, said } from "./lane.ts";
import { bold, clockText, dim, green, red, table, yellow } from "./terminal.ts";

/** What every lane leaves as result.json. */
export interface LaneResult {
  readonly success: boolean;
  /** As it was asked for: `fresh-smoke`, `smoke`. */
  readonly lane: string;
  readonly summary: string;
  readonly substrate: string;
  readonly commit: string;
  readonly started: string;
  /** Seconds. */
  readonly duration: number;
  readonly checks: readonly CheckResult[];
  readonly notRun: readonly string[];
  readonly facts: Readonly<Record<string, unknown>>;
  readonly environment: Readonly<Record<string, unknown>>;
  readonly error?: string;
}

export interface RunLaneOptions {
  readonly lane: Lane;
  /** As it was asked for. */
  readonly name: string;
  readonly args: LaneArgs;
  readonly guestImage: { readonly path: string; readonly sha256: string } | undefined;
  readonly signal: AbortSignal;
  readonly progress: LaneProgress;
}

/**
 * Runs a lane on the cluster that `open` brings up, and writes its result whatever happens. The cluster's end is the
 * caller's.
 */
export async function runLane(
  options: RunLaneOptions,
  workRoot: string,
  substrate: string,
  open: (made: (cluster: Cluster) => void) => Promise<Cluster>,
): Promise<LaneResult> {
  const { lane, name, args, signal, progress, guestImage } = options;
  const started = new Date();
  const begin = performance.now();
  const artifactsDir = await makeArtifactsDir(workRoot, name, started);
  const before = await environment();
  let run: LaneRun | undefined;
  let error: string | undefined;
  let cluster: Cluster | undefined;
  try {
    cluster = await open((unfinished) => cluster = unfinished);
    run = new LaneRun({ cluster, args, artifactsDir, guestImage, signal }, progress);
    for (const { component, where } of judgeComponents(cluster.file).missing) {
      if (lane.ownComponents?.includes(component)) continue;
      run.skip(`${component} ${where}`, `${cluster.file.profile} requires it, and the cluster file leaves it out`);
    }
    await lane.run(run);
  } catch (cause) {
    error = signal.aborted ? "Interrupted" : cause instanceof CheckFailed ? cause.message : said(cause);
    if (!signal.aborted && !(cause instanceof CheckFailed) && cause instanceof Error) {
      await Deno.writeTextFile(`${artifactsDir}/error.txt`, `${cause.stack ?? cause}\n`);
    }
  }
  if (cluster !== undefined) {
    await copyLogs(cluster, artifactsDir);
    cluster[Symbol.dispose]();
  }
  const checks = run?.checks ?? [];
  // A lane that checked nothing proved nothing.
  if (error === undefined && checks.length === 0) error = "Cannot call it a proof: nothing was checked";
  const result: LaneResult = {
    success: error === undefined && checks.every((check) => check.ok),
    lane: name,
    summary: lane.summary,
    substrate: cluster?.substrate.name ?? substrate,
    commit: await commitOf(workspaceRoot),
    started: started.toISOString(),
    duration: Math.round(performance.now() - begin) / 1000,
    checks,
    notRun: run?.notRun ?? [],
    facts: run?.facts ?? {},
    environment: before,
    ...(error === undefined ? {} : { error }),
  };
  await Deno.writeTextFile(
    `${artifactsDir}/result.json`,
    JSON.stringify(result, (_key, value) => typeof value === "bigint" ? String(value) : value, 2) + "\n",
  );
  await refreshLatest(artifactsDir);
  console.log(summaryOf(result, artifactsDir));
  return result;
}

async function copyLogs(cluster: Cluster, dir: string): Promise<void> {
  for (const node of cluster.nodes) {
    await Deno.mkdir(`${dir}/log/${node}`, { recursive: true });
    const file = cluster.substrate.consoleFile(node);
    if (file !== undefined) await Deno.copyFile(file, `${dir}/log/${node}/console.log`);
    const { components, standby } = cluster.file.nodes[node]!;
    for (const component of [...components, ...standby]) {
      // A node that is gone keeps its log to itself.
      const text = await cluster.substrate.readFile(node, cluster.logFile(node, component)).catch(() => "");
      if (text === "") continue;
      await Deno.writeTextFile(`${dir}/log/${node}/${component}.log`, text);
    }
  }
}

/** The result for people: every check, what was not run, the verdict. */
export function summaryOf(result: LaneResult, artifactsDir: string): string {
  const rows = result.checks.map((check) => [
    check.ok ? "ok" : "FAILED",
    clockText(check.durationMs),
    check.name,
  ]);
  const lines = ["", bold(`${result.lane} on ${result.substrate}`), table(rows)];
  for (const part of result.notRun) lines.push(`${yellow("not run")} ${part}`);
  if (result.error !== undefined) lines.push(`${red("error")} ${result.error}`);
  const failed = result.checks.filter((check) => !check.ok).length;
  const counts = `${result.checks.length - failed} checks passed, ${failed} failed, ${result.notRun.length} not run`;
  lines.push(`${result.success ? green("green") : red("RED")} ${counts}, ${result.duration.toFixed(1)} s`);
  lines.push(dim(`${artifactsDir}/result.json`));
  return lines.join("\n");
}
