import assert from "node:assert/strict";
import fc from "fast-check";
import { lost, missing, observe } from "./observe.ts";
import { type Candidate, place, refusals, sumOf } from "./placement.ts";
import type { Resources, Vm } from "./types.ts";

const mib = 1024 ** 2;

function candidate(
  name: string,
  o: Partial<Omit<Candidate["node"], "lostMs">> & { alive?: boolean; used?: Resources[] } = {},
): Candidate {
  const { alive, used, ...node } = o;
  return {
    name,
    alive: alive ?? true,
    allocated: sumOf(used ?? []),
    node: {
      agentUrl: "http://n:1",
      accelerator: "tcg",
      capacity: { vcpus: 4, memoryBytes: 1024 * mib, diskBytes: 1024 * mib, vmSlots: 4 },
      labels: {},
      cordoned: false,
      draining: "",
      agentVersion: "",
      registeredMs: 0,
      ...node,
    },
  };
}
const small: Resources = { vcpus: 1, memoryBytes: 256 * mib, diskBytes: 0 };
const wanted = { resources: small, nodeSelector: {} };

Deno.test("placement spreads by free memory, prefers hardware acceleration and breaks ties by name", () => {
  const pick = (...all: Candidate[]) => place(all, wanted).chosen?.name;
  assert.equal(pick(candidate("b"), candidate("a")), "a");
  assert.equal(pick(candidate("a", { used: [small] }), candidate("b")), "b");
  assert.equal(pick(candidate("a"), candidate("b", { accelerator: "kvm", used: [small, small] })), "b");
  assert.equal(pick(), undefined);
});

Deno.test("placement says of every worker that does not fit why not", () => {
  const full = { vcpus: 4, memoryBytes: 64 * mib, diskBytes: 0 };
  const all = [
    candidate("lost", { alive: false }),
    candidate("cordoned", { cordoned: true }),
    candidate("vcpus", { used: [full] }),
    candidate("memory", { used: [{ vcpus: 1, memoryBytes: 900 * mib, diskBytes: 0 }] }),
    candidate("slots", { capacity: { vcpus: 9, memoryBytes: 9e12, diskBytes: 0, vmSlots: 0 } }),
  ];
  assert.deepEqual(place(all, wanted).whyNot, {
    lost: "it is lost: no heartbeat",
    cordoned: "it is cordoned",
    vcpus: "1 vCPUs wanted, 0 free",
    memory: "256 MiB memory wanted, 124 MiB free",
    slots: "all its 0 VM slots are taken",
  });
});

Deno.test("the chosen worker always has room", () => {
  const resources = fc.record({
    vcpus: fc.integer({ min: 0, max: 5 }),
    memoryBytes: fc.integer({ min: 0, max: 1100 * mib }),
    diskBytes: fc.integer({ min: 0, max: 1100 * mib }),
  });
  fc.assert(fc.property(fc.array(fc.array(resources, { maxLength: 4 }), { maxLength: 5 }), resources, (used, ask) => {
    const all = used.map((u, i) => candidate(`n${i}`, { used: u }));
    const { chosen, whyNot } = place(all, { resources: ask, nodeSelector: {} });
    assert.equal(
      Object.keys(whyNot).length +
        all.filter((c) => refusals(c, { resources: ask, nodeSelector: {} }).length === 0).length,
      all.length,
    );
    if (!chosen) return;
    const sum = sumOf([...used[Number(chosen.name.slice(1))]!, ask]);
    for (const key of ["vcpus", "memoryBytes", "diskBytes", "vmSlots"] as const) {
      assert.ok(sum[key] <= chosen.node.capacity[key]);
    }
  }));
});

const vm: Vm = {
  ...small,
  flavor: "tiny",
  imageId: "img",
  imageSha256: "",
  imageFormat: "raw",
  imageBytes: 1,
  nicWishes: [],
  volumes: [],
  groupIds: [],
  nodeSelector: {},
  desired: "running",
  state: "running",
  reason: "",
  node: "n",
  accelerator: "tcg",
  nics: [],
  generation: 1,
  operation: "",
  restart: { policy: "never", cooldownMs: 1000, count: 0 },
  nodeLoss: "stay",
  deleteProtection: false,
  writerEpoch: 1,
  epochMax: 1,
  rootEpoch: 1,
};

Deno.test("observations change idle VMs of their own worker only", () => {
  const seen = { vmId: "vm", state: "stopped", reason: "" } as const;
  assert.deepEqual(observe(vm, "n", seen), { state: "stopped", reason: "the guest has shut down" });
  assert.equal(observe({ ...vm, desired: "stopped", state: "stopped" }, "n", seen), undefined);
  assert.equal(observe({ ...vm, operation: "op" }, "n", seen), undefined);
  assert.equal(observe({ ...vm, state: "deleting" }, "n", seen), undefined);
  assert.equal(observe(vm, "other", seen), undefined);
  assert.equal(observe(vm, "n", { vmId: "vm", state: "running", reason: "" }), undefined);
  assert.deepEqual(lost(vm), { state: "unknown", reason: "worker n is lost" });
  assert.equal(lost({ ...vm, state: "unknown" }), undefined);
  const gone = missing(vm, "n")!;
  assert.equal(gone.state, "failed");
  assert.equal(missing({ ...vm, ...gone }, "n"), undefined);
});
