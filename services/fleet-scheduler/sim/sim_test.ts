import assert from "node:assert/strict";
import { runSeeds } from "@ultracloud/testing";
import { type Bugs } from "./test_fleet.ts";
import { chaos, storm } from "./test_scenarios.ts";

Deno.test("small fleets come to rest as wished after any faults, the same way twice", () => {
  const { failure, seeds } = runSeeds({ from: 0, count: 25, twice: true }, (seed) => chaos(seed));
  assert.equal(failure, undefined);
  assert.equal(seeds, 25);
});

Deno.test("a drain of a tenth of the nodes leaves every service what its policy asks for", () => {
  const figures = storm({ seed: 3, nodes: 100, services: 100, replicas: 4 });
  assert.equal(figures.instances, 400);
  assert.equal(figures.drained, 10);
  assert.ok(figures.moved > 0);
});

for (const bug of ["lostEarly", "drainAtOnce", "blindToRoom", "blindToHealth"] satisfies (keyof Bugs)[]) {
  Deno.test(`the checks find a scheduler with the planted bug ${bug}`, () => {
    const { failure } = runSeeds({ from: 0, count: 200, twice: false }, (seed) => chaos(seed, { [bug]: true }));
    assert.ok(failure);
  });
}
