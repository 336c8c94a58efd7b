import assert from "node:assert/strict";
import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import { freePort, spawnComponent, waitReady } from "@ultracloud/launch";
import { DeployerService, NodeService } from "@ultracloud/proto/deployer/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { createTestCa, startTestStack, workspaceRoot } from "@ultracloud/testing";
import { parse, stringify } from "smol-toml";
import { clusterOf, factsOf, until } from "./test_world.ts";

const leaseTtlMs = 3_000;

Deno.test("two deployers as processes: machines phone home over TLS, kill -9 hands over, a paused writer is fenced", async () => {
  const dir = await Deno.makeTempDir({ prefix: "uc-deployer-" });
  await using closing = new AsyncDisposableStack();
  closing.defer(() => Deno.remove(dir, { recursive: true }));
  const ca = await createTestCa();
  const tls = await ca.issueFiles(dir, "bootstrap");
  const test = await startTestStack({ components: ["chainfire", "flaredb", "iam", "deployer"], start: false });
  closing.use(test);
  const { stack } = test;
  const placement = stack.placement("deployer");
  const configFile = `${placement.configDir}/config.toml`;
  for (const file of Object.values(tls)) await Deno.copyFile(file, `${placement.configDir}/${file.split("/").at(-1)}`);
  const own = (file: string) => `${placement.configDir}/${file.split("/").at(-1)}`;
  const config = parse(await Deno.readTextFile(configFile));
  const ownTls = { certFile: own(tls.certFile), keyFile: own(tls.keyFile), caFile: own(tls.caFile) };
  const bootstrap = { ...config.bootstrap as object, tls: ownTls };
  await Deno.writeTextFile(configFile, stringify({ ...config, instance: "a", leaseTtlMs, bootstrap }));
  await stack.startAll({ timeoutMs: 90_000 });

  // The other replica is another process of the same component on ports of its own.
  const listen = { rpc: `127.0.0.1:${freePort()}`, bootstrap: `127.0.0.1:${freePort()}` };
  const second = `${placement.configDir}/second.toml`;
  await Deno.writeTextFile(
    second,
    stringify({
      ...config,
      instance: "b",
      leaseTtlMs,
      rpc: { listen: listen.rpc },
      bootstrap: { listen: listen.bootstrap, tls: ownTls },
    }),
  );
  const { manifest, dir: home } = stack.member("deployer");
  const other = spawnComponent({
    manifest,
    placement: { ...placement, listen },
    program: { kind: "source", root: workspaceRoot, entry: `${home}/main.ts` },
    logFile: stack.logFile("deployer-b"),
    args: ["--config", second],
  });
  closing.defer(() => other.stop());
  await waitReady(`http://${listen.rpc}`, { name: "deployer b", timeoutMs: 60_000, process: other });

  const keyFile = stack.operatorKeyFile;
  const signer = await createWorkloadSigner({ clusterId: "test", name: "operator", keyFile }, { clock: systemClock });
  const at = (...endpoints: string[]) => ({ endpoints, authorization: signer.authorization("deployer"), retries: 10 });
  const urls = { a: stack.endpoint("deployer"), b: `http://${listen.rpc}` };
  const nodes = closing.use(createRpcClient(NodeService, { ...at(urls.a, urls.b), timeoutMs: 60_000 }));
  const clients = {
    a: closing.use(createRpcClient(DeployerService, { ...at(urls.a), retries: 0 })),
    b: closing.use(createRpcClient(DeployerService, { ...at(urls.b), retries: 0 })),
  };
  await until(async () => (await clients.a.getStatus({})).writing || (await clients.b.getStatus({})).writing);
  const [writer, standby] = (await clients.a.getStatus({})).writing ? ["a", "b"] as const : ["b", "a"] as const;
  await clients[writer].applyClusterState({ stateJson: JSON.stringify(clusterOf(2)) });

  // A machine over TLS, with the CA it was told to pin.
  using http = Deno.createHttpClient({ caCerts: [await Deno.readTextFile(tls.caFile)] });
  const bootstrapOf = { a: placement.listen.bootstrap!, b: listen.bootstrap };
  const phoneHome = async (which: "a" | "b", serial: string, token: string) => {
    const response = await fetch(`https://${bootstrapOf[which]}/api/v1/phone-home`, {
      client: http,
      method: "POST",
      headers: { authorization: `Bearer ${token}` },
      body: JSON.stringify({ facts: factsOf(serial) }),
    });
    return { status: response.status, body: await response.json() };
  };
  const { token } = await nodes.preRegister({ node: "worker1", serial: "SN-1" });
  const enrolled = await phoneHome(writer, "SN-1", token);
  assert.deepEqual([enrolled.status, enrolled.body.node], [200, "worker1"]);
  assert.equal((await phoneHome(standby, "SN-1", token)).status, 503);
  assert.match(enrolled.body.ca_sha256, /^[0-9a-f]{64}$/);
  const stranger = Deno.createHttpClient({ caCerts: [(await createTestCa()).caPem] });
  await assert.rejects(fetch(`https://${bootstrapOf[writer]}/healthz`, { client: stranger }));
  stranger.close();

  // Paused, not told: the standby takes over, and what the old writer still tries commits nothing.
  const processes = { a: stack.process("deployer")!, b: other };
  processes[writer].signal("SIGSTOP");
  await until(async () => (await clients[standby].getStatus({})).writing);
  processes[writer].signal("SIGCONT");
  const announced = { node: "worker2", serial: "SN-2" };
  using late = createRpcClient(NodeService, { ...at(urls[writer]), retries: 0 });
  let refused = "";
  await until(async () => {
    refused = await late.preRegister(announced).then(() => "nothing", (error: { code: string }) => error.code);
    // A process that slept sheds calls for a moment before it looks at them.
    return refused !== "overloaded";
  });
  assert.equal(refused, "not_leader");
  assert.equal((await nodes.preRegister(announced)).created, true);
  const { epoch } = (await clients[standby].getStatus({})).writer!;
  assert.equal(epoch, 2n);

  // Killed: the first takes over again, and the same machine with the same token finds its node.
  await processes[standby].kill();
  await until(async () => (await clients[writer].getStatus({})).writing);
  const again = await phoneHome(writer, "SN-1", token);
  assert.deepEqual([again.status, again.body.again], [200, true]);
  assert.equal((await clients[writer].getStatus({})).writer!.epoch, 3n);
  const listed = (await nodes.listNodes({})).nodes.map(({ meta, serial }) => [meta!.name, serial]);
  assert.deepEqual(listed, [["control", "SN-control"], ["worker1", "SN-1"], ["worker2", "SN-2"]]);
  // Neither log holds a token.
  for (const name of ["deployer", "deployer-b"]) {
    assert.equal((await Deno.readTextFile(stack.logFile(name))).includes(token), false);
  }
});
