import assert from "node:assert/strict";
import type { Entry } from "../core/types.ts";
import { ForwardedProposals } from "./forwards.ts";
import type { ProposalOutcome } from "./types.ts";

const entry = (index: number, term: number): Entry => ({ index, term, kind: "normal", data: new Uint8Array(1) });

function forwarding(term = 2, applied = 4) {
  const forwards = new ForwardedProposals(), outcomes: ProposalOutcome[] = [];
  const now = { term, applied, leader: 9 };
  const begin = () => forwards.begin(() => now, (outcome) => outcomes.push(outcome));
  return { forwards, outcomes, now, begin };
}

Deno.test("A forwarded proposal is answered when its entry is applied here", () => {
  const { forwards, outcomes, begin } = forwarding();
  begin().logged(6, 2);
  forwards.settle([entry(5, 2), entry(6, 2)], ["a", "b"], 9);
  assert.deepEqual(outcomes, [{ index: 6, result: "b" }]);
});

Deno.test("An entry may be applied here before the leader's answer comes", () => {
  const { forwards, outcomes, now, begin } = forwarding();
  const first = begin(), second = begin();
  forwards.settle([entry(5, 2), entry(6, 3)], ["a", "b"], 9);
  now.applied = 6;
  first.logged(5, 2);
  second.logged(6, 2);
  assert.deepEqual(outcomes, [{ index: 5, result: "a" }, { refused: "superseded", leader: 9 }]);
});

Deno.test("Answers that come out of order each find their entry", () => {
  const { forwards, outcomes, begin } = forwarding();
  const asked = [begin(), begin(), begin()];
  asked[2]!.logged(7, 2);
  asked[0]!.logged(5, 2);
  asked[1]!.logged(6, 2);
  forwards.settle([entry(5, 2), entry(6, 2), entry(7, 2)], ["a", "b", "c"], 9);
  assert.deepEqual(outcomes.map((outcome) => "result" in outcome && outcome.result), ["a", "b", "c"]);
});

Deno.test("Nobody can say what became of an entry of a leader that is gone, or of one applied too long ago", () => {
  const { outcomes, now, begin } = forwarding();
  const first = begin(), second = begin();
  now.term = 3;
  first.logged(9, 2);
  second.logged(3, 3);
  assert.deepEqual(outcomes, [{ refused: "leadership_lost", leader: 9 }, { refused: "leadership_lost", leader: 9 }]);
});

Deno.test("A dropped proposal is never answered, and one that waits ends with its leader", () => {
  const { forwards, outcomes, begin } = forwarding();
  const dropped = begin();
  dropped.dropped();
  dropped.logged(5, 2);
  begin().logged(6, 2);
  forwards.refuse("leadership_lost", 0, 5);
  assert.deepEqual(outcomes, [{ refused: "leadership_lost", leader: 0 }]);
});

Deno.test("So many may be on their way and no more", () => {
  const { forwards, begin } = forwarding();
  const all = [];
  while (!forwards.full) all.push(begin());
  assert.equal(all.length, 4096);
  all[0]!.dropped();
  assert.equal(forwards.full, false);
});
