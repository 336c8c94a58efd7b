import assert from "node:assert/strict";
import { fault } from "@ultracloud/base";
import { ClusterService } from "@ultracloud/proto/chainfire/v1";
import { HypervisorType, NodeService, NodeState, VmState } from "@ultracloud/proto/plasmavmc/v1";
import type { Lane, LaneArgs, LaneRun } from "../harness/lane.ts";
import type { Substrate } from "../harness/substrate.ts";
import {
  chainfireProbe,
  createLaneDatabase,
  executeSql,
  flaredbProbe,
  putSurely,
  querySql,
} from "../harness/stores.ts";
import { Tenant } from "../harness/tenant.ts";
import { waitFor } from "../harness/wait.ts";

const ready = /ULTRACLOUD_GUEST_READY/;
/** The node whose loss is tried: it leads chainfire then, and carries nothing that runs once only. */
const lostNode = "node02";

/** What the lane neither uses nor breaks. */
const unused = ["deployer", "nix-agent", "fleet-scheduler", "node-agent"];

/** An option that is no where nodes are emulated, and yes elsewhere. */
function yesOrNo(args: LaneArgs, option: string, substrate: Substrate["name"]): boolean {
  const given = args[option] ?? (substrate === "qemu" ? "no" : "yes");
  if (given === "yes" || given === "no") return given === "yes";
  throw fault("invalid_argument", "usage", `Cannot use --${option} ${given}: wanted yes or no`);
}

/** The base gate of the cluster. */
export const smoke: Lane = {
  name: "smoke",
  summary: "the base gate: readiness, stores, tenant VMs on both workers, node loss, worker loss, drain and return",
  profile: "ha-control-plane",
  guestImage: true,
  options: {
    tenants: "yes or no: with tenant VMs (yes; no on qemu, where they are emulated by what is emulated)",
    whole: "yes or no: with every component of the cluster file (yes; no on qemu, where this lane's own are enough)",
  },
  leavesOut: (args, substrate) => yesOrNo(args, "whole", substrate) ? [] : unused,
  async run(run) {
    const tenants = yesOrNo(run.args, "tenants", run.cluster.substrate.name);
    run.facts.tenants = tenants ? "yes" : "no";
    const absent = unused.filter((component) => run.cluster.nodesWith(component).length === 0);
    if (absent.length > 0) run.skip(absent.join(", "), "this lane does not use them; --whole yes runs them");
    await readiness(run);
    await stores(run);
    await transport(run);
    await workersAdvertise(run);
    let tenant: Tenant | undefined;
    if (tenants) tenant = await tenantVms(run);
    else run.skip("tenant VMs, and what becomes of them", "--tenants yes runs them");
    await controlPlaneLoss(run, tenant);
    await workerLoss(run, tenant);
    await drainAndReturn(run, tenant);
  },
};

async function readiness(run: LaneRun): Promise<void> {
  const { cluster } = run;
  await run.check("every component of every node is ready", async () => {
    const all = cluster.nodes.flatMap((node) => cluster.componentsOf(node).map((component) => ({ node, component })));
    for (const { node, component } of all) await cluster.waitReady(node, component, run.signal);
    return `${all.length} processes on ${cluster.nodes.length} nodes`;
  });
  await run.check("the stores have three members and agree on a leader", async () => {
    const { members } = await cluster.clients.of(ClusterService, "chainfire").memberList({});
    assert.deepEqual(members.map((m) => m.name).sort(), cluster.nodesWith("chainfire"));
    await run.evidence("members.json", members);
    const leaders: string[] = [];
    for (const probe of [chainfireProbe(cluster), flaredbProbe(cluster)]) {
      leaders.push(`${probe.name}: ${await probe.leader(cluster.nodesWith(probe.name))}`);
    }
    return leaders.join(", ");
  });
}

