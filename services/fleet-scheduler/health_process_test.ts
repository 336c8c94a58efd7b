import assert from "node:assert/strict";
import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import { InstancePhase } from "@ultracloud/proto/fleetscheduler/v1";
import { NodeAgentService } from "@ultracloud/proto/nodeagent/v1";
import { freePort } from "@ultracloud/launch";
import { createRpcClient } from "@ultracloud/rpc";
import { eventually, startFleet } from "./test_operator.ts";

/** Answers 200 while the file is there, 503 otherwise; ends itself when told to be deaf. */
const server = `
const [port, file] = Deno.args;
const there = (path) => { try { Deno.statSync(path); return true; } catch { return false; } };
const s = Deno.serve({ hostname: "127.0.0.1", port: Number(port), onListen: () => console.log("listening") },
  () => new Response(there(file) ? "well" : "ill", { status: there(file) ? 200 : 503 }));
const timer = setInterval(() => { if (there(file + ".deaf")) { clearInterval(timer); s.shutdown(); setInterval(() => {}, 1000); } }, 20);
`;

Deno.test("health over HTTP, TCP and by a program decides about a real service; what stays ill is started again", async () => {
  await using test = await startFleet();
  const { fleet, nodes, dir, stack } = test;
  await Deno.writeTextFile(`${dir}/server.js`, server);
  const times = { graceMs: 200, intervalMs: 100, timeoutMs: 5_000, failuresMax: 2 };
  const common = {
    update: { minHealthyMs: 100, deadlineMs: 60_000, autoRollback: false },
    restart: { backoffMsMin: 50, backoffMsMax: 100 },
  };
  const serving = (port: number, file: string) => ({
    command: [
      Deno.execPath(),
      "run",
      "-A",
      "--no-lock",
      "--no-config",
      `${dir}/server.js`,
      String(port),
      `${dir}/${file}`,
    ],
    ports: { main: { port } },
    ...common,
  });
  const one = async (service: string) => (await test.instances(service))[0];
  /** Waits until the one instance of the service is so; answers it. */
  const is = async (service: string, phase: InstancePhase, reason = /^/, more = (_restarts: number) => true) => {
    let seen = "";
    await eventually(`${service} is ${InstancePhase[phase]}`, async () => {
      const found = await one(service);
      seen = found === undefined ? "none" : `${InstancePhase[found.phase]} ${found.restarts} ${found.reason}`;
      return found?.phase === phase && reason.test(found.reason) && more(found.restarts);
    }, () => seen);
    return (await one(service))!;
  };

  await Deno.writeTextFile(`${dir}/web`, "");
  await fleet.applyService({
    name: "web",
    spec: { ...serving(freePort(), "web"), healthCheck: { kind: "http", port: "main", path: "/healthz", ...times } },
  });
  const healthy = await is("web", InstancePhase.HEALTHY);
  await Deno.remove(`${dir}/web`);
  // Ill twice in a row ends it; the next one starts, and stays ill until the file is there.
  await is("web", InstancePhase.UNHEALTHY, /\/healthz answered 503/, (restarts) => restarts > 0);
  await Deno.writeTextFile(`${dir}/web`, "");
  const again = await is("web", InstancePhase.HEALTHY, /^/, (restarts) => restarts > 0);
  assert.notEqual(again.pid, healthy.pid);
  assert.equal(again.id, healthy.id);
  await fleet.deleteService({ name: "web" });

  await fleet.applyService({
    name: "echo",
    spec: { ...serving(freePort(), "echo"), healthCheck: { kind: "tcp", port: "main", ...times } },
  });
  const heard = await is("echo", InstancePhase.HEALTHY);
  await Deno.writeTextFile(`${dir}/echo.deaf`, "");
  await eventually("nobody listens and it is started again", async () => ((await one("echo"))?.restarts ?? 0) > 0);
  await Deno.remove(`${dir}/echo.deaf`);
  assert.notEqual((await is("echo", InstancePhase.HEALTHY)).pid, heard.pid);
  await fleet.deleteService({ name: "echo" });

  await Deno.writeTextFile(`${dir}/ready`, "");
  await Deno.writeTextFile(`${dir}/secret`, "s3cret");
  await fleet.applyService({
    name: "job",
    spec: {
      ...common,
      command: ["/bin/sh", "-c", "while :; do sleep 0.1; done"],
      secrets: [{ name: "key", file: `${dir}/secret` }],
      // It sees what the service sees.
      healthCheck: {
        kind: "exec",
        command: ["/bin/sh", "-c", `[ "$(cat $CREDENTIALS_DIRECTORY/key)" = s3cret ] && cat ${dir}/ready`],
        ...times,
      },
      limits: { tasksMax: 64 },
    },
  });
  await is("job", InstancePhase.HEALTHY);
  await Deno.remove(`${dir}/ready`);
  await is("job", InstancePhase.UNHEALTHY, /ended with 1: .*ready: No such file/, (restarts) => restarts > 0);

  // What holds instances here is told by the agent, for each of them, and as a label of its node.
  const keyFile = stack.operatorKeyFile;
  const signer = await createWorkloadSigner({ clusterId: "test", name: "operator", keyFile }, { clock: systemClock });
  const authorization = signer.authorization("node-agent");
  using agent = createRpcClient(NodeAgentService, { endpoints: [stack.endpoint("node-agent")], authorization });
  const { confinement, node } = await agent.getStatus({});
  assert.ok(["systemd", "cgroup", "group"].includes(confinement!.kind) && confinement!.reason !== "");
  assert.equal((await nodes.getNode({ name: node })).labels.confinement, confinement!.kind);
  const [local] = (await agent.listInstances({})).instances;
  const holds = confinement!.limits.includes("tasksMax");
  assert.match(local!.confinement, holds ? /^\w+: tasksMax 64$/ : /; not held: tasksMax, as /);
  // Where they must hold and do not, nothing starts.
  await fleet.applyService({
    name: "strict",
    spec: { ...common, command: ["/bin/sleep", "1000"], limits: { tasksMax: 64, required: true } },
  });
  if (holds) await is("strict", InstancePhase.RUNNING);
  else await is("strict", InstancePhase.BACKING_OFF, /cannot start: this host cannot hold its limits \(tasksMax\)/);
});

