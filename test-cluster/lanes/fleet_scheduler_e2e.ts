import assert from "node:assert/strict";
import { OperationService, OperationState } from "@ultracloud/proto/common/v1";
import { NodeState, UpdatePhase } from "@ultracloud/proto/fleetscheduler/v1";
import { Fleet, summary } from "../harness/fleet.ts";
import type { Lane, LaneRun } from "../harness/lane.ts";
import { waitFor } from "../harness/wait.ts";

const workers = ["node04", "node05"] as const;
const [first, second] = workers;

/** deployer's and node-agent's neighbour alone: what runs on the hosts, placed, changed, moved and lost. */
export const fleetSchedulerE2e: Lane = {
  name: "fleet-scheduler-e2e",
  summary: "services of the hosts: placed, changed, rolled back, drained, lost and returned; never one twice",
  profile: "rollout",
  async run(run) {
    const fleet = new Fleet(run);
    await Deno.mkdir(fleet.dir, { recursive: true });
    await placement(run, fleet);
    await changes(run, fleet);
    await drain(run, fleet);
    await agentDeath(run, fleet);
    await schedulerDeath(run, fleet);
    await cutOff(run, fleet);
    await workerLoss(run, fleet);
    await run.check("the service that must not run twice never did", async () => {
      const { instances, beats, longestGap } = await fleet.neverTwice("solo");
      run.facts.soloInstances = instances;
      run.facts.soloLongestGapSeconds = longestGap;
      assert.ok(instances >= 3, `only ${instances} instances: it did not move`);
      return `${instances} instances one after the other, ${beats} beats, longest silence ${longestGap} s`;
    });
  },
};

/** Two replicas that keep apart, and one that must not run twice. */
export async function placement(run: LaneRun, fleet: Fleet): Promise<void> {
  await run.check("both workers register", async () => {
    for (const worker of workers) await fleet.nodeIs(worker, NodeState.ACTIVE);
    await run.evidence("nodes.json", (await fleet.nodes.listNodes({})).nodes);
    return workers.join(" and ");
  });
  await run.check(
    "replicas spread over the workers; a third that must keep apart says why it has no place",
    async () => {
      const apart = { pools: ["native"], affinity: [{ service: "web", rule: "forbid" }] };
      await fleet.apply("web", fleet.beating("web", { ...apart, replicas: 3 }));
      await fleet.settled("web", workers);
      const why = await fleet.services.explainPlacement({ name: "web" });
      assert.equal(why.unplaced, 1);
      assert.deepEqual(why.refusals, Object.fromEntries(workers.map((node) => [node, "it runs web"])));
      await fleet.apply("web", fleet.beating("web", { ...apart, replicas: 2 }));
      await fleet.updated("web");
      await run.evidence("placed.json", summary(await fleet.instances()));
      return "one on each, the third refused by both";
    },
  );
  await run.check("a service that must not run twice runs once", async () => {
    await fleet.apply("solo", solo(fleet));
    await fleet.updated("solo");
    const [one] = await fleet.instances("solo");
    return `${one!.id} on ${one!.node}`;
  });
}

export function solo(fleet: Fleet, prefix = "") {
  const update = { minHealthyMs: 500, deadlineMs: 30_000, order: "stop-first" };
  return fleet.beating("solo", { replicas: 1, update }, prefix);
}

async function changes(run: LaneRun, fleet: Fleet): Promise<void> {
  await run.check("a change goes over the replicas one at a time", async () => {
    const before = (await fleet.instances("web")).map(({ id }) => id);
    await fleet.apply("web", fleet.beating("web", { ...spread, replicas: 2 }, "VERSION=2;"));
    const { revision } = await fleet.updated("web");
    const after = await fleet.settled("web", workers);
    assert.ok(after.every((instance) => instance.revision === revision && !before.includes(instance.id)));
    return `revision ${revision}`;
  });
  await run.check("a bad change is rolled back by itself, and one replica never stopped serving", async () => {
    await fleet.apply("web", fleet.beating("web", { ...spread, replicas: 2 }, "echo cannot serve; exit 7;"));
    const { reason } = await fleet.updated("web", UpdatePhase.ROLLED_BACK);
    await fleet.settled("web", workers);
    const gap = longestSilence((await fleet.beats("web")).map(({ at }) => at));
    run.facts.webLongestGapSeconds = gap;
    assert.ok(gap < 5, `no replica beat for ${gap} s`);
    return `${reason}; longest silence of all replicas ${gap} s`;
  });
}

const spread = { pools: ["native"], affinity: [{ service: "web", rule: "forbid" }] };

export function longestSilence(times: readonly number[]): number {
  let longest = 0;
  for (let i = 1; i < times.length; i++) longest = Math.max(longest, times[i]! - times[i - 1]!);
  return Math.round(longest * 100) / 100;
}

