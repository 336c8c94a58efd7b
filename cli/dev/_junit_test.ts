import assert from "node:assert/strict";
import { parseJunit, skipReason } from "./_junit.ts";
import { plantTree } from "./_tree_test_support.ts";
import { capture } from "./_process.ts";

const suite = `
import { skipTest } from "@ultracloud/testing";
Deno.test('passes <with> & "signs"', async (t) => { await t.step("step", () => {}); });
Deno.test("fails", () => { throw new Error("first line\\nsecond line"); });
Deno.test("fails in a step", async (t) => { await t.step("inner", () => { throw new Error("deep"); }); });
skipTest("boots", "no KVM here", () => {});
`;

Deno.test("parseJunit() counts what deno test reports: steps once, skips with their reason", async () => {
  const skip = new URL("../../lib/testing/skip.ts", import.meta.url).href;
  await using tree = await plantTree({
    "deno.json": JSON.stringify({ imports: { "@ultracloud/testing": skip } }),
    "a_test.ts": suite,
  });
  const run = await capture(Deno.execPath(), {
    args: ["test", "-q", "-A", "--no-lock", "--junit-path=report.xml", "a_test.ts"],
    cwd: tree.root,
    env: { NO_COLOR: "1" },
  });
  assert.equal(run.code, 1, run.stderr);
  const cases = parseJunit(await Deno.readTextFile(`${tree.root}/report.xml`));
  assert.deepEqual(cases.map(({ name, outcome }) => `${outcome} ${name}`), [
    'passed passes <with> & "signs"',
    "failed fails",
    "failed fails in a step",
    "skipped boots [skipped: no KVM here]",
  ]);
  assert.equal(cases[0]?.file, "a_test.ts");
  assert.match(cases[1]?.message ?? "", /first line/);
});

Deno.test("skipReason() splits the name and says when nobody gave a reason", () => {
  assert.deepEqual(skipReason("boots [skipped: no KVM (here)]"), { name: "boots", reason: "no KVM (here)" });
  assert.deepEqual(skipReason("boots"), { name: "boots", reason: "no reason given" });
});
