import assert from "node:assert/strict";
import { RolloutState, SystemState } from "@ultracloud/proto/deployer/v1";
import { clusterOf, openWorld, system, until } from "./test_world.ts";

type World = Awaited<ReturnType<typeof openWorld>>;
const workers = ["worker1", "worker2", "worker3"];

/** A cluster whose agents have all reported, and that is applied. */
async function running(o: { target?: string; rollout?: Record<string, unknown> } = {}): Promise<World> {
  const world = await openWorld();
  const state = clusterOf(3, o.target);
  // Held until all have reported, so that the first batch can be a whole one.
  Object.assign(state.rollouts!.workers!, { ...o.rollout, paused: true });
  await world.apply(state);
  for (const name of workers) await world.report(name, SystemState.IDLE, "");
  delete state.rollouts!.workers!.paused;
  await world.apply(state);
  return world;
}

const offered = async (world: World) => {
  const names: string[] = [];
  for (const name of workers) {
    const { intentId } = await world.agents.getDesired({ node: name });
    if (intentId !== "") names.push(name);
  }
  return names;
};
const settle = () => new Promise((resolve) => setTimeout(resolve, 100));
const stateOf = async (world: World) => (await world.rollouts.getRollout({ rollout: "workers" })).state;

Deno.test("a change goes over the nodes one batch after the other, and the agent is told what the cache is", async () => {
  await using world = await running();
  for (const [i, name] of workers.entries()) {
    await until(async () => (await offered(world)).length === i + 1);
    await settle();
    assert.deepEqual(await offered(world), workers.slice(0, i + 1), "no more than one at a time");
    const desired = await world.agents.getDesired({ node: name });
    assert.equal(desired.system?.targetSystem, system("a"));
    assert.equal(desired.binaryCacheUrl, "http://127.0.0.1:8090");
    assert.equal(desired.trustedKeys.length, 1);
    await world.report(name, SystemState.VERIFYING, desired.intentId);
    await world.report(name, SystemState.ACTIVE, desired.intentId);
  }
  await until(async () => await stateOf(world) === RolloutState.DONE);
  const { nodes, batch } = await world.rollouts.getRollout({ rollout: "workers" });
  assert.deepEqual([batch, ...nodes.map(({ phase }) => phase)], [3, "active", "active", "active"]);
});

Deno.test("a generation that fails on one node is kept from its class until the intent changes", async () => {
  await using world = await running({ rollout: { batchSize: 2, maxUnavailable: 2, failuresMax: 5 } });
  await until(async () => (await offered(world)).length === 2);
  const { intentId } = await world.agents.getDesired({ node: "worker1" });
  await world.report("worker1", SystemState.ROLLED_BACK, intentId, "health check failed 3 times");
  // The other of the batch has not begun: it is told before it does.
  assert.match((await world.agents.getDesired({ node: "worker2" })).quarantineReason, /worker1: health check failed/);
  await settle();
  assert.deepEqual(await offered(world), ["worker1", "worker2"]);
  const { quarantines, nodes } = await world.rollouts.getRollout({ rollout: "workers" });
  assert.deepEqual([quarantines[0]!.class, quarantines[0]!.targetSystem], ["worker", system("a")]);
  assert.deepEqual(nodes.map(({ phase }) => phase), ["rolled-back", "quarantined", "quarantined"]);
  assert.match((await world.nodes.getNode({ node: "worker3" })).holdReason, /quarantined: it failed on worker1/);

  // Another intent for the same generation tries it again.
  const again = clusterOf(3);
  again.classes!.worker!.desired_system!.intent = "the disk was full, try again";
  await world.apply(again);
  await until(async () => (await world.rollouts.listRollouts({})).quarantines.length === 0);
  await until(async () => (await world.agents.getDesired({ node: "worker1" })).intentId !== intentId);
});

Deno.test("a failure halts a rollout; resume, pause and abort do what they say", async () => {
  await using world = await running();
  await until(async () => (await offered(world)).length === 1);
  const { intentId } = await world.agents.getDesired({ node: "worker1" });
  await world.report("worker1", SystemState.FAILED, intentId, "cache not reachable");
  await until(async () => await stateOf(world) === RolloutState.HALTED);
  // A node that failed counts as unavailable: going on needs it back.
  await world.rollouts.resumeRollout({ rollout: "workers" });
  assert.match((await world.rollouts.getRollout({ rollout: "workers" })).reason, /1 nodes are unavailable/);
  await world.rollouts.pauseRollout({ rollout: "workers" });
  await world.report("worker1", SystemState.ACTIVE, intentId);
  await settle();
  assert.deepEqual(await offered(world), ["worker1"]);
  await world.rollouts.resumeRollout({ rollout: "workers" });
  await until(async () => (await offered(world)).length === 2);
  await world.rollouts.abortRollout({ rollout: "workers" });
  await world.report("worker2", SystemState.ACTIVE, intentId);
  await settle();
  assert.deepEqual(await offered(world), ["worker1", "worker2"]);
  assert.equal(await stateOf(world), RolloutState.ABORTED);
  await assert.rejects(world.rollouts.resumeRollout({ rollout: "workers" }), { code: "rollout_aborted" });
  await assert.rejects(world.rollouts.pauseRollout({ rollout: "none" }), { code: "rollout_not_found" });
  // What was aborted was that change, not every later one.
  await world.apply(clusterOf(3, system("b")));
  await until(async () => (await offered(world)).length === 2 && await stateOf(world) === RolloutState.RUNNING);
});

