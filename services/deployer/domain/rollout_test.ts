import assert from "node:assert/strict";
import fc from "fast-check";
import { decide, type RolloutMember, type RolloutOrders, type RolloutSpec } from "./rollout.ts";

const spec: RolloutSpec = { batchSize: 2, maxUnavailable: 2, healthyMsMin: 100, failuresMax: 0, paused: false };
const orders: RolloutOrders = { paused: false, aborted: false, failuresAccepted: 0 };
const member = (name: string, change: Partial<RolloutMember> = {}): RolloutMember => ({
  name,
  pool: undefined,
  desiredIntent: "new",
  offeredIntent: "old",
  observed: { intent: "old", state: "active", sinceMs: 0 },
  reachable: true,
  quarantined: false,
  ...change,
});
const done = (sinceMs: number): Partial<RolloutMember> => ({
  offeredIntent: "new",
  observed: { intent: "new", state: "active", sinceMs },
});
const none = new Map<string, number>();
const four = [member("a"), member("b"), member("c"), member("d")];

Deno.test("batches follow each other: the next begins once the one before is active for long enough", () => {
  assert.deepEqual(decide(spec, orders, four, none, 1_000).offer, ["a", "b"]);
  const under = [member("a", { offeredIntent: "new" }), member("b", done(900)), member("c"), member("d")];
  assert.deepEqual(decide(spec, orders, under, none, 5_000).offer, []);
  const fresh = [member("a", done(950)), member("b", done(900)), member("c"), member("d")];
  assert.match(decide(spec, orders, fresh, none, 1_000).reason, /healthy for long enough/);
  assert.deepEqual(decide(spec, orders, fresh, none, 1_050).offer, ["c", "d"]);
  const all = ["a", "b", "c", "d"].map((name) => member(name, done(0)));
  assert.equal(decide(spec, orders, all, none, 1_000).state, "done");
});

Deno.test("a rollout stops by itself on a failure, and goes on when somebody has looked", () => {
  const failed = member("a", { offeredIntent: "new", observed: { intent: "new", state: "rolled-back", sinceMs: 0 } });
  const members = [failed, member("b"), member("c"), member("d")];
  const halted = decide(spec, orders, members, none, 1_000);
  assert.deepEqual([halted.state, halted.offer], ["halted", []]);
  assert.deepEqual(decide(spec, { ...orders, failuresAccepted: 1 }, members, none, 1_000).offer, ["b", "c"]);
  assert.deepEqual(decide({ ...spec, failuresMax: 1 }, orders, members, none, 1_000).offer, ["b", "c"]);
});

Deno.test("pause, abort, quarantine, silence and pools hold nodes back, each with its reason", () => {
  const hold = (o: Partial<RolloutOrders>, members = four, s = spec, ready = none) => {
    const { state, reason, offer } = decide(s, { ...orders, ...o }, members, ready, 1_000);
    assert.deepEqual(offer, []);
    return `${state}: ${reason}`;
  };
  assert.match(hold({ paused: true }), /^paused: by an operator/);
  assert.match(hold({}, four, { ...spec, paused: true }), /^paused: the cluster state/);
  assert.match(hold({ aborted: true }), /^aborted: .* 0 of 4/);
  assert.match(hold({}, four.map((m) => ({ ...m, quarantined: true }))), /4 nodes are not active/);
  assert.match(hold({}, four.map((m) => ({ ...m, reachable: false }))), /a is silent; 4 nodes are unavailable/);
  assert.match(hold({}, [member("a", { observed: undefined })]), /a has never reported/);
  const pooled = four.map((m) => ({ ...m, pool: "p" }));
  assert.match(hold({}, pooled, spec, new Map([["p", 4]])), /pool p would go below 4/);
  assert.deepEqual(decide(spec, orders, pooled, new Map([["p", 3]]), 1_000).offer, ["a"]);
  const oneSilent = [member("a", { reachable: false }), member("b"), member("c")];
  assert.deepEqual(decide(spec, orders, oneSilent, none, 1_000).offer, ["b"]);
});

Deno.test("a node that failed is offered the next intent first: it may be what repairs it", () => {
  const failed = member("b", { observed: { intent: "old", state: "failed", sinceMs: 0 } });
  const one = { ...spec, batchSize: 1, maxUnavailable: 1 };
  assert.deepEqual(decide(one, orders, [member("a"), failed, member("c")], none, 1_000).offer, ["b"]);
  assert.deepEqual(decide({ ...one, batchSize: 2 }, orders, [member("a"), failed], none, 1_000).offer, ["b"]);
});

Deno.test("whatever happens, no more nodes are in change, failed or silent than may be, and no batch is larger", () => {
  const states = fc.constantFrom("idle", "active", "rolled-back", "failed", "verifying");
  const arbitrary = fc.record({
    name: fc.constant(""),
    pool: fc.constantFrom("p", "q", undefined),
    desiredIntent: fc.constantFrom("new", undefined),
    offeredIntent: fc.constantFrom("old", "new"),
    observed: fc.option(fc.record({ intent: fc.constantFrom("old", "new"), state: states, sinceMs: fc.nat(2_000) }), {
      nil: undefined,
    }),
    reachable: fc.boolean(),
    quarantined: fc.boolean(),
  });
  fc.assert(fc.property(
    fc.array(arbitrary, { maxLength: 12 }),
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 1, max: 5 }),
    fc.nat(3),
    (raw, batchSize, maxUnavailable, ready) => {
      const members = raw.map((m, i) => ({ ...m, name: `n${i}` }));
      const readyMin = new Map([["p", ready]]);
      const { offer } = decide({ ...spec, batchSize, maxUnavailable }, orders, members, readyMin, 1_000);
      if (offer.length === 0) return;
      assert.ok(offer.length <= batchSize);
      const chosen = new Set(offer);
      const down = members.filter((m) => m.observed && (!m.reachable || m.observed.state === "failed"));
      const others = offer.filter((name) => !down.some((m) => m.name === name));
      if (others.length > 0) assert.ok(down.length + others.length <= maxUnavailable);
      assert.ok(members.every((m) => !chosen.has(m.name) || (m.observed && m.reachable)));
      const up = members.filter((m) => m.pool === "p" && m.observed && !down.includes(m) && !chosen.has(m.name));
      if (members.some((m) => m.pool === "p" && others.includes(m.name))) assert.ok(up.length >= ready);
      for (const m of members) if (chosen.has(m.name)) assert.ok(!m.quarantined && m.desiredIntent !== undefined);
    },
  ));
});
