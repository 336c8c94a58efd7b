import assert from "node:assert/strict";
import { plantTree } from "./_tree_test_support.ts";
import { capture } from "./_process.ts";
import { readProcessorTime, stolenWords } from "./_stages.ts";

const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");

/** Runs the given stages as a program of its own and answers what it printed. */
async function printed(stages: unknown[], files: Record<string, string>): Promise<string[]> {
  await using tree = await plantTree({
    ...files,
    "deno.json": "{}",
    "main.ts": `
      import { formatTotals, runStages } from "${new URL("./_stages.ts", import.meta.url).href}";
      const stages = ${JSON.stringify(stages)};
      console.log(formatTotals(await runStages(stages, { root: Deno.cwd(), logDir: "log" })));
    `,
  });
  const run = await capture(Deno.execPath(), {
    args: ["run", "-q", "-A", "--no-check", `--config=${root}/deno.json`, "main.ts"],
    cwd: tree.root,
    env: { NO_COLOR: "1" },
  });
  assert.equal(run.code, 0, run.stderr);
  return run.stdout.trimEnd().split("\n");
}

const timeoutMs = 30_000;

Deno.test("runStages() runs every stage, counts stages and tests, and ends with the true totals", async () => {
  const lines = await printed([
    { name: "good", args: ["run", "good.ts"], timeoutMs },
    { name: "bad", args: ["run", "bad.ts"], timeoutMs },
    { name: "left out", args: ["run", "bad.ts"], timeoutMs, skip: "not today" },
    { name: "tests", args: ["test", "-A", "a_test.ts"], timeoutMs, countsTests: true },
  ], {
    "good.ts": "console.log('fine')",
    "bad.ts": "console.error('what went wrong'); Deno.exit(3)",
    "a_test.ts": "Deno.test('one', () => {}); Deno.test('two', () => {});" +
      "Deno.test({ name: 'three [skipped: no disk]', ignore: true, fn() {} });",
  });
  const text = lines.join("\n");
  assert.match(text, /failed {2}bad: it ended with 3/);
  assert.match(text, /what went wrong/);
  assert.match(text, /skipped left out: not today/);
  assert.match(text, /skipped three: no disk/);
  assert.match(text, /ok {6}tests: 3 tests/);
  assert.equal(lines.at(-1), "4 passed, 1 failed, 2 skipped");
});

Deno.test("runStages() ends a stage that takes too long, and fails a test stage that counts nothing", async () => {
  const lines = await printed([
    { name: "slow", args: ["run", "slow.ts"], timeoutMs: 1_000 },
    { name: "empty", args: ["test", "--permit-no-files"], timeoutMs, countsTests: true },
  ], { "slow.ts": "setInterval(() => {}, 1000)" });
  const text = lines.join("\n");
  assert.match(text, /failed {2}slow: it took longer than 1\.0 s and was ended/);
  assert.match(text, /failed {2}empty: no test was counted/);
  assert.equal(lines.at(-1), "0 passed, 2 failed, 0 skipped");
});

Deno.test("runStages() runs a stage whose Deno crashed once more where that is known, and nothing else", async () => {
  const crash = "new Deno.UnsafePointerView(Deno.UnsafePointer.create(1n)).getUint8();";
  const lines = await printed([
    { name: "once", args: ["run", "-A", "once.ts"], timeoutMs, mayCrash: true },
    { name: "twice", args: ["run", "-A", "always.ts"], timeoutMs, mayCrash: true },
    { name: "bad", args: ["run", "-A", "bad.ts"], timeoutMs, mayCrash: true },
    { name: "unknown", args: ["run", "-A", "always.ts"], timeoutMs },
  ], {
    "once.ts": `try { Deno.mkdirSync("here"); } catch { Deno.exit(0); } ${crash}`,
    "always.ts": crash,
    "bad.ts": "console.log('a run of bad'); Deno.exit(1)",
  });
  const text = lines.join("\n");
  assert.equal(text.match(/crashed Deno died of SIGSEGV/g)?.length, 2);
  assert.match(text, /ok {6}once/);
  assert.match(text, /failed {2}twice: it ended with 139/);
  assert.match(text, /failed {2}bad: it ended with 1/);
  assert.equal(text.match(/a run of bad/g)?.length, 1);
  assert.match(text, /failed {2}unknown: it ended with 139/);
  assert.equal(lines.at(-1), "1 passed, 3 failed, 0 skipped");
});

Deno.test("stolenWords() tells the part of the processors that the host gave to others, where it matters", () => {
  const at = (...times: number[]) => readProcessorTime(`cpu  ${times.join(" ")} 7 7\ncpu0 1 1 1 1 1 1 1 1 0 0\n`);
  const start = at(100, 0, 50, 800, 10, 0, 0, 40);
  assert.deepEqual(start, { all: 1_000, stolen: 40 });
  assert.equal(
    stolenWords(start, at(500, 0, 150, 900, 20, 0, 0, 330)),
    "; the host gave 32 % of the processors to others meanwhile",
  );
  assert.equal(stolenWords(start, at(900, 0, 150, 900, 20, 0, 0, 45)), "");
  assert.equal(stolenWords(start, undefined), "");
  assert.equal(readProcessorTime("nothing"), undefined);
});
