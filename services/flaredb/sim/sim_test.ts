import assert from "node:assert/strict";
import { runSeeds } from "@ultracloud/testing";
import { plantedBugs } from "./test_bugs.ts";
import { simulateFlaredb } from "./test_world.ts";

/** Seeds tried for a planted bug; each one is found well before. */
const seedsMax = 60;

Deno.test("several groups keep every promise under faults, and a seed goes the same way twice", () => {
  const { failure, seeds, faults } = runSeeds({ from: 0, count: 6, twice: true }, (seed) => simulateFlaredb(seed));
  assert.equal(failure, undefined, `seed ${failure?.seed}: ${failure?.error.stack}`);
  assert.equal(seeds, 6);
  assert.ok(faults["(writes)"]! > 100 && faults["(reads)"]! > 50, JSON.stringify(faults));
});

for (const [name, bug] of Object.entries(plantedBugs)) {
  Deno.test(`the simulation notices a store that ${name}`, () => {
    const { failure } = runSeeds({ from: 0, count: seedsMax, twice: false }, (seed) => simulateFlaredb(seed, bug));
    assert.ok(failure !== undefined, `${seedsMax} seeds went through`);
  });
}
