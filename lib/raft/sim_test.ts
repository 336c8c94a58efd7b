import assert from "node:assert/strict";
import { plantedBugs, runSeeds, runSeedsAsync, simulateRaft, simulateStack } from "@ultracloud/testing";

Deno.test("A simulated cluster keeps every rule under faults and repeats exactly", () => {
  const { failure, faults, seeds, events } = runSeeds(
    { from: 1000, count: 60, twice: true },
    (seed) => simulateRaft(seed),
  );
  assert.equal(failure, undefined, failure && `seed ${failure.seed}: ${failure.error.stack}`);
  // A run in which nothing happened proves nothing.
  assert.ok(events >= 2000 * seeds);
  assert.ok(faults["(writes)"]! > 1000 && faults["(reads)"]! > 1000);
  assert.ok(faults["power cut"]! > 20 && faults["failed sync"]! > 10 && faults["lost"]! > 100);
  assert.ok(faults["full disk"]! > 20 && faults["clock drift"]! > 20 && faults["(disks lost)"]! > 0);
  assert.ok(faults["(changes of members)"]! > 50 && faults["repeated request"]! > 100);
});

Deno.test("A simulated cluster keeps every rule on the real log, and repeats exactly", async () => {
  const range = { from: 2000, count: 6, twice: true };
  const { failure, faults } = await runSeedsAsync(range, (seed) => simulateStack(seed));
  assert.equal(failure, undefined, failure && `seed ${failure.seed}: ${failure.error.stack}`);
  assert.ok(faults["power cut"]! > 5 && faults["full disk"]! > 5 && faults["failed sync"]! > 5);
});

for (const [name, bug] of Object.entries(plantedBugs)) {
  Deno.test(`The simulation notices within 200 seeds a replica that ${name}`, () => {
    const { failure } = runSeeds({ from: 0, count: 200, twice: false }, (seed) => simulateRaft(seed, bug));
    assert.ok(failure, "No seed noticed");
  });
}
