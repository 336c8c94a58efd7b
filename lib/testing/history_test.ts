import assert from "node:assert/strict";
import fc from "fast-check";
import { checkLinearizable, type RegisterAction, type RegisterOperation } from "./history.ts";

const op = (action: RegisterAction, invokedAt: number, returnedAt: number): RegisterOperation => ({
  key: "x",
  action,
  invokedAt,
  returnedAt,
});
const write = (value: number): RegisterAction => ({ kind: "write", value });
const read = (value: number): RegisterAction => ({ kind: "read", value });
const cas = (expected: number, value: number, swapped = true): RegisterAction => ({
  kind: "cas",
  expected,
  value,
  swapped,
});

Deno.test("checkLinearizable() refuses a read of an overwritten value", () => {
  assert.deepEqual(checkLinearizable([op(write(1), 0, 1), op(write(2), 2, 3), op(read(1), 4, 5)]), ["x"]);
  assert.deepEqual(checkLinearizable([op(write(1), 0, 1), op(write(2), 2, 4), op(read(1), 3, 5)]), []);
});

Deno.test("checkLinearizable() lets an operation of unknown outcome happen late, early or never", () => {
  assert.deepEqual(checkLinearizable([op(write(1), 0, Infinity), op(read(0), 1, 2), op(read(1), 3, 4)]), []);
  assert.deepEqual(checkLinearizable([op(write(1), 0, Infinity), op(read(0), 1, 2)]), []);
  assert.deepEqual(
    checkLinearizable([op(write(1), 0, Infinity), op(read(1), 1, 2), op(read(0), 3, 4)]),
    ["x"],
  );
});

Deno.test("checkLinearizable() holds a compare-and-swap to its answer", () => {
  assert.deepEqual(checkLinearizable([op(write(1), 0, 1), op(cas(1, 2), 2, 3), op(read(2), 4, 5)]), []);
  assert.deepEqual(checkLinearizable([op(write(1), 0, 1), op(cas(3, 2), 2, 3)]), ["x"]);
  assert.deepEqual(checkLinearizable([op(write(1), 0, 1), op(cas(1, 2, false), 2, 3)]), ["x"]);
});

Deno.test("checkLinearizable() agrees with trying every order of short histories", () => {
  const action = fc.oneof(
    fc.record({ kind: fc.constant("write" as const), value: fc.integer({ min: 0, max: 2 }) }),
    fc.record({ kind: fc.constant("read" as const), value: fc.integer({ min: 0, max: 2 }) }),
    fc.record({
      kind: fc.constant("cas" as const),
      expected: fc.integer({ min: 0, max: 2 }),
      value: fc.integer({ min: 0, max: 2 }),
      swapped: fc.boolean(),
    }),
  );
  const operation = fc.tuple(action, fc.integer({ min: 0, max: 9 }), fc.integer({ min: 1, max: 6 }), fc.boolean())
    .map(([a, from, span, open]) => op(a, from, open && a.kind !== "read" ? Infinity : from + span));
  fc.assert(
    fc.property(fc.array(operation, { minLength: 1, maxLength: 6 }), (history) => {
      assert.equal(checkLinearizable(history).length === 0, bruteForce(history, 0));
    }),
    { numRuns: 2000 },
  );
});

function bruteForce(left: readonly RegisterOperation[], value: number): boolean {
  if (left.every(({ returnedAt }) => returnedAt === Infinity)) return true;
  const firstReturn = Math.min(...left.map(({ returnedAt }) => returnedAt));
  return left.some((next, i) => {
    if (next.invokedAt > firstReturn) return false;
    const { action } = next;
    let after = value;
    if (action.kind === "write") after = action.value;
    else if (action.kind === "read") {
      if (action.value !== value) return false;
    } else {
      if (next.returnedAt !== Infinity && (action.expected === value) !== action.swapped) return false;
      if (action.expected === value) after = action.value;
    }
    return bruteForce(left.filter((_, j) => j !== i), after);
  });
}
