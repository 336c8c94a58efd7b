import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { NodeState } from "@ultracloud/proto/fleetscheduler/v1";
import { Fleet, summary } from "../harness/fleet.ts";
import { type Lane, type LaneRun, numberOption } from "../harness/lane.ts";
import { chainfireProbe, createLaneDatabase, flaredbProbe } from "../harness/stores.ts";
import { placement } from "./fleet_scheduler_e2e.ts";

const holdSecondsDefault = 30;
const [drained, lost] = ["node04", "node05"] as const;

/** What a supported fleet goes through in a quarter: one planned drain, one loss, every part of it restarted. */
export const rolloutSoak: Lane = {
  name: "rollout-soak",
  summary:
    "one planned drain and one worker loss, each held degraded, then every component restarted and all proven anew",
  profile: "rollout",
  options: { hold: `seconds for which each degraded state is held (${holdSecondsDefault})` },
  async run(run) {
    const holdSeconds = numberOption(run.args, "hold", holdSecondsDefault);
    const fleet = new Fleet(run);
    await Deno.mkdir(fleet.dir, { recursive: true });
    run.facts.soak_hold_secs = holdSeconds;
    run.facts.fleet_supported_native_runtime_nodes = run.cluster.nodesWith("node-agent").length;
    await run.evidence("scope-fixed-contract.json", {
      fleet: "two native-runtime workers, one planned drain cycle, one fail-stop worker loss",
      soak_hold_secs: holdSeconds,
      deployer: "one active writer by lease, standbys beside it",
    });
    await placement(run, fleet);
    await maintenance(run, fleet, holdSeconds);
    await powerLoss(run, fleet, holdSeconds);
    await restarts(run, fleet);
    await run.check("the service that must not run twice never did", async () => {
      const { instances, longestGap } = await fleet.neverTwice("solo");
      return `${instances} instances one after the other, longest silence ${longestGap} s`;
    });
  },
};

/** A degraded state is looked at for as long as it is held: everything that still should run does. */
async function hold(run: LaneRun, fleet: Fleet, seconds: number, node: string): Promise<string> {
  const until = performance.now() + seconds * 1000;
  const before = (await fleet.instances()).filter((instance) => instance.node === node).map(({ id, pid }) =>
    `${id} ${pid}`
  );
  let looks = 0;
  while (performance.now() < until) {
    await systemClock.sleep(1_000, run.signal);
    const now = (await fleet.instances()).filter((instance) => instance.node === node).map(({ id, pid }) =>
      `${id} ${pid}`
    );
    assert.deepEqual(now.sort(), before.sort(), `what runs on ${node} changed while nothing happened`);
    looks++;
  }
  return `${before.length} instances on ${node} unchanged in ${looks} looks over ${seconds} s`;
}

async function maintenance(run: LaneRun, fleet: Fleet, holdSeconds: number): Promise<void> {
  await run.check("planned drain: the node empties and stays empty while it is held", async () => {
    // Its replica has no place beside the other one: the operator's deadline decides.
    await fleet.nodes.drainNode({ name: drained, deadlineMs: 3_000n, force: true });
    await fleet.nodeIs(drained, NodeState.DRAINED);
    await fleet.settled("solo", [lost]);
    await fleet.settled("web", [lost]);
    const held = await hold(run, fleet, holdSeconds, lost);
    assert.equal((await fleet.node(drained)).instances, 0);
    await run.evidence("maintenance-held.json", summary(await fleet.instances()));
    return held;
  });
  await run.check("the node returns to work and has its replica again", async () => {
    await fleet.nodes.activateNode({ name: drained });
    await fleet.settled("web", [drained, lost]);
    run.facts.validated_maintenance_cycles = 1;
    return `web on ${drained} and ${lost}`;
  });
}

async function powerLoss(run: LaneRun, fleet: Fleet, holdSeconds: number): Promise<void> {
  await run.check("worker loss: what can run elsewhere does, and stays while it is held", async () => {
    await run.cluster.substrate.powerOff(lost);
    await fleet.nodeIs(lost, NodeState.LOST);
    await fleet.settled("solo", [drained], 90_000);
    await fleet.settled("web", [drained]);
    const held = await hold(run, fleet, holdSeconds, drained);
    await run.evidence("power-loss-held.json", summary(await fleet.instances()));
    return held;
  });
  await run.check("the worker returns and has its replica again", async () => {
    await run.cluster.substrate.powerOn(lost);
    await run.cluster.startAll({ nodes: [lost], signal: run.signal });
    await fleet.settled("web", [drained, lost]);
    run.facts.validated_power_loss_cycles = 1;
    return `web on ${drained} and ${lost}`;
  });
}

async function restarts(run: LaneRun, fleet: Fleet): Promise<void> {
  const { cluster } = run;
  const order = ["deployer", "fleet-scheduler", "node-agent", "chainfire", "flaredb"];
  const running = (await fleet.instances()).map(({ id, pid }) => `${id} ${pid}`).sort();
  for (const component of order) {
    const nodes = cluster.nodesWith(component);
    if (nodes.length === 0) {
      run.skip(`restart of ${component}`, "this cluster has none");
      continue;
    }
    await run.check(`${component} is restarted on every node, one at a time`, async () => {
      for (const node of nodes) {
        await cluster.stop(node, component);
        await cluster.start(node, component);
        await cluster.waitReady(node, component, run.signal);
      }
      return nodes.join(", ");
    });
  }
  await run.check("what ran before the restarts runs on, in the same processes", async () => {
    await fleet.settled("web", [drained, lost]);
    await fleet.settled("solo", [drained]);
    assert.deepEqual((await fleet.instances()).map(({ id, pid }) => `${id} ${pid}`).sort(), running);
    return `${running.length} instances`;
  });
  await run.check("the stores take writes and the scheduler takes changes", async () => {
    await createLaneDatabase(cluster);
    for (const probe of [chainfireProbe(cluster), flaredbProbe(cluster)]) {
      const value = crypto.randomUUID();
      await probe.put("/lane/rollout-soak", value);
      assert.equal(await probe.get("/lane/rollout-soak"), value);
    }
    const before = (await fleet.service("web")).revision;
    const spec = { pools: ["native"], affinity: [{ service: "web", rule: "forbid" }], replicas: 2 };
    await fleet.apply("web", fleet.beating("web", spec, "VERSION=2;"));
    const { revision } = await fleet.updated("web");
    assert.ok(revision > before);
    await fleet.settled("web", [drained, lost]);
    return `revision ${revision}`;
  });
}
