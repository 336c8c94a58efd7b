import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { checkOptions, laneHelp } from "./commands.ts";
import { parseWords } from "./harness/words.ts";
import { lanes } from "./lanes/mod.ts";

Deno.test("options a command does not know are refused, and those it knows are named", () => {
  const refused = (argv: string[], command: string, known?: string[]) => {
    try {
      checkOptions(command, parseWords(argv).options, known);
    } catch (error) {
      return (error as Fault).message;
    }
    return "taken";
  };
  assert.equal(refused(["status", "--node", "1"], "status"), "Cannot use --node with status: wanted no option");
  assert.match(refused(["up", "--profile", "stores"], "up"), /wanted one of --substrate$/);
  assert.equal(refused(["up", "--substrate=qemu"], "up"), "taken");
  assert.match(refused(["soak", "--minuets", "1"], "soak", ["minutes"]), /wanted one of --minutes$/);
  assert.equal(refused(["publishable-suite", "--substrate", "netns"], "publishable-suite"), "taken");
});

Deno.test("help wants no value wherever it stands", () => {
  for (const word of ["--help", "-h"]) {
    assert.deepEqual(parseWords([word]), { plain: [], options: { help: "" }, after: [] });
    assert.deepEqual(parseWords(["soak", word, "--seed", "1"]).options, { help: "", seed: "1" });
  }
  assert.deepEqual(parseWords(["exec", "node01", "--", "ls", "-h"]).options, {});
});

Deno.test("the help of a lane names every option it takes", () => {
  for (const lane of lanes) {
    const text = laneHelp(lane);
    for (const option of ["substrate", "keep", ...Object.keys(lane.options ?? {})]) {
      assert.ok(text.includes(`--${option}`), `${lane.name} --${option}`);
    }
  }
});