async function stores(run: LaneRun): Promise<void> {
  const { cluster } = run;
  const nodes = cluster.nodesWith("chainfire");
  await createLaneDatabase(cluster);
  for (const probe of [chainfireProbe(cluster), flaredbProbe(cluster)]) {
    await run.check(`${probe.name}: what one node acknowledged, every node reads`, async () => {
      const value = crypto.randomUUID();
      await putSurely(probe, "/lane/smoke", value, run.signal);
      for (const node of nodes) {
        const what = `${value} on ${node}`;
        await waitFor(
          { timeoutMs: 10_000, what },
          async () => (await probe.getLocal("/lane/smoke", node)) === value || undefined,
        );
      }
      const read = await waitFor(
        { timeoutMs: 60_000, what: `a read of ${probe.name}`, signal: run.signal },
        async () => ({ value: await probe.get("/lane/smoke") }),
      );
      assert.equal(read.value, value);
      return `${nodes.length} replicas`;
    });
  }
  await run.check("flaredb: SQL rows are there for every reader", async () => {
    await executeSql(cluster, "CREATE TABLE IF NOT EXISTS smoke (id INTEGER PRIMARY KEY, word TEXT NOT NULL)");
    await executeSql(cluster, "INSERT OR REPLACE INTO smoke (id, word) VALUES (1, 'one'), (2, 'two')");
    assert.deepEqual(await querySql(cluster, "SELECT id, word FROM smoke ORDER BY id"), [["1", "one"], ["2", "two"]]);
    return "2 rows";
  });
}

async function transport(run: LaneRun): Promise<void> {
  const { cluster } = run;
  await run.check("no component lets a caller in without a certificate of the cluster", async () => {
    let tried = 0;
    for (const node of cluster.nodes) {
      for (const component of cluster.componentsOf(node)) {
        using stranger = Deno.createHttpClient({
          caCerts: [await Deno.readTextFile(`${cluster.home.stateDir}/operator/tls-ca.crt`)],
          http2: false,
        });
        const url = `${cluster.endpoint(node, component)}/readyz`;
        const answer = await fetch(url, { client: stranger, signal: AbortSignal.timeout(10_000) }).then(
          async (response) => `${response.status} ${await response.text()}`,
          () => undefined,
        );
        assert.equal(answer, undefined, `${component} on ${node} answered somebody without a certificate`);
        tried++;
      }
    }
    return `${tried} listeners refuse`;
  });
}

async function workersAdvertise(run: LaneRun): Promise<void> {
  const { cluster } = run;
  const workers = cluster.nodesWith("vm-agent");
  const nodes = cluster.clients.of(NodeService, "plasmavmc");
  await run.check("both workers advertise HYPERVISOR_TYPE_KVM and nothing broader", async () => {
    const seen = await waitFor({ timeoutMs: 60_000, what: "both workers", signal: run.signal }, async () => {
      const list = (await nodes.listNodes({})).nodes;
      return list.filter((node) => node.state === NodeState.READY).length === workers.length ? list : undefined;
    });
    await run.evidence("workers.json", seen);
    assert.deepEqual(seen.map((node) => node.name).sort(), workers);
    for (const node of seen) assert.equal(node.hypervisorType, HypervisorType.KVM);
    const accelerators = [...new Set(seen.map((node) => node.accelerator))];
    run.facts.accelerator = accelerators.join(", ");
    return `${workers.join(" and ")}, accelerator ${accelerators.join(", ")}`;
  });
}

async function tenantVms(run: LaneRun): Promise<Tenant> {
  const { cluster } = run;
  const workers = cluster.nodesWith("vm-agent");
  const tenant = new Tenant(cluster, `smoke-${crypto.randomUUID().slice(0, 8)}`, run.signal);
  run.step("make organisation, project, network and image");
  await tenant.setUp(run.guestImage);
  for (const worker of workers) {
    await run.check(`a tenant VM on ${worker} boots and serves its page`, async () => {
      const vm = await tenant.createVm(`vm-${worker}`, { node: worker, flavor: "small" });
      assert.equal(vm.node, worker);
      const line = await tenant.waitConsole(`vm-${worker}`, ready);
      const page = await tenant.fetchPage(vm, "/status.json");
      assert.equal(JSON.parse(page).boots, 1);
      return line;
    });
  }
  return tenant;
}

