import assert from "node:assert/strict";
import fc from "fast-check";
import { type Movable, spreadOf, suggestMoves } from "./moves.ts";
import { type Candidate, place, sumOf } from "./placement.ts";
import { dueRestart } from "./restart.ts";
import { expired, nextAfter, snapshotName } from "./schedules.ts";
import type { Vm } from "./types.ts";

const mib = 1024 ** 2;

function worker(name: string, labels: Record<string, string> = {}, usedMib = 0): Candidate {
  const used = [{ vcpus: 1, memoryBytes: usedMib * mib, diskBytes: 0 }];
  return {
    name,
    alive: true,
    allocated: sumOf(usedMib === 0 ? [] : used),
    node: {
      agentUrl: "http://n:1",
      accelerator: "tcg",
      capacity: { vcpus: 64, memoryBytes: 1024 * mib, diskBytes: 0, vmSlots: 64 },
      labels,
      cordoned: false,
      draining: "",
      agentVersion: "",
      registeredMs: 0,
    },
  };
}

Deno.test("members of a hard group never share a failure domain, whatever the workers are", () => {
  const racks = fc.array(fc.constantFrom("a", "b", "c", ""), { minLength: 1, maxLength: 6 });
  fc.assert(fc.property(racks, fc.integer({ min: 1, max: 8 }), (labels, vms) => {
    const all = labels.map((rack, i) => worker(`n${i}`, rack === "" ? {} : { rack }));
    const placed: string[] = [];
    for (let i = 0; i < vms; i++) {
      const group = { name: "g", strictness: "hard" as const, domainLabel: "rack", memberNodes: [...placed] };
      const resources = { vcpus: 1, memoryBytes: mib, diskBytes: 0 };
      const { chosen } = place(all, { resources, nodeSelector: {}, groups: [group] });
      if (chosen) placed.push(chosen.name);
    }
    const domains = placed.map((name) => all.find((c) => c.name === name)!.node.labels.rack ?? name);
    assert.equal(new Set(domains).size, domains.length);
    const possible = new Set(labels.map((rack, i) => rack || `n${i}`)).size;
    assert.equal(placed.length, Math.min(vms, possible));
  }));
});

Deno.test("suggested moves never make workers less equal, and end", () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 200 }), { maxLength: 12 });
  fc.assert(fc.property(sizes, fc.integer({ min: 1, max: 4 }), (mibs, workers) => {
    const vms = mibs.map((size, i): Movable => ({
      id: `vm${i}`,
      name: `vm${i}`,
      project: "acme/prod",
      node: `n${i * i % workers}`,
      resources: { vcpus: 1, memoryBytes: size * mib, diskBytes: 0 },
      nodeSelector: {},
      groups: [],
    }));
    const candidates = Array.from({ length: workers }, (_, i) => {
      const here = vms.filter((vm) => vm.node === `n${i}`).map((vm) => vm.resources);
      return { ...worker(`n${i}`), allocated: sumOf(here) };
    });
    const plan = suggestMoves(candidates, vms, 50);
    assert.equal(plan.spreadPercent, spreadOf(candidates));
    assert.ok(plan.spreadAfterPercent <= plan.spreadPercent);
    assert.equal(new Set(plan.moves.map((m) => m.vm.id)).size, plan.moves.length);
  }));
});

Deno.test("members of a group that share a worker are parted first", () => {
  const member = (id: string): Movable => ({
    id,
    name: id,
    project: "acme/prod",
    node: "n1",
    resources: { vcpus: 1, memoryBytes: mib, diskBytes: 0 },
    nodeSelector: {},
    groups: [{ name: "g", strictness: "soft", domainLabel: "", members: ["a", "b"] }],
  });
  const plan = suggestMoves([worker("n1", {}, 2), worker("n2")], [member("a"), member("b")], 10);
  assert.deepEqual(plan.moves.map((m) => [m.vm.id, m.target]), [["a", "n2"]]);
  assert.match(plan.moves[0]!.reason, /shares a worker with another VM of group g/);
});

Deno.test("a VM is restarted as its policy says, once its cool-down is over", () => {
  const vm = {
    operation: "",
    desired: "running",
    node: "n1",
    state: "failed",
    reason: "QEMU has died",
    restart: { policy: "on_failure", cooldownMs: 1000, count: 0 },
  } as Vm;
  assert.equal(dueRestart(vm, 0), "QEMU has died");
  const restarted = { ...vm, restart: { ...vm.restart, count: 1, lastMs: 500 } };
  assert.equal(dueRestart(restarted, 1499), undefined);
  assert.equal(dueRestart(restarted, 1500), "QEMU has died");
  assert.equal(dueRestart({ ...vm, state: "stopped" }, 0), undefined);
  assert.ok(dueRestart({ ...vm, state: "stopped", restart: { ...vm.restart, policy: "always" } }, 0));
  assert.equal(dueRestart({ ...vm, restart: { ...vm.restart, policy: "never" } }, 0), undefined);
  assert.equal(dueRestart({ ...vm, desired: "stopped" }, 0), undefined);
  assert.equal(dueRestart({ ...vm, operation: "op" }, 0), undefined);
  assert.equal(dueRestart({ ...vm, node: "" }, 0), undefined);
});

Deno.test("a schedule keeps its beat over an outage and names each instant once", () => {
  const schedule = { intervalMs: 100, nextMs: 1000 };
  assert.equal(nextAfter(schedule, 1000), 1100);
  assert.equal(nextAfter(schedule, 1050), 1100);
  assert.equal(nextAfter(schedule, 1990), 2000);
  assert.equal(snapshotName("nightly", 0), "nightly-19700101t000000000z");
  assert.equal(snapshotName(`${"x".repeat(39)}-y`, 0), `${"x".repeat(39)}-19700101t000000000z`);
});

Deno.test("the newest whole snapshots are kept, failed ones are not counted", () => {
  const snapshot = (createMs: number, state: "ready" | "failed" | "creating" = "ready") => ({
    createMs,
    value: { state },
  });
  const all = [snapshot(1), snapshot(5), snapshot(3), snapshot(4, "failed"), snapshot(6, "creating")];
  assert.deepEqual(expired(all, 2).map((s) => s.createMs), [1, 4]);
  assert.deepEqual(expired(all, 9).map((s) => s.createMs), [4]);
});
