import { parseJunit, skipReason, type TestCase } from "./_junit.ts";
import { runDeno } from "./_process.ts";
import { bold, dim, formatSpan, green, red, yellow } from "./_term.ts";
import { readTextIfPresent } from "./_workspace.ts";

/** One step of the test run: a Deno process of its own whose exit code decides. */
export interface Stage {
  readonly name: string;
  /** Arguments of Deno. */
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  /** True when it is a `deno test` whose tests are counted one by one. */
  readonly countsTests?: boolean;
  /** Deno itself is known to die of SIGSEGV in it, which is no verdict: then it is said, and run once more. */
  readonly mayCrash?: boolean;
  /** Set when the stage does not run; the reason is printed and counted. */
  readonly skip?: string;
  /** Looks at what the stage left behind; a sentence fails it. */
  readonly verify?: () => Promise<string | undefined>;
}

export interface Totals {
  passed: number;
  failed: number;
  skipped: number;
}

/** The true last line of every run. */
export function formatTotals(totals: Totals): string {
  return `${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`;
}

/** Processor time of the machine so far, in ticks, and how much of it the host gave to others (proc(5), `stat`). */
export interface ProcessorTime {
  readonly all: number;
  readonly stolen: number;
}

/** Reads the first line of `/proc/stat`; undefined where there is none. */
export function readProcessorTime(stat: string | undefined): ProcessorTime | undefined {
  const times = /^cpu +(.+)$/m.exec(stat ?? "")?.[1]?.split(" ").slice(0, 8).map(Number);
  if (times === undefined || times.length < 8) return undefined;
  return { all: times.reduce((sum, time) => sum + time, 0), stolen: times[7]! };
}

/** What a slow run is to be judged by: words for the part of the processors that was not there; empty below 2 %. */
export function stolenWords(before: ProcessorTime | undefined, after: ProcessorTime | undefined): string {
  if (before === undefined || after === undefined || after.all <= before.all) return "";
  const percent = Math.round((after.stolen - before.stolen) / (after.all - before.all) * 100);
  return percent < 2 ? "" : `; the host gave ${percent} % of the processors to others meanwhile`;
}

const processorTime = async () => readProcessorTime(await readTextIfPresent("/proc/stat"));

/** Lines of a failed stage's output that are shown at once; the rest stands in its log. */
const tailLinesMax = 40;
/** Failed tests that are listed one by one. */
const failuresShownMax = 30;

function countCases(cases: readonly TestCase[], totals: Totals): void {
  for (const test of cases) totals[test.outcome]++;
  for (const test of cases) {
    if (test.outcome !== "skipped") continue;
    const { name, reason } = skipReason(test.name);
    console.log(`    ${yellow("skipped")} ${name}: ${reason}`);
  }
  const failures = cases.filter((test) => test.outcome === "failed");
  for (const test of failures.slice(0, failuresShownMax)) {
    console.log(
      `    ${red("failed")} ${test.name} ${dim(`(${test.file})`)}\n      ${test.message.replaceAll("\n", "\n      ")}`,
    );
  }
  if (failures.length > failuresShownMax) console.log(`    and ${failures.length - failuresShownMax} more`);
}

async function printTail(logFile: string): Promise<void> {
  const lines = (await readTextIfPresent(logFile) ?? "").trimEnd().split("\n");
  for (const line of lines.slice(-tailLinesMax)) console.log(`    ${line}`);
}

/** Test files of a command line that its output never mentions: one of them hangs, the others waited behind it. */
function silentFiles(args: readonly string[], log: string): string[] {
  return args.filter((arg) => arg.endsWith("_test.ts") && !log.includes(arg));
}

/** Why a stage failed, as a sentence; undefined when it passed. */
async function runStage(stage: Stage, root: string, logFile: string, reportFile: string): Promise<string | undefined> {
  const args = stage.countsTests
    ? [...stage.args.slice(0, 1), `--junit-path=${reportFile}`, ...stage.args.slice(1)]
    : stage.args;
  const options = { args, cwd: root, env: { NO_COLOR: "1", ...stage.env }, logFile, timeoutMs: stage.timeoutMs };
  let result = await runDeno(options);
  if (stage.mayCrash && result.signal === "SIGSEGV") {
    console.log(`    ${yellow("crashed")} Deno died of SIGSEGV in ${stage.name} and gave no verdict: once more`);
    result = await runDeno(options);
  }
  if (result.timedOut) {
    const silent = stage.countsTests ? silentFiles(stage.args, await readTextIfPresent(logFile) ?? "") : [];
    const hint = silent.length > 0 ? `; no end was seen of ${silent.join(", ")}` : "";
    return `it took longer than ${formatSpan(stage.timeoutMs)} and was ended${hint}`;
  }
  if (result.code !== 0) return `it ended with ${result.code}`;
  return await stage.verify?.();
}

/** Runs stages one after the other, all of them whatever fails, and counts; logs go to `logDir`. */
export async function runStages(stages: readonly Stage[], options: { root: string; logDir: string }): Promise<Totals> {
  const totals: Totals = { passed: 0, failed: 0, skipped: 0 };
  await Deno.remove(options.logDir, { recursive: true }).catch(() => {});
  await Deno.mkdir(options.logDir, { recursive: true });
  const runStart = performance.now();
  const processors = await processorTime();
  for (const stage of stages) {
    if (stage.skip !== undefined) {
      totals.skipped++;
      console.log(`${yellow("skipped")} ${bold(stage.name)}: ${stage.skip}`);
      continue;
    }
    const slug = stage.name.replaceAll(" ", "-");
    const logFile = `${options.logDir}/${slug}.log`;
    const reportFile = `${options.logDir}/${slug}.xml`;
    console.log(dim(`running ${stage.name} ...`));
    const start = performance.now();
    const wrong = await runStage(stage, options.root, logFile, reportFile);
    const span = dim(`(${formatSpan(performance.now() - start)})`);
    const cases = stage.countsTests ? parseJunit(await readTextIfPresent(reportFile) ?? "") : [];
    const emptyReport = stage.countsTests && cases.length === 0 ? "no test was counted" : undefined;
    const failure = wrong ?? emptyReport;
    if (failure === undefined) {
      totals.passed++;
      console.log(
        `${green("ok")}      ${bold(stage.name)}${cases.length > 0 ? `: ${cases.length} tests` : ""} ${span}`,
      );
    } else {
      totals.failed++;
      console.log(`${red("failed")}  ${bold(stage.name)}: ${failure} ${span}`);
    }
    countCases(cases, totals);
    if (failure !== undefined) {
      if (!cases.some((test) => test.outcome === "failed")) await printTail(logFile);
      console.log(`    log: ${logFile}`);
    }
  }
  const stolen = stolenWords(processors, await processorTime());
  console.log(dim(`took ${formatSpan(performance.now() - runStart)}${stolen}`));
  return totals;
}
