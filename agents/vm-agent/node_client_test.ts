import assert from "node:assert/strict";
import { type Clock, seededRng, systemClock } from "@ultracloud/base";
import { Health, noopLogger } from "@ultracloud/observe";
import { VmState } from "@ultracloud/proto/plasmavmc/v1";
import { keepRegistered, type NodeDescription, type NodeLoopDeps } from "./node_client.ts";

const node: NodeDescription = {
  name: "node04",
  agentUrl: "http://127.0.0.1:7141",
  accelerator: "tcg",
  capacity: { vcpus: 8, memoryBytes: 1000, diskBytes: 2000, vmSlots: 32 },
  labels: { rack: "a" },
  version: "0.1.0",
};

/** Runs the loop against answers given in order; ends it after the last. */
async function play(answers: readonly ("ok" | "reregister" | "away")[]) {
  const stop = new AbortController();
  const trace: string[] = [];
  const health = new Health();
  const clock: Clock = {
    ...systemClock,
    sleep: (ms) => {
      trace.push(`sleep ${ms > 1_000 ? ms : "briefly"} ${health.snapshot().state}`);
      return Promise.resolve();
    },
  };
  let at = 0;
  const next = (call: string) => {
    const answer = answers[at++];
    trace.push(call);
    if (at >= answers.length) stop.abort();
    if (answer === "away") throw new Error("connection refused");
    return Promise.resolve({ leaseTtlMs: 9_000n, reregister: answer === "reregister" });
  };
  const registered: unknown[] = [];
  const nodes = {
    registerNode(request: { node?: unknown }) {
      registered.push(request.node);
      return next("register");
    },
    heartbeat(request: { vms?: readonly { state?: VmState; reason?: string }[] }) {
      return next(`heartbeat ${request.vms?.map((vm) => `${VmState[vm.state ?? 0]} ${vm.reason}`)}`);
    },
  } as unknown as NodeLoopDeps["nodes"];
  await keepRegistered(node, {
    nodes,
    views: () => [{
      ...{ vmId: "vm_1", state: "failed", reason: "died", startedAtMs: undefined, generation: 1, pid: 0 },
      ...{ writerEpoch: 1, rootEpoch: 0, layout: undefined, migrationId: "" },
    }],
    lease: { renewed: () => Promise.resolve() },
    clock,
    rng: seededRng(1),
    log: noopLogger,
    health,
    signal: stop.signal,
  });
  return { trace, registered };
}

Deno.test("keepRegistered() registers, reports its VMs at once and then at a third of the lease", async () => {
  const { trace, registered } = await play(["ok", "ok", "ok"]);
  assert.deepEqual(trace, [
    "register",
    "heartbeat FAILED died",
    "sleep 3000 ready",
    "heartbeat FAILED died",
    "sleep 3000 ready",
  ]);
  assert.deepEqual(registered, [{
    name: "node04",
    agentUrl: "http://127.0.0.1:7141",
    hypervisorType: 1,
    accelerator: "tcg",
    capacity: { vcpus: 8, memoryBytes: 1000n, diskBytes: 2000n, vmSlots: 32 },
    labels: { rack: "a", accelerator: "tcg" },
    agentVersion: "0.1.0",
  }]);
});

Deno.test("keepRegistered() registers again when told and keeps trying while plasmavmc is away", async () => {
  const { trace } = await play(["away", "away", "ok", "reregister", "ok", "away", "ok"]);
  assert.deepEqual(trace, [
    "register",
    "sleep briefly starting",
    "register",
    "sleep briefly starting",
    "register",
    "heartbeat FAILED died",
    "register",
    "heartbeat FAILED died",
    "sleep briefly degraded",
    "heartbeat FAILED died",
    "sleep 3000 ready",
  ]);
});