Deno.test("an apply tells what it changes, changes nothing when dry, and knows when it comes too late", async () => {
  await using world = await openWorld();
  const dry = await world.apply(clusterOf(2), true);
  assert.deepEqual([dry.applied, dry.revision, dry.affectedNodes], [false, 0n, ["worker1", "worker2"]]);
  assert.equal((await world.deployer.getClusterState({})).stateJson, "");
  assert.equal((await world.apply(clusterOf(2))).revision, 1n);
  const same = await world.apply(clusterOf(2));
  assert.deepEqual([same.applied, same.revision, same.changes], [false, 1n, []]);
  const next = await world.apply(clusterOf(2, system("b")));
  assert.deepEqual(next.changes.map(({ path, beforeJson, afterJson }) => [path, beforeJson, afterJson]), [
    ["classes.worker.desired_system.target_system", JSON.stringify(system("a")), JSON.stringify(system("b"))],
  ]);
  const stateJson = JSON.stringify(clusterOf(2));
  await assert.rejects(world.deployer.applyClusterState({ stateJson, expectedRevision: 1n }), {
    code: "revision_mismatch",
  });
  await assert.rejects(world.deployer.applyClusterState({ stateJson: '{"version":1}' }), { code: "cluster_invalid" });
  await assert.rejects(
    world.deployer.applyClusterState({ stateJson: JSON.stringify({ ...clusterOf(1), clusterId: "other" }) }),
    { kind: "invalid_argument" },
  );
  // Larger than one row of the store.
  const large = clusterOf(1);
  large.classes!.worker!.labels = {};
  large.config = { chainfire: { text: "x".repeat(600 * 1024) } };
  await world.apply(large);
  assert.equal((await world.deployer.getClusterState({})).stateJson.length > 600 * 1024, true);
});

Deno.test("a writer that was replaced commits nothing any more, and sends callers to the new one", async () => {
  await using first = await openWorld({ instance: "first" });
  await first.apply(clusterOf(1));
  await using second = await openWorld({ kv: first.kv, clock: first.clock, instance: "second", lead: false });
  assert.equal((await second.deployer.getStatus({})).writer?.instance, "first");
  await assert.rejects(
    second.nodes.preRegister({ node: "worker1" }),
    (error: { code: string; message: string }) => error.code === "not_leader" && /first writes/.test(error.message),
  );
  assert.equal((await second.phoneHome("SN-1", "ucb_x")).status, 503);
  assert.equal((await second.nodes.getNode({ node: "worker1" })).role, "worker", "a standby answers reads");

  // The first is not told: it believes that it still writes, as after a pause.
  await second.lead();
  assert.equal((await second.deployer.getStatus({})).writer?.epoch, 2n);
  await assert.rejects(first.nodes.preRegister({ node: "worker1" }), { code: "not_leader" });
  await assert.rejects(first.apply(clusterOf(2)), { code: "not_leader" });
  await assert.rejects(first.deployer.putBundle({ content: new Uint8Array([1]) }), { code: "not_leader" });
  assert.equal((await first.phoneHome("SN-1", "ucb_x")).status, 503);
  assert.equal((await second.nodes.preRegister({ node: "worker1" })).created, true);
});

Deno.test("an export put into an empty deployer gives the same nodes, tokens and revision", async () => {
  await using world = await openWorld();
  await world.apply(clusterOf(2));
  await world.apply(clusterOf(2, system("b")));
  const { token } = await world.nodes.preRegister({ node: "worker1", serial: "SN-1" });
  const used = await world.nodes.preRegister({ node: "worker2" });
  await world.phoneHome("SN-2", used.token);
  const { exportJson } = await world.deployer.export({});
  for (const secret of [token, used.token]) assert.equal(exportJson.includes(secret), false);

  await using fresh = await openWorld();
  const { nodesCount, clusterRevision } = await fresh.deployer.restore({ exportJson });
  assert.deepEqual([nodesCount, clusterRevision], [2, 2n]);
  assert.equal((await fresh.phoneHome("SN-1", token)).body.node, "worker1");
  assert.equal((await fresh.phoneHome("SN-9", used.token)).body.code, "token_used");
  assert.equal((await fresh.phoneHome("SN-2", used.token)).body.again, true);
  await assert.rejects(fresh.deployer.restore({ exportJson }), { code: "restore_over_records" });
  assert.equal((await fresh.deployer.restore({ exportJson, overwrite: true })).nodesCount, 2);
  await assert.rejects(fresh.deployer.restore({ exportJson: "{}" }), { code: "export_invalid" });
});
