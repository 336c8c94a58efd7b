import assert from "node:assert/strict";
import { Slots } from "./slots.ts";

const never = new AbortController().signal;

/** Work that goes on until it is told to end. */
function work() {
  const { promise, resolve } = Promise.withResolvers<void>();
  const state = { began: false, end: resolve };
  return { state, run: () => ((state.began = true), promise) };
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 0));

Deno.test("slots are given in order, within both bounds; a full key holds up no other", async () => {
  const slots = new Slots({ totalMax: 3, perKeyMax: 2 });
  const all = ["a", "a", "a", "b", "b"].map((key) => ({ key, ...work() }));
  const runs = all.map(({ key, run }) => slots.run(key, never, run));
  const began = () => all.map(({ state }) => Number(state.began)).join("");
  await settled();
  assert.equal(began(), "11010");
  all[3]!.state.end();
  await runs[3];
  await settled();
  assert.equal(began(), "11011");
  all[0]!.state.end();
  await runs[0];
  await settled();
  assert.equal(began(), "11111");
  for (const { state } of all) state.end();
  await Promise.all(runs);
});

Deno.test("whoever leaves the queue takes no slot, and work that fails gives its slot back", async () => {
  const slots = new Slots({ totalMax: 1, perKeyMax: 1 });
  const first = work();
  const running = slots.run("a", never, first.run);
  const leaves = new AbortController();
  const left = slots.run("b", leaves.signal, () => Promise.reject(new Error("ran")));
  leaves.abort(new Error("left"));
  await assert.rejects(left, /left/);
  await assert.rejects(slots.run("b", leaves.signal, () => Promise.resolve()), /left/);
  first.state.end();
  await running;
  await assert.rejects(slots.run("a", never, () => Promise.reject(new Error("broken"))), /broken/);
  assert.equal(await slots.run("a", never, () => Promise.resolve(7)), 7);
});