/** Takes the leader of chainfire away, and measures for how long nothing was acknowledged. */
async function controlPlaneLoss(run: LaneRun, tenant: Tenant | undefined): Promise<void> {
  const { cluster } = run;
  const probes = [chainfireProbe(cluster), flaredbProbe(cluster)];
  const nodes = cluster.nodesWith("chainfire");
  const rest = nodes.filter((node) => node !== lostNode);
  const values = new Map<string, string>();
  const restOf = (name: string) => values.get(name)!;
  await run.check(`${lostNode} takes over chainfire`, async () => {
    const target = BigInt(cluster.file.nodes[lostNode]!.member);
    const [chainfire] = probes;
    const what = `${lostNode} to lead`;
    await waitFor({ timeoutMs: 30_000, what, everyMs: 200, signal: run.signal }, async () => {
      const leader = await chainfire!.leader(nodes);
      if (leader === lostNode) return true;
      const cf = cluster.clients.of(ClusterService, "chainfire", { node: leader, retries: 0 });
      await cf.leaderTransfer({ target }).catch(() => {});
      return undefined;
    });
    return `${lostNode} leads`;
  });
  await run.check("the loss of a control-plane node costs no acknowledged write", async () => {
    for (const probe of probes) {
      values.set(probe.name, crypto.randomUUID());
      await putSurely(probe, "/lane/before-loss", restOf(probe.name), run.signal);
    }
    await cluster.substrate.powerOff(lostNode);
    const outages: string[] = [];
    for (const probe of probes) {
      const begin = performance.now();
      await putSurely(probe, "/lane/after-loss", restOf(probe.name), run.signal);
      const ms = Math.round(performance.now() - begin);
      run.facts[`${probe.name}FailoverMs`] = ms;
      outages.push(`${probe.name} took writes again after ${ms} ms`);
      const read = await waitFor(
        { timeoutMs: 60_000, what: `a read of ${probe.name}`, signal: run.signal },
        async () => ({ value: await probe.get("/lane/before-loss") }),
      );
      assert.equal(read.value, restOf(probe.name));
      assert.notEqual(await probe.leader(rest), lostNode);
    }
    return outages.join(", ");
  });
  const work = tenant === undefined
    ? "changes are taken while the node is away"
    : "tenants work while the node is away";
  await run.check(work, async () => {
    const [worker] = cluster.nodesWith("vm-agent") as [string, string];
    // Services that were speaking to the lost node wait for it until the deadline of their call.
    const begin = performance.now();
    const nodes = cluster.clients.of(NodeService, "plasmavmc");
    await waitFor(
      { timeoutMs: 60_000, what: "plasmavmc to take changes again", signal: run.signal },
      async () => await nodes.setNodeCordoned({ name: worker, cordoned: false }),
    );
    const ms = Math.round(performance.now() - begin);
    run.facts.tenantApiOutageMs = ms;
    if (tenant === undefined) return `changes were taken after ${ms} ms`;
    // A worker whose lease ended while nobody took its renewal is known again a moment later, and its VM with it.
    const vm = await tenant.waitState(`vm-${worker}`, VmState.RUNNING, 60_000);
    await tenant.fetchPage(vm, "/status.json");
    // A service keeps a connection for each kind of call: each meets the silence of the lost node once.
    let tries = 0;
    const name = await waitFor({ timeoutMs: 120_000, what: "a VM made meanwhile", signal: run.signal }, async () => {
      const name = `while-away-${++tries}`;
      await tenant.createVm(name, { node: worker });
      return name;
    });
    await tenant.waitConsole(name, ready);
    await tenant.delete(name);
    run.facts.tenantVmTries = tries;
    return `changes were taken after ${ms} ms; a VM came and went, at try ${tries}`;
  });
  await run.check("the node returns and catches up", async () => {
    await cluster.substrate.powerOn(lostNode);
    await cluster.startAll({ nodes: [lostNode], signal: run.signal });
    for (const probe of probes) {
      const what = `${probe.name} on ${lostNode} to catch up`;
      await waitFor(
        { timeoutMs: 60_000, what, signal: run.signal },
        async () => (await probe.getLocal("/lane/after-loss", lostNode)) === restOf(probe.name) || undefined,
      );
    }
    return "what was written meanwhile is there";
  });
}

