import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { guardOf, WorkerLease } from "./lease.ts";

Deno.test("WorkerLease ends before the control plane may grant it again, also for the next agent", async () => {
  const dir = await Deno.makeTempDir();
  try {
    let monotonic = 1_000;
    let wall = 50_000;
    const clock = { ...systemClock, monotonicMs: () => monotonic, nowMs: () => wall };
    const lease = new WorkerLease({ stateDir: dir }, { clock });
    assert.equal(lease.held, true, "a worker that never had one has nothing to lose");
    await lease.renewed(900, 9_000);
    assert.equal(lease.fenceAtMs, 900 + 9_000 - guardOf(9_000));
    monotonic = 900 + 9_000 - guardOf(9_000);
    assert.equal(lease.held, false);
    await lease.renewed(monotonic, 9_000);
    assert.equal(lease.held, true);
    // An answer that comes late renews from when it was asked for.
    await lease.renewed(2_000, 9_000);
    assert.equal(lease.fenceAtMs, monotonic + 9_000 - guardOf(9_000));

    monotonic = 7;
    wall += 5_000;
    const next = new WorkerLease({ stateDir: dir }, { clock });
    await next.restore();
    assert.equal(next.fenceAtMs, 7 + 4_000 - guardOf(9_000));
    wall -= 3_600_000;
    const setBack = new WorkerLease({ stateDir: dir }, { clock });
    await setBack.restore();
    assert.ok(setBack.fenceAtMs! <= 7 + 9_000, "a clock set back does not prolong it");
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("WorkerLease takes answers that come at once, and keeps the end of the last", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const clock = { ...systemClock, monotonicMs: () => 1_000, nowMs: () => 50_000 };
    const lease = new WorkerLease({ stateDir: dir }, { clock });
    await Promise.all([1_000, 2_000, 3_000, 4_000].map((sentAtMs) => lease.renewed(sentAtMs, 9_000)));
    assert.deepEqual(JSON.parse(await Deno.readTextFile(`${dir}/lease.json`)), { endAtMs: 62_000, ttlMs: 9_000 });
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("guardOf() leaves time for heartbeats within a lease of any length plasmavmc grants", () => {
  for (const ttlMs of [600, 1_000, 3_000, 10_000, 60_000, 3_600_000]) {
    assert.ok(guardOf(ttlMs) >= 250 && guardOf(ttlMs) <= 5_000 && ttlMs / 3 + guardOf(ttlMs) < ttlMs);
  }
  assert.throws(() => guardOf(300), /leaves time for a heartbeat/);
});
