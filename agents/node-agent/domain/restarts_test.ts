import assert from "node:assert/strict";
import { afterEnd, noRestarts } from "./restarts.ts";

const policy = (policy: "always" | "on-failure" | "never") => ({ policy, backoffMsMin: 100, backoffMsMax: 1_000 });
const clean = { clean: true }, ill = { clean: false };

Deno.test("an instance is started again by its policy, later each time, and soon after it ran for long", () => {
  let restarts = noRestarts;
  const waits: number[] = [];
  for (let i = 0; i < 6; i++) {
    const next = afterEnd(policy("always"), ill, restarts, 10);
    assert.ok(next.kind === "restart");
    waits.push(next.afterMs);
    restarts = next.restarts;
  }
  assert.deepEqual(waits, [100, 200, 400, 800, 1_000, 1_000]);
  assert.deepEqual(restarts, { total: 6, quick: 6 });
  const late = afterEnd(policy("always"), clean, restarts, 3_600_000);
  assert.deepEqual(late, { kind: "restart", afterMs: 100, restarts: { total: 7, quick: 1 } });
});

Deno.test("what ended well is done unless it shall always run; what shall never run again has failed or is done", () => {
  assert.equal(afterEnd(policy("on-failure"), clean, noRestarts, 10).kind, "done");
  assert.equal(afterEnd(policy("on-failure"), ill, noRestarts, 10).kind, "restart");
  assert.equal(afterEnd(policy("never"), clean, noRestarts, 10).kind, "done");
  assert.equal(afterEnd(policy("never"), ill, noRestarts, 10).kind, "failed");
});
