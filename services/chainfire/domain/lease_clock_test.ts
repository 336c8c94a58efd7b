import assert from "node:assert/strict";
import { LeaseClock } from "./lease_clock.ts";

Deno.test("a lease clock counts time that passed, but not a pause, a time without leader or a step back", () => {
  let monotonicMs = 5_000;
  let replicatedMs = 100;
  const clock = new LeaseClock({ clock: { monotonicMs: () => monotonicMs }, replicatedMs: () => replicatedMs });
  clock.restart();
  monotonicMs += 300.9;
  assert.equal(clock.nowMs(), 400);
  monotonicMs += 60_000; // the process was stopped
  assert.equal(clock.nowMs(), 1_400);
  replicatedMs = 5_000; // what an earlier leader logged is applied late
  assert.equal(clock.nowMs(), 5_000);
  monotonicMs += 10;
  assert.equal(clock.nowMs(), 5_010);
  monotonicMs -= 1_000;
  assert.equal(clock.nowMs(), 5_010);
  clock.restart(); // another leader in between got no further than this
  assert.equal(clock.nowMs(), 5_000);
});
