import assert from "node:assert/strict";
import { runHistory } from "./test_history.ts";

Deno.test("what clients of five members saw while members failed is linearizable, watched whole, and no lease early", async () => {
  const seed = 1;
  const { violations, operations, events, faults } = await runHistory({ seed, seconds: 15, operationsMin: 200 });
  const again = `deno task chainfire:history -- --seconds 15 --seed ${seed}`;
  assert.deepEqual(violations, [], again);
  assert.ok(operations > 100 && events > 10, `${operations} operations, ${events} events: ${again}`);
  assert.ok(Object.keys(faults).length > 0, again);
});
