import assert from "node:assert/strict";
import { bootstrapBatch, configurationOf, decodeConfiguration, encodeConfiguration } from "./configuration.ts";

Deno.test("A configuration survives its encoding", () => {
  const configuration = {
    voters: [1, 2, 9007199254740991],
    votersOutgoing: [3, 4],
    learners: [5],
    learnersNext: [4],
    autoLeave: true,
  };
  assert.deepEqual(decodeConfiguration(encodeConfiguration(configuration)), configuration);
});

Deno.test("decodeConfiguration() refuses bytes that are not a configuration", () => {
  const bytes = encodeConfiguration(configurationOf([1, 2, 3]));
  assert.throws(() => decodeConfiguration(bytes.subarray(0, bytes.length - 1)), /ends inside a list/);
  assert.throws(() => decodeConfiguration(new Uint8Array([...bytes, 0])), /after its last list/);
  assert.throws(() => decodeConfiguration(new Uint8Array([9, ...bytes.subarray(1)])), /format 9/);
});

Deno.test("A configuration names each replica once and in one part", () => {
  assert.throws(() => configurationOf([1, 1]), /distinct/);
  assert.throws(() => encodeConfiguration({ ...configurationOf([1]), learners: [1] }), /voter and learner/);
  assert.deepEqual(configurationOf([3, 1, 2]).voters, [1, 2, 3]);
});

Deno.test("Every founding replica starts from the same committed entry", () => {
  assert.deepEqual(bootstrapBatch([2, 1]), bootstrapBatch([1, 2]));
  assert.equal(bootstrapBatch([1]).hardState.commit, 1);
});
