import { fault } from "@ultracloud/base";
import { bold, green, red, table } from "./terminal.ts";

const gib = 2 ** 30;

/** One part of the work root and what it may weigh; data, so that a host may be judged by other figures. */
export interface Budget {
  readonly path: string;
  readonly bytesMax: number;
  /** What to do about it. */
  readonly advice: string;
}

/** Small machines keep 30 GiB free for a working tree; proofs of a week and the caches fit in this. */
const usualBudgets: readonly Budget[] = [
  { path: "", bytesMax: 20 * gib, advice: "see the parts below" },
  { path: "test-cluster/state", bytesMax: 6 * gib, advice: "deno task cluster clean" },
  { path: "quickstart", bytesMax: 4 * gib, advice: "deno task uc quickstart down" },
  { path: "cache", bytesMax: 8 * gib, advice: "remove it: it is built again when needed" },
];
/** Names of the directories of dated runs: `<root>/<lane>/20260401T120301Z`. */
const dated = /^\d{8}T\d{6}Z$/;
const datedBytesMax = 4 * gib;

interface Row {
  readonly path: string;
  readonly bytes: number;
  readonly bytesMax: number;
  readonly advice: string;
}

/** Bytes below a path; 0 when it is absent. Links count as themselves. */
async function bytesBelow(path: string): Promise<number> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
  if (!info.isDirectory) return info.blocks === null ? info.size : info.blocks * 512;
  let bytes = 0;
  try {
    for await (const entry of Deno.readDir(path)) bytes += await bytesBelow(`${path}/${entry.name}`);
  } catch (error) {
    // A run that ends while it is being weighed.
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return bytes;
}

/** Dated runs by lane, the newest first; `latest` and what it points at stay. */
async function datedRuns(workRoot: string): Promise<Map<string, string[]>> {
  const runs = new Map<string, string[]>();
  for await (const lane of entries(workRoot)) {
    if (!lane.isDirectory) continue;
    const names: string[] = [];
    for await (const run of entries(`${workRoot}/${lane.name}`)) {
      if (run.isDirectory && dated.test(run.name)) names.push(run.name);
    }
    if (names.length > 0) runs.set(lane.name, names.sort().reverse());
  }
  return runs;
}

async function* entries(dir: string): AsyncGenerator<Deno.DirEntry> {
  try {
    yield* Deno.readDir(dir);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

async function weigh(workRoot: string, budgets: readonly Budget[]): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { path, bytesMax, advice } of budgets) {
    rows.push({ path: path || ".", bytes: await bytesBelow(`${workRoot}/${path}`), bytesMax, advice });
  }
  for (const lane of [...(await datedRuns(workRoot)).keys()].sort()) {
    const bytes = await bytesBelow(`${workRoot}/${lane}`);
    rows.push({
      path: lane,
      bytes,
      bytesMax: datedBytesMax,
      advice: "deno task cluster work-root-budget prune-proof-logs 2",
    });
  }
  return rows;
}

function print(rows: readonly Row[]): void {
  const size = (bytes: number) => `${(bytes / gib).toFixed(2)} GiB`;
  console.log(table([
    ["PART", "SIZE", "BUDGET", ""],
    ...rows.map((row) => [row.path, size(row.bytes), size(row.bytesMax), row.bytes > row.bytesMax ? "over" : "ok"]),
  ]));
}

/**
 * Removes all but the newest `keep` dated runs of each lane, when `apply` says so; answers what goes. The run that
 * `latest` points at always stays.
 */
export async function pruneRuns(workRoot: string, keep: number, apply: boolean): Promise<string[]> {
  const gone: string[] = [];
  for (const [lane, runs] of await datedRuns(workRoot)) {
    const latest = await Deno.readLink(`${workRoot}/${lane}/latest`).catch(() => "");
    for (const run of runs.slice(keep)) {
      if (run === latest) continue;
      gone.push(`${lane}/${run}`);
      if (apply) await Deno.remove(`${workRoot}/${lane}/${run}`, { recursive: true });
    }
  }
  return gone.sort();
}

/** `work-root-budget status|enforce|cleanup-advice|prune-proof-logs N`; answers the exit code. */
export async function workRootBudget(
  workRoot: string,
  [verb, count]: readonly string[],
  apply: boolean,
  budgets = usualBudgets,
): Promise<number> {
  switch (verb) {
    case "status":
      print(await weigh(workRoot, budgets));
      return 0;
    case "enforce": {
      const rows = await weigh(workRoot, budgets);
      print(rows);
      const over = rows.filter((row) => row.bytes > row.bytesMax);
      console.log(over.length === 0 ? green("within budget") : red(`${over.length} parts over budget`));
      return over.length === 0 ? 0 : 1;
    }
    case "cleanup-advice": {
      const rows = (await weigh(workRoot, budgets)).filter((row) => row.path !== "." && row.bytes > 0);
      for (const row of rows.sort((a, b) => b.bytes - a.bytes)) {
        console.log(`${bold(row.path)} ${(row.bytes / gib).toFixed(2)} GiB: ${row.advice}`);
      }
      return 0;
    }
    case "prune-proof-logs": {
      const keep = Number(count);
      if (!Number.isInteger(keep) || keep < 1) {
        throw fault(
          "invalid_argument",
          "usage",
          `Cannot keep ${count} runs: wanted prune-proof-logs N with N of 1 or more`,
        );
      }
      const gone = await pruneRuns(workRoot, keep, apply);
      for (const run of gone) console.log(`${apply ? "removed" : "would remove"} ${run}`);
      if (!apply) console.log(`${gone.length} runs; --apply removes them`);
      return 0;
    }
  }
  throw fault(
    "invalid_argument",
    "usage",
    `Cannot ${verb ?? "do nothing"} with the work root: wanted status, enforce, cleanup-advice or prune-proof-logs N`,
  );
}
