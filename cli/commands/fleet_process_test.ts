import assert from "node:assert/strict";
import { run } from "@stricli/core";
import { startTestStack } from "@ultracloud/testing";
import { buildUc } from "../app.ts";
import { writeContexts } from "../frame/contexts.ts";
import type { Io } from "../frame/io.ts";

Deno.test("uc fleet applies a file, shows what became of it, explains, reads logs, drains and rolls back", async () => {
  await using test = await startTestStack({
    components: ["chainfire", "flaredb", "iam", "fleet-scheduler", "node-agent"],
    overrides: { "fleet-scheduler": { tickMs: 100 }, "node-agent": { tickMs: 100, nodeName: "node1" } },
  });
  const { stack } = test;
  const config = `${stack.dataDir}/uc.json`;
  writeContexts(config, {
    version: 1,
    current: "test",
    contexts: {
      test: {
        clusterId: "test",
        endpoint: "http://127.0.0.1",
        operatorKeyFile: stack.operatorKeyFile,
        endpoints: { "fleet-scheduler": stack.endpoint("fleet-scheduler") },
      },
    },
    credentials: {},
  });
  const uc = async (...words: string[]) => {
    let out = "", err = "";
    const io: Io = {
      out: (text) => out += text,
      err: (text) => err += text,
      interactive: false,
      env: (name) => name === "UC_CONFIG" ? config : undefined,
      ask: () => undefined,
      signal: new AbortController().signal,
    };
    const process = { exitCode: 0, stdout: { write: io.out }, stderr: { write: io.err } };
    await run(await buildUc(words), words, { io, process } as never);
    return { code: Number(process.exitCode), out, err };
  };
  const ok = async (...words: string[]) => {
    const result = await uc(...words);
    assert.equal(result.code, 0, `${words.join(" ")}: ${result.err}`);
    return result;
  };
  const file = `${stack.dataDir}/services.yaml`;
  const write = (services: unknown) => Deno.writeTextFile(file, JSON.stringify({ services }));
  const spec = (script: string) => ({
    command: ["/bin/sh", "-c", script],
    update: { minHealthyMs: 100, deadlineMs: 20_000 },
    restart: { backoffMsMin: 50, backoffMsMax: 500 },
  });
  const good = spec("echo hello from $UC_SERVICE on $UC_NODE; exec sleep 1000");

  // Until its agent has registered the node is not there.
  for (let tries = 0; !(await ok("fleet", "nodes", "list")).out.includes("node1"); tries++) {
    assert.ok(tries < 300, "the node registers");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await write({ web: { ...good, replicas: "two" } });
  const refused = await uc("fleet", "apply", "--file", file);
  assert.equal(refused.code, 2);
  assert.match(refused.err, /^error\[invalid_field\]: Cannot use the service's replicas: .*expected number/);
  assert.match(refused.err, /field: spec\.replicas/);

  await write({ web: good });
  assert.match((await ok("fleet", "apply", "--file", file, "--dry-run")).err, /^would be: web: new\n/);
  const applied = await ok("fleet", "apply", "--file", file);
  assert.match(applied.err, /web: new\n[^]*web: 1 of 1 updated, 1 healthy/);
  assert.match(applied.out, /web +1 +1 +1 +0 +1 +none/);
  const [id] = (await ok("fleet", "instances", "--service", "web", "-o", "name")).out.split("\n");
  assert.equal((await ok("fleet", "logs", id!)).out, "hello from web on node1\n");

  await write({ web: spec("echo out of luck; exit 4"), big: { ...good, resources: { cpuMillis: 900_000 } } });
  const bad = await uc("fleet", "apply", "--file", file, "--timeout", "60s");
  assert.equal(bad.code, 5, bad.err);
  assert.match(
    bad.err,
    /error\[update_not_done\]: web is rolled-back: web-\w+ on node1 was started \d+ times: ended with 4: out of luck/,
  );
  const why = await ok("fleet", "why", "big");
  assert.match(why.err, /big: 1 without a place/);
  assert.match(why.out, /node1 +900000 mCPU wanted, \d+ free/);

  const drained = await uc("fleet", "nodes", "drain", "node1", "--deadline", "1s");
  assert.equal(drained.code, 5);
  assert.match(
    drained.err,
    /error\[drain_failed\]: Cannot drain node1: the deadline passed; still there: web \(no place: it is draining\)/,
  );
  await ok("fleet", "nodes", "drain", "node1", "--deadline", "1s", "--force", "--yes");
  assert.match((await ok("fleet", "nodes", "list")).out, /node1 +drained/);
  await ok("fleet", "nodes", "activate", "node1");
  assert.equal((await uc("fleet", "update", "promote", "web")).code, 5);
  await write({});
  await ok("fleet", "apply", "--file", file, "--prune", "--yes");
});
