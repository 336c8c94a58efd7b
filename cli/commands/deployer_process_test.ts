import assert from "node:assert/strict";
import { DeployerService } from "@ultracloud/proto/deployer/v1";
import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import { createRpcClient } from "@ultracloud/rpc";
import { startTestStack, type TestStack, workspaceRoot } from "@ultracloud/testing";
import { run } from "@stricli/core";
import { buildUc } from "../app.ts";
import { writeContexts } from "../frame/contexts.ts";
import type { Io } from "../frame/io.ts";

const hangMsMax = 60_000;

/** A deployer over stores of its own, its operator's terminal, and the way a machine reaches it. */
async function openSite(dir: string): Promise<AsyncDisposable & Site> {
  const test: TestStack = await startTestStack({
    components: ["chainfire", "flaredb", "iam", "deployer"],
    timeoutMs: 90_000,
  });
  const { stack } = test;
  const url = stack.endpoint("deployer");
  const config = `${stack.dataDir}/uc.json`;
  const context = {
    clusterId: "test",
    endpoint: "http://127.0.0.1",
    endpoints: { deployer: url },
    operatorKeyFile: stack.operatorKeyFile,
  };
  writeContexts(config, { version: 1, current: "test", contexts: { test: context }, credentials: {} });
  const keyFile = stack.operatorKeyFile;
  const signer = await createWorkloadSigner({ clusterId: "test", name: "operator", keyFile }, { clock: systemClock });
  using client = createRpcClient(DeployerService, {
    endpoints: [url],
    authorization: signer.authorization("deployer"),
  });
  for (const end = performance.now() + hangMsMax; !(await client.getStatus({})).writing;) {
    if (performance.now() > end) throw new Error("Waited too long for a writer");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const uc = async (...words: string[]) => {
    let out = "", err = "";
    const io: Io = {
      out: (text) => void (out += text),
      err: (text) => void (err += text),
      interactive: false,
      env: (name) => name === "UC_CONFIG" ? config : undefined,
      ask: () => undefined,
      signal: new AbortController().signal,
    };
    const process = { exitCode: 0, stdout: { write: io.out }, stderr: { write: io.err } };
    // Files of the runbook lie in the test's directory.
    const placed = words.map((word) => /\.json$/.test(word) ? `${dir}/${word}` : word);
    await run(await buildUc(placed), placed, { io, process } as never);
    return { code: Number(process.exitCode), out, err };
  };
  return {
    uc,
    async ok(...words) {
      const { code, out, err } = await uc(...words);
      assert.equal(code, 0, `${words.join(" ")}: ${err}`);
      return out + err;
    },
    async phoneHome(serial, token) {
      const response = await fetch(`http://${stack.placement("deployer").listen.bootstrap}/api/v1/phone-home`, {
        method: "POST",
        headers: { authorization: `Bearer ${token}` },
        body: JSON.stringify({ facts: { serial } }),
      });
      return { status: response.status, body: await response.json() };
    },
    [Symbol.asyncDispose]: () => test[Symbol.asyncDispose](),
  };
}

interface Site {
  uc(...words: string[]): Promise<{ code: number; out: string; err: string }>;
  ok(...words: string[]): Promise<string>;
  phoneHome(serial: string, token: string): Promise<{ status: number; body: Record<string, unknown> }>;
}

const state = {
  version: 1,
  clusterId: "test",
  profile: "bare-metal-bootstrap",
  network: { cidr: "10.77.0.0/24", operatorAddress: "10.77.0.1" },
  nodes: {
    worker1: { role: "worker", address: "10.77.0.21", member: 1, class: "worker" },
  },
  classes: { worker: { desired_system: { target_system: `/nix/store/${"a".repeat(32)}-nixos-system` } } },
  rollouts: { workers: { classes: ["worker"] } },
};

/** The commands of the runbook, as the page has them. */
async function runbook(): Promise<string[][]> {
  const page = await Deno.readTextFile(`${workspaceRoot}/docs/rollout-bundle.md`);
  const block = /## High availability and recovery[^]*?```sh\n([^]*?)```/.exec(page)![1]!;
  return block.trim().split("\n").map((line) => {
    assert.match(line, /^uc /);
    return line.split(" ").slice(1);
  });
}

Deno.test("uc deployer, node and rollout; and the runbook of the docs recovers a deployer whose stores are lost", async () => {
  const dir = await Deno.makeTempDir({ prefix: "uc-runbook-" });
  await using closing = new AsyncDisposableStack();
  closing.defer(() => Deno.remove(dir, { recursive: true }));
  await Deno.writeTextFile(`${dir}/cluster.json`, JSON.stringify(state));
  await Deno.writeTextFile(`${dir}/broken.json`, JSON.stringify({ ...state, nodes: {} }));
  const tokenFile = `${dir}/worker1.token`;
  const commands = await runbook();
  assert.deepEqual(commands.map(([noun, verb]) => `${noun} ${verb}`), [
    "deployer status",
    "deployer apply",
    "node replay",
    "node inspect",
  ]);
  let token: string;
  {
    await using site = await openSite(dir);
    assert.match(
      await site.ok("deployer", "apply", "cluster.json", "--dry-run"),
      /Would change revision 0, 1 changes; worker1/,
    );
    assert.match((await site.uc("deployer", "show")).err, /none was applied/);
    assert.match(await site.ok("deployer", "apply", "cluster.json"), /Applied: revision 1/);
    assert.match(await site.ok("deployer", "apply", "cluster.json"), /Nothing to change: revision 1/);
    const wrong = await site.uc("deployer", "apply", "broken.json");
    assert.deepEqual([wrong.code, /must have a node\s+→ at nodes/.test(wrong.err)], [2, true], wrong.err);
    assert.deepEqual(JSON.parse(await site.ok("deployer", "show")).nodes.worker1.class, "worker");
    const announce = ["node", "pre-register", "worker1", "--serial", "SN-1"];
    const said = await site.ok(...announce, "--request-file", "worker1.request.json", "--token-file", tokenFile);
    token = (await Deno.readTextFile(tokenFile)).trim();
    assert.equal(said.includes(token), false);
    assert.equal((await Deno.readTextFile(`${dir}/worker1.request.json`)).includes(token), false);
    for (const file of [tokenFile, `${dir}/worker1.request.json`]) {
      assert.equal((await Deno.stat(file)).mode! & 0o777, 0o600, file);
    }
    assert.equal((await site.phoneHome("SN-1", token)).body.node, "worker1");
    const stranger = (await site.ok("node", "rotate-token")).trim();
    assert.equal((await site.phoneHome("SN-9", stranger)).status, 202);
    assert.match(await site.ok("node", "pending"), /SN-9 .*no node has its serial/);
    await site.ok("node", "approve", "SN-9", "worker9", "--class", "worker");
    assert.equal((await site.phoneHome("SN-9", stranger)).body.node, "worker9");
    assert.match(await site.ok("node", "machines"), /worker9 +worker +enrolled/);
    assert.match(await site.ok("rollout", "list"), /workers +running/);
    assert.match(await site.ok("rollout", "show", "workers"), /worker1 +waiting/);
    assert.match(await site.ok("rollout", "pause", "workers"), /paused/);
    assert.equal((await site.uc("rollout", "abort", "workers")).code, 2, "it asks");
    assert.match(await site.ok("rollout", "abort", "workers", "--yes"), /aborted/);
    assert.notEqual((await site.uc("rollout", "wait", "workers")).code, 0);
    await site.ok("deployer", "export", "export.json");
  }
  {
    // Everything is lost but the generated state and the kept request.
    await using site = await openSite(dir);
    for (const words of commands) await site.ok(...words);
    assert.match(await site.ok("node", "replay", "worker1.request.json"), /It was there already/);
    const seen = JSON.parse(await site.ok("node", "inspect", "worker1", "-o", "json"));
    assert.deepEqual([seen.serial, seen.tokenValid], ["SN-1", true]);
    assert.equal((await site.phoneHome("SN-2", token)).status, 403);
    assert.equal((await site.phoneHome("SN-1", token)).body.node, "worker1");
    assert.match((await site.uc("deployer", "restore", "export.json")).err, /wanted an empty deployer, or overwrite/);
    assert.match(await site.ok("deployer", "restore", "export.json", "--overwrite", "--yes"), /Restored 2 nodes/);
    assert.equal(JSON.parse(await site.ok("node", "inspect", "worker9", "-o", "json")).serial, "SN-9");
  }
});
