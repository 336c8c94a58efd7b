import assert from "node:assert/strict";
import { configurationOf, encodeConfiguration } from "../core/configuration.ts";
import type { Configuration, Entry } from "../core/types.ts";
import { PendingChanges } from "./changes.ts";
import type { ChangeOutcome } from "./types.ts";

const joint: Configuration = { ...configurationOf([1, 4]), votersOutgoing: [1, 2], autoLeave: true };
const entry = (index: number, term: number, configuration?: Configuration): Entry => ({
  index,
  term,
  kind: configuration ? "config" : "normal",
  data: configuration ? encodeConfiguration(configuration) : new Uint8Array(1),
});

function pending(index = 5, term = 2): { changes: PendingChanges; outcomes: ChangeOutcome[] } {
  const changes = new PendingChanges(), outcomes: ChangeOutcome[] = [];
  changes.add(index, term, (outcome) => outcomes.push(outcome));
  return { changes, outcomes };
}

Deno.test("A change is answered when its entry is applied", () => {
  const { changes, outcomes } = pending();
  changes.settle([entry(4, 2, configurationOf([9])), entry(5, 2, configurationOf([1, 2]))], 1);
  assert.deepEqual(outcomes, [{ index: 5, configuration: configurationOf([1, 2]) }]);
});

Deno.test("A change through a joint configuration that ends itself is answered at its end", () => {
  const { changes, outcomes } = pending();
  changes.settle([entry(5, 2, joint), entry(6, 2)], 1);
  assert.deepEqual(outcomes, []);
  changes.settle([entry(7, 2, configurationOf([1, 4]))], 1);
  assert.deepEqual(outcomes, [{ index: 7, configuration: configurationOf([1, 4]) }]);
});

Deno.test("A change whose entry was overwritten never takes effect, and says so", () => {
  const { changes, outcomes } = pending();
  changes.settle([entry(5, 3)], 7);
  assert.deepEqual(outcomes, [{ refused: "superseded", leader: 7 }]);
});

Deno.test("With leadership goes a change that has not committed, or whose end is up to others", () => {
  const open = pending();
  open.changes.lost(4, false, 3);
  assert.deepEqual(open.outcomes, [{ refused: "leadership_lost", leader: 3 }]);
  const committed = pending();
  committed.changes.lost(5, false, 3);
  committed.changes.settle([entry(5, 2, configurationOf([2]))], 3);
  assert.deepEqual(committed.outcomes, [{ index: 5, configuration: configurationOf([2]) }]);
  const leaving = pending();
  leaving.changes.settle([entry(5, 2, joint)], 1);
  leaving.changes.lost(5, true, 3);
  assert.deepEqual(leaving.outcomes, [{ refused: "leadership_lost", leader: 3 }]);
});

Deno.test("A second change waits beside the first until both are applied", () => {
  const { changes, outcomes } = pending();
  changes.add(6, 2, (outcome) => outcomes.push(outcome));
  const explicit = { ...joint, autoLeave: false };
  changes.settle([entry(5, 2, explicit), entry(6, 2, configurationOf([1, 4]))], 1);
  assert.deepEqual(outcomes, [
    { index: 5, configuration: explicit },
    { index: 6, configuration: configurationOf([1, 4]) },
  ]);
  changes.refuse("stopped", 0);
  assert.equal(outcomes.length, 2);
});
