import assert from "node:assert/strict";
import type { RaftCore } from "../core/raft.ts";
import { ReadLease } from "./lease.ts";

const leader = { role: "leader", term: 2, configurationIndex: 1, transferOffered: false };
const as = (core: typeof leader) => core as unknown as RaftCore;

function lease() {
  const now = { ms: 1000 };
  return { now, lease: new ReadLease({ tickMs: 10, driftMax: 0.1 }, 11, () => now.ms) };
}

Deno.test("A lease counts from before the heartbeat left, and is shortened by what clocks may differ", () => {
  const { now, lease: held } = lease();
  assert.equal(held.holds(as(leader)), false);
  const start = held.begin(as(leader));
  now.ms += 50;
  held.extend(start, as(leader));
  assert.equal(held.holds(as(leader)), true);
  now.ms = 1000 + 89;
  assert.equal(held.holds(as(leader)), true);
  now.ms = 1000 + 90;
  assert.equal(held.holds(as(leader)), false);
});

Deno.test("A process that was stopped finds its lease over", () => {
  const { now, lease: held } = lease();
  held.extend(held.begin(as(leader)), as(leader));
  now.ms += 60_000;
  assert.equal(held.holds(as(leader)), false);
});

Deno.test("A lease ends with term, leadership, members, and the offer of leadership to another", () => {
  const { lease: held } = lease();
  held.extend(held.begin(as(leader)), as(leader));
  assert.equal(held.holds(as(leader)), true);
  assert.equal(held.holds(as({ ...leader, term: 3 })), false);
  assert.equal(held.holds(as({ ...leader, role: "follower" })), false);
  assert.equal(held.holds(as({ ...leader, configurationIndex: 5 })), false);
  assert.equal(held.holds(as({ ...leader, transferOffered: true })), false);
});

Deno.test("A round that began under another term, role or membership extends nothing", () => {
  const { lease: held } = lease();
  held.extend(held.begin(as({ ...leader, term: 1 })), as(leader));
  held.extend(held.begin(as({ ...leader, role: "follower" })), as(leader));
  held.extend(held.begin(as({ ...leader, configurationIndex: 0 })), as(leader));
  assert.equal(held.holds(as(leader)), false);
});
