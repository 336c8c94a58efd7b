import assert from "node:assert/strict";
import fc from "fast-check";
import { describeTestimonies, type Testimony, verdictOf } from "./verdict.ts";

const testimony = fc.record({
  member: fc.integer({ min: 1, max: 9 }),
  votes: fc.boolean(),
  sha256: fc.constantFrom(undefined, "a", "b", "c"),
});
const testimonies = fc.uniqueArray(testimony, { selector: ({ member }) => member, maxLength: 9 });

/** Every outcome that reports still missing from voters may bring. */
function endings(said: readonly Testimony[]): Testimony[][] {
  const at = said.findIndex(({ votes, sha256 }) => votes && sha256 === undefined);
  if (at < 0) return [[...said]];
  return ["a", "b", "c", "d"].flatMap((sha256) => endings(said.with(at, { ...said[at]!, sha256 })));
}

Deno.test("a verdict is what every ending agrees on, and accuses only who differs from more than half of the voters", () => {
  fc.assert(fc.property(testimonies, (said) => {
    const voters = said.filter(({ votes }) => votes);
    fc.pre(voters.filter(({ sha256 }) => sha256 === undefined).length <= 4);
    const majorities = new Set(
      endings(said).map((ending) =>
        ["a", "b", "c", "d"].find((content) =>
          ending.filter(({ votes, sha256 }) => votes && sha256 === content).length > voters.length / 2
        )
      ),
    );
    const verdict = verdictOf(said);
    if (verdict.kind === "agreed") {
      assert.deepEqual([...majorities], [verdict.sha256]);
      const wanted = said.filter(({ sha256 }) => sha256 !== undefined && sha256 !== verdict.sha256);
      assert.deepEqual(verdict.differ, wanted.map(({ member }) => member));
    } else if (verdict.kind === "undecided") assert.deepEqual([...majorities], [undefined]);
    else assert.ok(voters.some(({ sha256 }) => sha256 === undefined));
  }));
});

Deno.test("a description names who has what, and who has not reported", () => {
  const said = [[1, "aaaa"], [2, undefined], [3, "aaaa"], [4, "bbbb"]] as const;
  const all = said.map(([member, sha256]) => ({ member, votes: true, sha256 }));
  assert.equal(describeTestimonies(all), "1 and 3 have aaaa, 4 has bbbb, 2 has not reported");
});
