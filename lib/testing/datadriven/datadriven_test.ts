import assert from "node:assert/strict";
import { datadrivenMain, runDatadrivenFiles } from "./main.ts";
import { DatadrivenSyntaxError, parseDatadriven } from "./parse.ts";
import { runDatadriven } from "./run.ts";

Deno.test("parseDatadriven() reads comments, arguments, input, output and doubled fences", () => {
  const text = `# A comment.
subtest first

committed cfg=(1, 2) idx=(_,5) \\
  bare key=value
input one

input two
----
out one
out two

  # Indented comment.
vote
----
----
blank lines

----
inside
----
----

last
----
`;
  assert.deepEqual(parseDatadriven(text), [
    {
      line: 4,
      command: "committed",
      args: [
        { key: "cfg", values: ["1", "2"] },
        { key: "idx", values: ["_", "5"] },
        { key: "bare", values: [] },
        { key: "key", values: ["value"] },
      ],
      input: "input one\n\ninput two",
      expected: "out one\nout two\n",
    },
    { line: 14, command: "vote", args: [], input: "", expected: "blank lines\n\n----\ninside\n" },
    { line: 24, command: "last", args: [], input: "", expected: "" },
  ]);
});

Deno.test("parseDatadriven() refuses a block without a fence and an argument that is none", () => {
  assert.throws(() => parseDatadriven("vote cfg=(1)\n"), DatadrivenSyntaxError);
  assert.throws(() => parseDatadriven("vote cfg=(1\n----\n"), /line 1/);
  assert.throws(() => parseDatadriven("\n\nvote\n----\n----\nno end\n"), /line 3/);
});

Deno.test("runDatadriven() shows what differs and goes on behind a failure", () => {
  const handlers = () => ({ say: ({ input }: { input: string }) => input });
  const { passed, failed } = runDatadriven("say\nb\nc\n----\na\nb\n\nsay\nx\n----\nx\n\nshout\n----\n", handlers);
  assert.equal(passed, 1);
  assert.deepEqual(failed.map(({ line }) => line), [1, 13]);
  assert.equal(failed[0]!.report, "  - a\n    b\n  + c");
  assert.match(failed[1]!.report, /Cannot run shout: wanted one of say/);
});

Deno.test("raft:datadriven ends with 0, 1 or 2 and says why", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const lines: string[] = [];
    const run = (...args: string[]) => datadrivenMain(args, (line) => lines.push(line));
    assert.equal(run(dir), 2, "nothing to run");
    await Deno.mkdir(`${dir}/deep/er`, { recursive: true });
    await Deno.writeTextFile(`${dir}/deep/er/good.txt`, "vote cfg=(1) votes=(y)\n----\nVoteWon\n");
    await Deno.writeTextFile(`${dir}/deep/.hidden`, "never read");
    assert.equal(run(dir), 0);
    await Deno.writeTextFile(`${dir}/bad.txt`, "vote cfg=(1) votes=(n)\n----\nVoteWon\n");
    assert.equal(run(dir), 1);
    assert.match(lines.join("\n"), /bad\.txt:1\n {2}- VoteWon\n {2}\+ VoteLost/);
    await Deno.writeFile(`${dir}/binary`, new Uint8Array([0xff, 0xfe, 0xff]));
    assert.equal(run(dir), 2);
    assert.equal(run(`${dir}/missing`), 2);
    assert.equal(run(), 2);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("A scenario file starts from nothing, whatever ran before it", async () => {
  const dir = await Deno.makeTempDir();
  try {
    for (const name of ["a", "b"]) {
      await Deno.writeTextFile(`${dir}/${name}`, "simple\nv1\n----\nvoters=(1)\n1: StateProbe match=0 next=1\n");
    }
    assert.deepEqual(runDatadrivenFiles([dir], () => {}), { files: 2, passed: 2, failed: 0, unreadable: 0 });
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
