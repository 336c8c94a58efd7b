import assert from "node:assert/strict";
import { workspaceRoot } from "@ultracloud/testing";

async function slt(...paths: string[]): Promise<{ code: number; text: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "-q", "cli/dev/main.ts", "slt", ...paths],
    cwd: workspaceRoot,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

Deno.test("SQLite's logic holds through the REST API: every record of testdata/slt passes", async () => {
  const { code, text } = await slt("services/flaredb/testdata/slt");
  assert.equal(code, 0, text);
  const [, passed = "0"] = /(\d+) passed, 0 failed\s*$/.exec(text) ?? [];
  assert.ok(Number(passed) >= 300, text);
});

Deno.test("flaredb:slt ends with 1 and names the line when a record does not hold", async () => {
  const file = await Deno.makeTempFile({ suffix: ".slt" });
  try {
    await Deno.writeTextFile(file, "query I nosort\nSELECT 1\n----\n1\n\nquery I nosort\nSELECT 2\n----\n3\n");
    const { code, text } = await slt(file);
    assert.equal(code, 1, text);
    assert.match(text, /line 6: result 1 is "2", wanted "3"/);
    assert.match(text, /1 files: 1 passed, 1 failed/);
  } finally {
    await Deno.remove(file);
  }
});
