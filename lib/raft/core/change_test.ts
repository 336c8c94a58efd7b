import { Fault } from "@ultracloud/base";
import assert from "node:assert/strict";
import fc from "fast-check";
import { type ChangeStep, enterJoint, isJoint, leaveJoint, nextConfiguration, simpleChange } from "./change.ts";
import { configurationOf, decodeConfiguration, emptyConfiguration, encodeConfiguration } from "./configuration.ts";
import type { Configuration } from "./types.ts";

const voter = (id: number): ChangeStep => ({ type: "add_voter", id });
const learner = (id: number): ChangeStep => ({ type: "add_learner", id });
const remove = (id: number): ChangeStep => ({ type: "remove", id });
const three = configurationOf([1, 2, 3]);

function code(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof Fault, String(error));
    return error.code;
  }
  return "none";
}

Deno.test("simpleChange() adds, promotes, demotes and removes one voter at a time", () => {
  assert.deepEqual(simpleChange(three, [voter(4)]).voters, [1, 2, 3, 4]);
  const withLearner = simpleChange(three, [learner(7), learner(5)]);
  assert.deepEqual(withLearner.learners, [5, 7]);
  assert.deepEqual(simpleChange(withLearner, [voter(5)]), { ...three, voters: [1, 2, 3, 5], learners: [7] });
  assert.deepEqual(simpleChange(three, [learner(2)]), { ...three, voters: [1, 3], learners: [2] });
  assert.deepEqual(simpleChange(withLearner, [remove(7), remove(1)]), { ...three, voters: [2, 3], learners: [5] });
});

Deno.test("simpleChange() changes nothing for steps whose end is reached", () => {
  assert.deepEqual(simpleChange(three, [voter(1), remove(9), voter(4), remove(4)]), three);
  const withLearner = simpleChange(three, [learner(4)]);
  assert.deepEqual(simpleChange(withLearner, [learner(4)]), withLearner);
});

Deno.test("simpleChange() refuses two voters, no voters and a joint configuration", () => {
  assert.equal(code(() => simpleChange(three, [voter(4), remove(1)])), "several_voters");
  assert.equal(code(() => simpleChange(configurationOf([1]), [remove(1)])), "no_voters_left");
  assert.equal(code(() => simpleChange(emptyConfiguration, [])), "no_voters_left");
  assert.equal(code(() => simpleChange(enterJoint(three, [], false), [learner(4)])), "simple_while_joint");
  assert.equal(code(() => simpleChange(three, [voter(0)])), "invalid_node_id");
});

Deno.test("enterJoint() keeps every vote of the outgoing half until leaveJoint()", () => {
  const joint = enterJoint(three, [remove(1), learner(2), voter(4), learner(5)], true);
  assert.deepEqual(joint, {
    voters: [3, 4],
    votersOutgoing: [1, 2, 3],
    learners: [5],
    learnersNext: [2],
    autoLeave: true,
  });
  assert.deepEqual(leaveJoint(joint), { ...three, voters: [3, 4], learners: [2, 5] });
});

Deno.test("enterJoint() and leaveJoint() refuse to nest, to start from nobody and to leave what is not joint", () => {
  assert.equal(code(() => enterJoint(enterJoint(three, [], false), [], false)), "already_joint");
  assert.equal(code(() => enterJoint(emptyConfiguration, [voter(1)], false)), "nobody_to_join");
  assert.equal(code(() => enterJoint(configurationOf([1]), [learner(1)], true)), "no_voters_left");
  assert.equal(code(() => leaveJoint(three)), "not_joint");
});

Deno.test("nextConfiguration() goes through a joint configuration only where it must", () => {
  assert.ok(!isJoint(nextConfiguration(three, [voter(4), learner(5)], "auto")));
  const replace = nextConfiguration(three, [voter(4), remove(1)], "auto");
  assert.ok(isJoint(replace) && replace.autoLeave);
  assert.ok(!nextConfiguration(three, [voter(4)], "joint_explicit").autoLeave);
  assert.ok(nextConfiguration(three, [voter(4)], "joint_auto").autoLeave);
  assert.equal(code(() => nextConfiguration(replace, [voter(5)], "auto")), "simple_while_joint");
});

const step = fc.record({
  type: fc.constantFrom("add_voter" as const, "add_learner" as const, "remove" as const),
  id: fc.integer({ min: 1, max: 7 }),
});

Deno.test("Steps taken one by one and in one joint change lead to the same configuration", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 9 }), (steps) => {
      let one: Configuration = configurationOf([1, 2]);
      const taken: ChangeStep[] = [];
      for (const each of steps) {
        // A refused step is no step; the joint change must not see it either.
        try {
          one = simpleChange(one, [each]);
          taken.push(each);
        } catch (error) {
          assert.equal((error as Fault).code, "no_voters_left");
        }
      }
      const joint = enterJoint(configurationOf([1, 2]), taken, false);
      assert.deepEqual(leaveJoint(joint), one);
      assert.deepEqual(decodeConfiguration(encodeConfiguration(joint)), joint);
    }),
    { numRuns: 2000 },
  );
});
