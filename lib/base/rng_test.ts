import assert from "node:assert/strict";
import { seededRng, uniform } from "./rng.ts";

Deno.test("uniform() chooses each of n, and says so when there is nothing to choose from", () => {
  const rng = seededRng(1);
  for (const n of [1, 2, 7]) {
    assert.deepEqual(new Set(Array.from({ length: 200 }, () => uniform(rng, n))), new Set(Array(n).keys()));
  }
  assert.ok(uniform(rng, 2 ** 32) < 2 ** 32);
  for (const n of [0, -1, 1.5, NaN, Infinity, 2 ** 32 + 1]) {
    assert.throws(() => uniform(rng, n), {
      name: "AssertionError",
      message: `Cannot choose one of ${n}: wanted 1 to 2^32`,
    });
  }
});