async function drain(run: LaneRun, fleet: Fleet): Promise<void> {
  const operations = run.cluster.clients.of(OperationService, "fleet-scheduler", { timeoutMs: 60_000 });
  const end = (id: string) =>
    waitFor({ timeoutMs: 90_000, what: "the end of the drain", everyMs: 200, signal: run.signal }, async () => {
      const operation = await operations.getOperation({ id });
      return operation.state === OperationState.RUNNING || operation.state === OperationState.PENDING
        ? undefined
        : operation;
    });
  await run.check("a drain without another place blocks, says why, and gives up at its deadline", async () => {
    const { id } = await fleet.nodes.drainNode({ name: first, deadlineMs: 5_000n });
    await fleet.nodeIs(first, NodeState.DRAINING);
    const { state, error } = await end(id);
    assert.equal(OperationState[state], "FAILED");
    assert.match(error!.message, /the deadline passed; still there: (solo, )?web \(no place: /);
    await fleet.settled("web", workers);
    return error!.message;
  });
  await run.check("a drain moves what has another place, and the node comes back", async () => {
    await fleet.apply("web", fleet.beating("web", { ...spread, affinity: [], replicas: 2 }, "VERSION=2;"));
    await fleet.updated("web", UpdatePhase.ROLLED_BACK);
    const { id } = await fleet.nodes.drainNode({ name: first, deadlineMs: 60_000n });
    const { state, error } = await end(id);
    assert.equal(OperationState[state], "DONE", error?.message);
    assert.equal((await fleet.node(first)).instances, 0);
    await fleet.settled("web", [second, second]);
    await run.evidence("drained.json", summary(await fleet.instances()));
    await fleet.nodes.activateNode({ name: first });
    await fleet.nodeIs(first, NodeState.ACTIVE);
    return `${first} was empty; everything ran on ${second}`;
  });
}

async function agentDeath(run: LaneRun, fleet: Fleet): Promise<void> {
  await run.check("node-agent is killed: its instances go on under the next one", async () => {
    const before = await fleet.settled("web", [second, second]);
    await run.cluster.kill(second, "node-agent");
    await run.cluster.start(second, "node-agent");
    await run.cluster.waitReady(second, "node-agent", run.signal);
    const after = await fleet.settled("web", [second, second]);
    assert.deepEqual(after.map(({ id, pid }) => [id, pid]), before.map(({ id, pid }) => [id, pid]));
    return `${after.length} instances kept their processes`;
  });
}

async function schedulerDeath(run: LaneRun, fleet: Fleet): Promise<void> {
  await run.check("the scheduler that decides is killed in a change: the other one finishes it", async () => {
    await fleet.apply("web", fleet.beating("web", { replicas: 3, pools: ["native"] }, "VERSION=3;"));
    // One of them leads; killing one after the other meets it.
    for (const node of run.cluster.nodesWith("fleet-scheduler")) {
      await run.cluster.kill(node, "fleet-scheduler");
      await run.cluster.start(node, "fleet-scheduler");
      await run.cluster.waitReady(node, "fleet-scheduler", run.signal);
    }
    const { revision } = await fleet.updated("web");
    const all = await fleet.instances("web");
    assert.equal(all.filter((instance) => instance.revision === revision && !instance.stopping).length, 3);
    return `revision ${revision} stands`;
  });
}

/** The node is there, but nobody reaches it: what it runs must have ended before it runs elsewhere. */
async function cutOff(run: LaneRun, fleet: Fleet): Promise<void> {
  await run.check("a worker is cut off: what must not run twice ends there before it begins elsewhere", async () => {
    const [home] = await fleet.instances("solo");
    const other = workers.find((worker) => worker !== home!.node)!;
    await run.faults.partition([home!.node]);
    const [moved] = await fleet.settled("solo", [other], 90_000);
    const beats = await fleet.beats("solo");
    const lastHere = beats.findLast(({ instance }) => instance === home!.id)!.at;
    const firstThere = beats.find(({ instance }) => instance === moved!.id)!.at;
    assert.ok(lastHere < firstThere, `${home!.id} beat at ${lastHere} s, ${moved!.id} began at ${firstThere} s`);
    const margin = Math.round((firstThere - lastHere) * 100) / 100;
    run.facts.cutOffMarginSeconds = margin;
    await run.faults.heal();
    await fleet.nodeIs(home!.node, NodeState.ACTIVE);
    return `ended on ${home!.node} ${margin} s before it began on ${other}`;
  });
}

async function workerLoss(run: LaneRun, fleet: Fleet): Promise<void> {
  await run.check(
    "a worker loses its power: its instances come back elsewhere, and replicas with the node",
    async () => {
      await fleet.apply("web", fleet.beating("web", { ...spread, replicas: 2 }, "VERSION=4;"));
      await fleet.updated("web");
      await fleet.settled("web", workers);
      const [home] = await fleet.instances("solo");
      const other = workers.find((worker) => worker !== home!.node)!;
      const begin = performance.now();
      await run.cluster.substrate.powerOff(home!.node);
      await fleet.settled("solo", [other], 90_000);
      const ms = Math.round(performance.now() - begin);
      run.facts.workerLossReplacedMs = ms;
      await fleet.settled("web", [other]);
      await run.cluster.substrate.powerOn(home!.node);
      await run.cluster.startAll({ nodes: [home!.node], signal: run.signal });
      await fleet.settled("web", workers);
      return `replaced after ${ms} ms; ${home!.node} has its replica again`;
    },
  );
}
