import assert from "node:assert/strict";
import { terminalSvg, transcriptLines, withTranscript } from "./quickstart_image.ts";

Deno.test("a run is shown without colours, with long lines cut and blank ends gone", () => {
  const lines = transcriptLines(
    "deno task quickstart",
    `\n\x1b[1m[  0.0 s] a\x1b[0m\n\n${"x".repeat(200)}\nOK in 1 s\n\n`,
  );
  assert.deepEqual(lines, ["$ deno task quickstart", "[  0.0 s] a", "", `${"x".repeat(114)} ...`, "OK in 1 s"]);
});

Deno.test("the image holds every line, harmless as markup, and the page holds the same", () => {
  const lines = ["$ run", "iam        ready   http://127.0.0.1:9120", "", "a <b> & c"];
  const svg = terminalSvg(lines, "Output of run");
  assert.match(svg, /iam {8}<tspan fill="#5fd787">ready<\/tspan> {3}http/);
  assert.match(svg, />a &lt;b&gt; &amp; c<\/text>/);
  assert.equal(svg.match(/<text /g)!.length, 3);
  const page = "# x\n<details><summary>the same as text</summary>\n\n```text\nold\nlines $1\n```\n\n</details>\n";
  assert.match(withTranscript(page, lines), /```text\n\$ run\niam [\s\S]* c\n```\n\n<\/details>\n$/);
  assert.throws(() => withTranscript("# x", lines), /Cannot find the block/);
});