async function workerLoss(run: LaneRun, tenant: Tenant | undefined): Promise<void> {
  const { cluster } = run;
  const [stays, lost] = cluster.nodesWith("vm-agent") as [string, string];
  const nodes = cluster.clients.of(NodeService, "plasmavmc");
  const waitNode = (state: NodeState) =>
    waitFor(
      { timeoutMs: 60_000, what: `${lost} to be ${NodeState[state]}`, everyMs: 200, signal: run.signal },
      async () => (await nodes.getNode({ name: lost })).state === state || undefined,
    );
  const and = (text: string) => tenant === undefined ? "" : text;
  await run.check(`a lost worker is noticed${and(", and its VM is unknown, not lost")}`, async () => {
    const begin = performance.now();
    await cluster.substrate.powerOff(lost);
    await waitNode(NodeState.LOST);
    const ms = Math.round(performance.now() - begin);
    run.facts.workerLossNoticedMs = ms;
    if (tenant === undefined) return `noticed after ${ms} ms`;
    await tenant.waitState(`vm-${lost}`, VmState.UNKNOWN, 60_000);
    await tenant.fetchPage(await tenant.vm(`vm-${stays}`), "/status.json");
    return `noticed after ${ms} ms; the VM on ${stays} serves on`;
  });
  await run.check(`the worker returns${and(", and its VM starts again with its disk")}`, async () => {
    await cluster.substrate.powerOn(lost);
    await cluster.startAll({ nodes: [lost], signal: run.signal });
    await waitNode(NodeState.READY);
    if (tenant === undefined) return `${lost} is ready`;
    await waitFor(
      { timeoutMs: 60_000, what: "the VM to be known again", everyMs: 200, signal: run.signal },
      async () => {
        const { state } = await tenant.vm(`vm-${lost}`);
        return state === VmState.UNKNOWN ? undefined : true;
      },
    );
    const vm = await tenant.start(`vm-${lost}`);
    await tenant.waitConsole(`vm-${lost}`, /ULTRACLOUD_GUEST_READY .*boots=2/);
    assert.equal(JSON.parse(await tenant.fetchPage(vm, "/status.json")).boots, 2);
    return "second boot of the same disk";
  });
}

/** A short maintenance: nothing new comes to the worker, its VM is stopped in order, the agent is exchanged, all returns. */
async function drainAndReturn(run: LaneRun, tenant: Tenant | undefined): Promise<void> {
  const { cluster } = run;
  const [drained, other] = cluster.nodesWith("vm-agent") as [string, string];
  const nodes = cluster.clients.of(NodeService, "plasmavmc");
  await run.check(tenant === undefined ? "a worker is drained" : "a drained worker takes no VM", async () => {
    await nodes.setNodeCordoned({ name: drained, cordoned: true });
    assert.equal((await nodes.getNode({ name: drained })).state, NodeState.CORDONED);
    if (tenant === undefined) {
      await cluster.stop(drained, "vm-agent");
      return `${drained} is cordoned, its agent stopped`;
    }
    const vm = await tenant.createVm("during-drain");
    assert.equal(vm.node, other);
    await tenant.stop(`vm-${drained}`);
    await cluster.stop(drained, "vm-agent");
    return `the VM asked for meanwhile runs on ${other}`;
  });
  await run.check(
    tenant === undefined ? "the drained worker returns" : "the drained worker returns and takes VMs again",
    async () => {
      await cluster.start(drained, "vm-agent");
      await cluster.waitReady(drained, "vm-agent", run.signal);
      await nodes.setNodeCordoned({ name: drained, cordoned: false });
      if (tenant === undefined) {
        const what = `${drained} to be ready`;
        await waitFor(
          { timeoutMs: 60_000, what, signal: run.signal },
          async () => (await nodes.getNode({ name: drained })).state === NodeState.READY || undefined,
        );
        return `${drained} is ready`;
      }
      const vm = await tenant.start(`vm-${drained}`);
      await tenant.waitConsole(`vm-${drained}`, /ULTRACLOUD_GUEST_READY .*boots=2/);
      assert.equal(JSON.parse(await tenant.fetchPage(vm, "/status.json")).boots, 2);
      const fresh = await tenant.createVm("after-drain", { node: drained });
      assert.equal(fresh.node, drained);
      return "its VM kept its disk, and a new one runs there";
    },
  );
  if (tenant === undefined) return;
  run.step("delete every VM");
  for (const name of ["after-drain", "during-drain", `vm-${drained}`, `vm-${other}`]) await tenant.delete(name);
}
