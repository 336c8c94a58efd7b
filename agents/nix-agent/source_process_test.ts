import assert from "node:assert/strict";
import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock, utf8 } from "@ultracloud/base";
import { desiredKey } from "@ultracloud/cluster-state";
import { KvService } from "@ultracloud/proto/chainfire/v1";
import { DeployerService, NodeService, SystemState } from "@ultracloud/proto/deployer/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { NixAgentService } from "@ultracloud/proto/nixagent/v1";
import { startTestStack } from "@ultracloud/testing";
import { chainfireSource } from "./source.ts";
import { until } from "./test_world.ts";

const node = "worker1";
const system = (letter: string) => `/nix/store/${letter.repeat(32)}-nixos-system`;
const cache = { url: "http://127.0.0.1:8090", key: `cache-1:${"A".repeat(43)}=` };

function stateOf(target: string, nodes: readonly string[] = [node, "worker2"]): string {
  return JSON.stringify({
    version: 1,
    clusterId: "test",
    profile: "bare-metal-bootstrap",
    network: { cidr: "10.77.0.0/24", operatorAddress: "10.77.0.1" },
    nodes: Object.fromEntries(
      nodes.map((name, i) => [name, { role: "worker", address: `10.77.0.2${i}`, member: i + 1, class: "worker" }]),
    ),
    classes: { worker: { desired_system: { target_system: target, health_check_command: ["check", "all"] } } },
    deployer: { binaryCacheUrl: cache.url, trustedKeys: [cache.key] },
  });
}

Deno.test("what a node should become is read in chainfire, with no deployer up too, and what it became reaches the deployer", async () => {
  await using test = await startTestStack({
    components: ["chainfire", "flaredb", "deployer", "nix-agent"],
    overrides: { deployer: { leaseTtlMs: 3_000, reconcileMs: 200 } },
    start: false,
  });
  const { stack } = test;
  for (const name of ["chainfire", "flaredb", "deployer"]) stack.start(name);
  await using closing = new AsyncDisposableStack();
  const signerOf = async (name: string, keyFile: string) =>
    await createWorkloadSigner({ clusterId: "test", name, keyFile }, { clock: systemClock });
  const operator = await signerOf("operator", stack.operatorKeyFile);
  // The agent's own key: it may do no more than the agent.
  const agent = await signerOf("nix-agent", `${stack.placement("nix-agent").configDir}/identity.key`);
  const at = (callee: string, signer = operator) => ({
    endpoints: [stack.endpoint(callee)],
    authorization: signer.authorization(callee),
    retries: 10,
  });
  const deployer = closing.use(createRpcClient(DeployerService, at("deployer")));
  const nodes = closing.use(createRpcClient(NodeService, at("deployer")));
  const kv = closing.use(createRpcClient(KvService, at("chainfire", agent)));
  const source = chainfireSource(node, kv, { clock: systemClock });
  const { signal } = new AbortController();
  await until("a writer", () => deployer.getStatus({}).then(({ writing }) => writing, () => false));

  assert.deepEqual(await source.wish("", 0, signal), {
    intentId: "",
    system: undefined,
    cache: { url: "", trustedKeys: [] },
    quarantineReason: "",
  });
  await deployer.applyClusterState({ stateJson: stateOf(system("a")) });
  const first = await until("the first wish", async () => {
    const wish = await source.wish("", 0, signal);
    return wish.intentId !== "" && wish;
  });
  assert.deepEqual([first.system!.target_system, first.system!.health_check_command], [system("a"), ["check", "all"]]);
  assert.deepEqual(first.cache, { url: cache.url, trustedKeys: [cache.key] });
  // It waits for another one than it knows.
  const waiting = source.wish(first.intentId, 60_000, signal);
  await deployer.applyClusterState({ stateJson: stateOf(system("b")) });
  const second = await waiting;
  assert.equal(second.system!.target_system, system("b"));
  assert.notEqual(second.intentId, first.intentId);

  await source.report({
    state: "rolled-back",
    reason: "disk controller missing",
    intentId: second.intentId,
    currentSystem: system("a"),
    targetSystem: system("b"),
    generation: 1,
    bootId: "boot-1",
    agentVersion: "test",
  }, signal);
  const observed = await until("the report", async () => (await nodes.getNode({ node })).observed);
  assert.deepEqual([observed.state, observed.reason], [SystemState.ROLLED_BACK, "disk controller missing"]);
  // What failed on one is kept from the class, also for those that read there.
  const other = chainfireSource("worker2", kv, { clock: systemClock });
  await until(
    "the quarantine",
    async () => /disk controller missing/.test((await other.wish("", 0, signal)).quarantineReason),
  );

  // The deployer is gone: the wish stands, and nobody else can write it.
  await stack.process("deployer")!.kill();
  assert.equal((await source.wish("", 0, signal)).intentId, second.intentId);
  const key = utf8.encode(desiredKey(node));
  await assert.rejects(kv.put({ key, value: utf8.encode("{}") }), { code: "permission_denied" });
  using any = createRpcClient(KvService, at("chainfire"));
  await any.put({ key, value: utf8.encode('{"intentId":"zz","system":{"targetSystem":"/etc/passwd; rm"}}') });
  await assert.rejects(source.wish("", 0, signal), { code: "wish_invalid" });
  await any.put({ key, value: utf8.encode("no JSON") });
  await assert.rejects(source.wish("", 0, signal), { code: "wish_invalid" });

  // The next writer puts right what stands there, and takes out what nobody is any more.
  await any.put({ key: utf8.encode(desiredKey("nobody")), value: utf8.encode("{}") });
  stack.start("deployer");
  await until(
    "the wish again",
    () => source.wish("", 0, signal).then(({ intentId }) => intentId === second.intentId, () => false),
  );
  const below = { key: utf8.encode(desiredKey("")), rangeEnd: utf8.encode("/ultracloud/systems/desired0") };
  await until("no key of nobody", async () => {
    const { kvs } = await any.range(below);
    return kvs.map((item) => utf8.decode(item.key)).join() === `${desiredKey(node)},${desiredKey("worker2")}`;
  });
});

