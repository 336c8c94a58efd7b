import assert from "node:assert/strict";
import fc from "fast-check";
import { seededRng, uniform } from "@ultracloud/base";
import { hardHistory, hardnessOf } from "./_hard_histories.ts";
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
  const value = fc.integer({ min: 0, max: 2 });
  const action = fc.oneof(
    fc.record({ kind: fc.constant("write" as const), value }),
    fc.record({ kind: fc.constant("read" as const), value }),
    fc.record({ kind: fc.constant("cas" as const), expected: value, value, swapped: fc.boolean() }),
  );
  const operation = fc.tuple(action, fc.integer({ min: 0, max: 12 }), fc.integer({ min: 1, max: 8 }), fc.boolean())
    .map(([a, from, span, open]) => op(a, from, open && a.kind !== "read" ? Infinity : from + span));
  let linearizable = 0;
  fc.assert(
    fc.property(fc.array(operation, { minLength: 1, maxLength: 9 }), (history) => {
      const found = checkLinearizable(history).length === 0;
      assert.equal(found, everyOrder(history));
      if (found) linearizable++;
    }),
    { numRuns: 5000 },
  );
  assert.ok(linearizable > 100 && linearizable < 4900, `Only one verdict was tried: ${linearizable}`);
});

Deno.test("checkLinearizable() agrees with trying every order of what clients saw, however many wait at a time", () => {
  const verdicts = { linearizable: 0, not: 0 };
  for (let seed = 0; seed < 2_000; seed++) {
    const hard = { ...hardnessOf(seed), operations: 5 + seed % 9, clients: 2 + seed % 5, values: 2 + seed % 4 };
    const history = hardHistory(seededRng(seed), hard);
    const expected = everyOrder(history);
    // Compares that may fail at any time change nothing, but for how many operations are open.
    const crowd = Array.from({ length: 40 }, () => op(cas(99, 98, false), -1, 1_000_000));
    assert.equal(checkLinearizable(history).length === 0, expected, `seed ${seed}`);
    if (seed % 4 === 0) assert.equal(checkLinearizable([...crowd, ...history]).length === 0, expected, `seed ${seed}`);
    verdicts[expected ? "linearizable" : "not"]++;
  }
  assert.ok(
    verdicts.linearizable > 300 && verdicts.not > 300,
    `Only one verdict was tried: ${JSON.stringify(verdicts)}`,
  );
});

Deno.test("checkLinearizable() decides 200 operations of which most are open", () => {
  for (let seed = 0; seed < 24; seed++) {
    const { history, end } = register(seed, 200, [5, 8, 16][seed % 3]!, [10, 50, 90][seed % 4 % 3]!);
    assert.deepEqual(checkLinearizable(history), [], `seed ${seed}`);
    // 1000 is written and overwritten behind all that, so that no open operation can have written it.
    const spoiled = [op(write(1000), end, end + 1), op(write(1), end + 2, end + 3), op(read(1000), end + 4, end + 5)];
    assert.deepEqual(checkLinearizable([...history, ...spoiled]), ["x"], `seed ${seed}`);
  }
});

Deno.test("checkLinearizable() uses each operation of unknown outcome once", () => {
  for (const reads of [7, 8, 9]) {
    const history = Array.from({ length: 8 }, (_, i) => op(i < 4 ? write(5) : cas(3, 5), i, Infinity));
    for (let i = 0; i < 150; i++) history.push(op(write(10 + i % 3), 10 + i, Infinity));
    for (let i = 0; i < reads; i++) {
      const at = 200 + 10 * i;
      history.push(op(write(3), at, at + 1), op(read(3), at + 2, at + 3), op(read(5), at + 4, at + 5));
    }
    assert.deepEqual(checkLinearizable(history), reads > 8 ? ["x"] : [], `${reads} reads`);
  }
});

/** Which sets of operations can have been taken, and what the register is then, each by trying all. */
function everyOrder(history: readonly RegisterOperation[]): boolean {
  const seen = new Set<string>();
  const open: [taken: number, value: number][] = [[0, 0]];
  for (const [taken, value] of open) {
    const left = history.filter((_, i) => (taken & (1 << i)) === 0);
    if (left.every(({ returnedAt }) => returnedAt === Infinity)) return true;
    const firstReturn = Math.min(...left.map(({ returnedAt }) => returnedAt));
    history.forEach(({ action, invokedAt, returnedAt }, i) => {
      if ((taken & (1 << i)) !== 0 || invokedAt > firstReturn) return;
      let after = value;
      if (action.kind === "write") after = action.value;
      else if (action.kind === "read") {
        if (action.value !== value) return;
      } else {
        if (returnedAt !== Infinity && (action.expected === value) !== action.swapped) return;
        if (action.expected === value) after = action.value;
      }
      const key = `${taken | (1 << i)} ${after}`;
      if (!seen.has(key)) open.push([taken | (1 << i), after]);
      seen.add(key);
    });
  }
  return false;
}

/** What clients of a real register would see, of whom some never hear back; their operations happen late or never. */
function register(seed: number, count: number, clients: number, openPercent: number) {
  const rng = seededRng(seed);
  const history: RegisterOperation[] = [];
  const late: RegisterAction[] = [];
  const running: ({ action: RegisterAction; invokedAt: number; done: boolean } | undefined)[] = Array(clients).fill(
    undefined,
  );
  let value = 0, at = 0, made = 0;
  const perform = (action: RegisterAction): RegisterAction => {
    if (action.kind === "read") return read(value);
    const swapped = action.kind === "write" || action.expected === value;
    if (swapped) value = action.value;
    return action.kind === "write" ? action : { ...action, swapped };
  };
  while (made < count || running.some((one) => one)) {
    at++;
    if (late.length > 0 && uniform(rng, 10) === 0) perform(late.splice(uniform(rng, late.length), 1)[0]!);
    const client = uniform(rng, clients);
    const one = running[client];
    if (!one && made < count) {
      made++;
      const kind = uniform(rng, 3);
      const action = kind === 0
        ? read(0)
        : kind === 1
        ? write(1 + uniform(rng, 5))
        : cas(uniform(rng, 6), uniform(rng, 6));
      if (kind !== 0 && uniform(rng, 100) < openPercent) {
        history.push(op(action, at, Infinity));
        if (uniform(rng, 2) === 0) late.push(action);
      } else running[client] = { action, invokedAt: at, done: false };
    } else if (one && !one.done) running[client] = { ...one, action: perform(one.action), done: true };
    else if (one) {
      history.push(op(one.action, one.invokedAt, at));
      running[client] = undefined;
    }
  }
  return { history, end: at + 1 };
}
