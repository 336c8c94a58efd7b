import assert from "node:assert/strict";
import type { Fault } from "@ultracloud/base";
import { findByCommandLine, identify, isAlive } from "@ultracloud/launch";
import { UpdatePhase } from "@ultracloud/proto/fleetscheduler/v1";
import { eventually, startFleet } from "./test_operator.ts";

const sh = (script: string) => ["/bin/sh", "-c", script];
const update = { minHealthyMs: 200, deadlineMs: 20_000 };
const codeOf = async (call: Promise<unknown>) => {
  try {
    await call;
    return "ok";
  } catch (error) {
    return `${(error as Fault).kind}/${(error as Fault).code}`;
  }
};

Deno.test("a service runs on a node, survives its agent, its launcher and a bad change, and leaves nothing behind", async () => {
  await using test = await startFleet();
  const { fleet, stack, dir } = test;
  await Deno.writeTextFile(`${dir}/token`, "hunter2-secret", { mode: 0o600 });
  const script = (version: string) =>
    `echo ${version} has $(wc -c < $CREDENTIALS_DIRECTORY/token) bytes; while :; do date +%s >> ${dir}/beats; sleep 0.2; done`;
  const spec = {
    command: sh(script("v1")),
    secrets: [{ name: "token", file: `${dir}/token` }],
    volumes: [{ path: dir }],
    update,
    restart: { backoffMsMin: 100, backoffMsMax: 1000 },
  };
  assert.equal(
    await codeOf(fleet.applyService({ name: "beat", spec: { ...spec, replicas: -1 } })),
    "invalid_argument/invalid_field",
  );
  const first = await fleet.applyService({ name: "beat", spec });
  assert.equal(first.created, true);
  const [one] = await test.healthy("beat", 1);
  const log = await fleet.readLog({ instance: one!.id, waitMs: 10_000 });
  assert.equal(new TextDecoder().decode(log.data), "v1 has 14 bytes\n");
  const environ = await Deno.readTextFile(`/proc/${one!.pid}/environ`);
  assert.match(environ, /CREDENTIALS_DIRECTORY=/);
  assert.doesNotMatch(environ + await Deno.readTextFile(`/proc/${one!.pid}/cmdline`), /hunter2/);

  // The agent is killed: its instance goes on under the next one.
  const process = identify(one!.pid)!;
  await stack.process("node-agent")!.kill();
  stack.start("node-agent");
  await eventually("the new agent is there", async () => (await test.healthy("beat", 1))[0]!.pid === one!.pid);
  assert.ok(isAlive(process));

  // The launcher is killed: what it left ends before the next one starts.
  const [launcher] = findByCommandLine(`${stack.dataDir}/state/node-agent ${one!.id}`, "deno");
  Deno.kill(launcher!.pid, "SIGKILL");
  await eventually("another process runs", async () => (await test.healthy("beat", 1))[0]!.pid !== one!.pid);
  assert.equal(isAlive(process), false);

  // A bad change goes back by itself and is not taken twice.
  await eventually(
    "the first template stands",
    async () => (await fleet.getService({ name: "beat" })).phase === UpdatePhase.NONE,
  );
  const bad = { ...spec, command: sh("echo no such luck; exit 3") };
  const dry = await fleet.applyService({ name: "beat", spec: bad, dryRun: true });
  assert.deepEqual([dry.replaces, dry.changes.map(({ path }) => path)], [true, ["command"]]);
  assert.equal((await fleet.applyService({ name: "beat", spec: bad })).replaces, true);
  await eventually(
    "it is rolled back",
    async () => (await fleet.getService({ name: "beat" })).phase === UpdatePhase.ROLLED_BACK,
  );
  const { reason, revision } = await fleet.getService({ name: "beat" });
  assert.match(reason, /was started \d+ times: ended with 3: no such luck/);
  assert.equal(revision, 3n);
  await test.healthy("beat", 1);
  assert.equal(await codeOf(fleet.applyService({ name: "beat", spec: bad })), "failed_precondition/template_rejected");

  await fleet.deleteService({ name: "beat" });
  await eventually(
    "it is gone",
    async () => await codeOf(fleet.getService({ name: "beat" })) === "not_found/service_not_found",
  );
  assert.deepEqual(findByCommandLine(`${dir}/beats`), []);
  assert.deepEqual([...Deno.readDirSync(`${stack.dataDir}/state/node-agent/instances`)], []);
  assert.deepEqual([...Deno.readDirSync(`${stack.dataDir}/state/node-agent/pids`)], []);
});

Deno.test("what a node runs ends with its lease, and comes back with the scheduler", async () => {
  await using test = await startFleet({ "fleet-scheduler": { nodeLeaseTtlMs: 5_000 } });
  const { fleet, stack } = test;
  await fleet.applyService({
    name: "web",
    spec: { command: sh("trap '' TERM; while :; do sleep 0.1; done"), update, lostReplaceDelayMs: 60_000 },
  });
  const [one] = await test.healthy("web", 1);
  const process = identify(one!.pid)!;
  await stack.process("fleet-scheduler")!.kill();
  const cutMs = performance.now();
  await eventually("the instance has ended", () => Promise.resolve(!isAlive(process)));
  // The last heartbeat was before the cut: the lease cannot have been granted to anybody else by now.
  assert.ok(performance.now() - cutMs < 5_000, `it ran on for ${performance.now() - cutMs} ms`);
  stack.start("fleet-scheduler");
  await eventually("it runs again", async () => (await test.healthy("web", 1))[0]!.pid !== one!.pid);
});

Deno.test("a node whose volume, secret or program is missing says so, and starts the instance when it is there", async () => {
  await using test = await startFleet();
  const { fleet, dir } = test;
  await fleet.applyService({
    name: "later",
    spec: {
      command: [`${dir}/program`],
      volumes: [{ path: `${dir}/data` }],
      secrets: [{ name: "key", file: `${dir}/key` }],
      restart: { backoffMsMin: 50, backoffMsMax: 200 },
      update: { ...update, autoRollback: false },
    },
  });
  const says = (wanted: RegExp) => {
    let seen = "";
    return eventually(`it says ${wanted}`, async () => {
      seen = (await test.instances("later"))[0]?.reason ?? "";
      return wanted.test(seen);
    }, () => seen);
  };
  await says(/cannot start: volume .*\/data is not a directory of this host/);
  await Deno.mkdir(`${dir}/data`);
  await says(/cannot start: secret key is missing/);
  await Deno.writeTextFile(`${dir}/key`, "k");
  await says(/cannot start: program .*\/program is not on this host/);
  await Deno.writeTextFile(`${dir}/program`, "#!/bin/sh\nexec sleep 100\n", { mode: 0o755 });
  await test.healthy("later", 1);
});