Deno.test("an agent that nobody announced is ready and says so; on a host without Nix it says that of every wish", async () => {
  await using test = await startTestStack({
    components: ["chainfire", "flaredb", "deployer", "nix-agent"],
    overrides: { "nix-agent": { nodeName: node, pollMs: 300, retryMs: 300 } },
    start: false,
  });
  const { stack } = test;
  for (const name of ["chainfire", "flaredb", "deployer", "nix-agent"]) stack.start(name);
  await using closing = new AsyncDisposableStack();
  const keyFile = stack.operatorKeyFile;
  const signer = await createWorkloadSigner({ clusterId: "test", name: "operator", keyFile }, { clock: systemClock });
  const at = (name: string) => ({
    endpoints: [stack.endpoint(name)],
    authorization: signer.authorization(name),
    retries: 10,
  });
  const agent = closing.use(createRpcClient(NixAgentService, at("nix-agent")));
  const deployer = closing.use(createRpcClient(DeployerService, at("deployer")));
  await until("a ready agent", async () => {
    const answer = await fetch(`${stack.endpoint("nix-agent")}/readyz`).catch(() => undefined);
    await answer?.body?.cancel();
    return answer?.ok;
  });
  // It is ready before it was told for the first time.
  const { state, reason, launcher, nix, nixFound } = await until("what it knows", async () => {
    const status = await agent.getStatus({});
    return status.reason !== "" && status;
  });
  assert.deepEqual([state, reason], ["idle", "whoever decides does not know this node"]);
  assert.ok(["systemd", "setsid"].includes(launcher) && nix !== "");
  if (nixFound) return;
  await until("a writer", () => deployer.getStatus({}).then(({ writing }) => writing, () => false));
  await deployer.applyClusterState({ stateJson: stateOf(system("a")) });
  const failed = await until("the failure", async () => {
    const status = await agent.getStatus({});
    return status.state === "failed" && status;
  });
  assert.equal(failed.reason, `Cannot become ${system("a")}: ${nix}`);
});
