import assert from "node:assert/strict";
import fc from "fast-check";
import { jointCommitted, jointVote } from "./joint.ts";
import { majorityCommitted, majorityVote } from "./majority.ts";

const ids = fc.uniqueArray(fc.integer({ min: 1, max: 9 }), { maxLength: 7 }).map((list) => list.sort((a, b) => a - b));
const acks = fc.dictionary(fc.integer({ min: 1, max: 9 }).map(String), fc.integer({ min: 1, max: 12 }))
  .map((record) => new Map(Object.entries(record).map(([id, index]) => [Number(id), index])));
const ballots = fc.dictionary(fc.integer({ min: 1, max: 9 }).map(String), fc.boolean())
  .map((record) => new Map(Object.entries(record).map(([id, vote]) => [Number(id), vote])));

/** The definition, word for word: the highest index that more than half of the voters hold. */
function plainCommitted(voters: readonly number[], acked: ReadonlyMap<number, number>): number {
  if (voters.length === 0) return Infinity;
  for (let index = 12; index > 0; index--) {
    const holders = voters.filter((id) => (acked.get(id) ?? 0) >= index).length;
    if (2 * holders > voters.length) return index;
  }
  return 0;
}

function plainVote(voters: readonly number[], votes: ReadonlyMap<number, boolean>): string {
  const yes = voters.filter((id) => votes.get(id) === true).length;
  const no = voters.filter((id) => votes.get(id) === false).length;
  if (voters.length === 0 || 2 * yes > voters.length) return "won";
  return 2 * no >= voters.length ? "lost" : "pending";
}

Deno.test("majorityCommitted() and jointCommitted() agree with the definition", () => {
  fc.assert(
    fc.property(ids, ids, acks, (voters, votersOutgoing, acked) => {
      const of = (id: number) => acked.get(id);
      assert.equal(majorityCommitted(voters, of), plainCommitted(voters, acked));
      assert.equal(
        jointCommitted({ voters, votersOutgoing }, of),
        Math.min(plainCommitted(voters, acked), plainCommitted(votersOutgoing, acked)),
      );
    }),
    { numRuns: 5000 },
  );
});

Deno.test("majorityVote() and jointVote() agree with the definition", () => {
  fc.assert(
    fc.property(ids, ids, ballots, (voters, votersOutgoing, votes) => {
      const halves = [plainVote(voters, votes), plainVote(votersOutgoing, votes)];
      assert.equal(majorityVote(voters, votes), halves[0]);
      const wanted = halves.includes("lost") ? "lost" : halves.includes("pending") ? "pending" : "won";
      assert.equal(jointVote({ voters, votersOutgoing }, votes), wanted);
    }),
    { numRuns: 5000 },
  );
});

Deno.test("Any two quorums of a configuration share a voter", () => {
  fc.assert(
    fc.property(ids.filter((list) => list.length > 0), ballots, (voters, votes) => {
      const flipped = new Map([...votes].map(([id, vote]) => [id, !vote]));
      assert.ok(!(majorityVote(voters, votes) === "won" && majorityVote(voters, flipped) === "won"));
    }),
  );
});
