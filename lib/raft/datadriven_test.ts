import assert from "node:assert/strict";
import { runDatadrivenFiles } from "@ultracloud/testing";

Deno.test("Quorums and configuration changes answer as the scenario texts say", () => {
  const lines: string[] = [];
  const { failed, unreadable, passed } = runDatadrivenFiles(
    [new URL("testdata", import.meta.url).pathname],
    (line) => lines.push(line),
  );
  assert.equal(failed + unreadable, 0, lines.join("\n"));
  assert.ok(passed >= 60, `Only ${passed} cases`);
});
