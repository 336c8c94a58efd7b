import assert from "node:assert/strict";
import { type MachineKit, runSeedsAsync, simulateStack } from "@ultracloud/testing";
import { chainfireKit } from "./test_machine.ts";

Deno.test("A simulated cluster on the real log and the real state keeps every rule under faults and repeats exactly", async () => {
  const range = { from: 0, count: 6, twice: true };
  const { failure, faults, events } = await runSeedsAsync(range, (seed) => simulateStack(seed, chainfireKit()));
  assert.equal(failure, undefined, failure && `seed ${failure.seed}: ${failure.error.stack}`);
  // A run in which nothing happened proves nothing.
  assert.ok(events >= 2000 * 6 && faults["(writes)"]! > 60 && faults["(reads)"]! > 60);
  assert.ok(faults["power cut"]! > 0 && faults["kill"]! > 0 && faults["failed sync"]! > 0);
});

Deno.test("The simulation notices a state that loses what a checkpoint promised", async () => {
  const forgetful = (): MachineKit => {
    const kit = chainfireKit();
    return { ...kit, start: (_, bugs, events) => kit.start(undefined, bugs, events) };
  };
  const range = { from: 0, count: 200, twice: false };
  const { failure } = await runSeedsAsync(range, (seed) => simulateStack(seed, forgetful()));
  assert.ok(failure, "No seed noticed");
});