Deno.test("why a service has no place is the same under the next scheduler, and says what would make room", async () => {
  await using test = await startFleet();
  const { fleet, stack, nodes } = test;
  const { nodes: [node] } = await nodes.listNodes({});
  const update = { minHealthyMs: 100, deadlineMs: 60_000 };
  const command = (version: string) => ["/bin/sh", "-c", `: ${version}; while :; do sleep 0.1; done`];
  const spec = { update, replicas: 2, ports: { main: { port: 18_080 } } };
  await fleet.applyService({ name: "web", spec: { ...spec, command: command("v1") } });
  const [first] = await test.healthy("web", 1);
  const why = async () => {
    const { unplaced, refusals, sinceTime } = await fleet.explainPlacement({ name: "web" });
    return { unplaced, refusals, since: sinceTime && `${sinceTime.seconds}.${sinceTime.nanos}` };
  };
  const refusals = { [node!.name]: "port 18080/tcp is taken by web" };
  await eventually("it is known since when", async () => (await why()).since !== undefined);
  const before = await why();
  assert.deepEqual([before.unplaced, before.refusals], [1, refusals]);
  await stack.process("fleet-scheduler")!.kill();
  stack.start("fleet-scheduler");
  await eventually("the next scheduler answers", async () => (await why()).unplaced === 1);
  assert.deepEqual(await why(), before);

  // A change of a service that lacks places waits: what serves is not taken away for it.
  await fleet.applyService({ name: "web", spec: { ...spec, command: command("v2") } });
  await eventually(
    "it says what it waits for",
    async () =>
      /waits: 1 of 2 has no place \(port 18080\/tcp is taken by web\); fewer replicas or more of maxParallel let it go on/
        .test((await fleet.getService({ name: "web" })).reason),
  );
  assert.deepEqual((await test.healthy("web", 1)).map(({ id, pid }) => [id, pid]), [[first!.id, first!.pid]]);
  // With as many replicas as places it goes on.
  await fleet.applyService({ name: "web", spec: { ...spec, replicas: 1, command: command("v2") } });
  await eventually("it is replaced", async () => (await test.instances("web")).every(({ id }) => id !== first!.id));
  await test.healthy("web", 1);
  assert.deepEqual(await why(), { unplaced: 0, refusals, since: undefined });
});
