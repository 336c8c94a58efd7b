import assert from "node:assert/strict";
import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock, utf8 } from "@ultracloud/base";
import { drainAnswerKey, drainRequestKey, drainRequestSchema } from "@ultracloud/cluster-state";
import { KvService } from "@ultracloud/proto/chainfire/v1";
import { DeployerService, NodeService, SystemState } from "@ultracloud/proto/deployer/v1";
import { NixAgentService } from "@ultracloud/proto/nixagent/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { openNixBox, startTestStack, testUnless } from "@ultracloud/testing";
import { openNixWorld, quick, until } from "./test_world.ts";

const box = await openNixBox();
const node = "worker1";

/** A cluster of one worker that should become `target`. */
function stateOf(target: string, cache: { readonly url: string; readonly key: string }, change = {}) {
  return JSON.stringify({
    version: 1,
    clusterId: "test",
    profile: "bare-metal-bootstrap",
    network: { cidr: "10.77.0.0/24", operatorAddress: "10.77.0.1" },
    nodes: { [node]: { role: "worker", address: "10.77.0.21", member: 1, class: "worker" } },
    classes: { worker: { desired_system: { ...quick, ...change, target_system: target } } },
    rollouts: { workers: { classes: ["worker"] } },
    deployer: { binaryCacheUrl: cache.url, trustedKeys: [cache.key] },
  });
}

testUnless(
  "deployer and nix-agent as processes: a switch waits for its drain, and an agent that is killed -9 loses no trial",
  typeof box === "string" ? box : undefined,
  async () => {
    await using world = await openNixWorld(box as Exclude<typeof box, string>);
    const root = `${world.dir}/root`;
    await Deno.mkdir(`${root}/run`, { recursive: true });
    const cache = { url: world.cache.url, key: world.workshop.publicKey };
    await using test = await startTestStack({
      components: ["chainfire", "flaredb", "deployer", "nix-agent"],
      start: false,
      overrides: { "nix-agent": { nodeName: node, root, launcher: "setsid", pollMs: 300, retryMs: 300 } },
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
    const deployer = closing.use(createRpcClient(DeployerService, at("deployer")));
    const nodes = closing.use(createRpcClient(NodeService, at("deployer")));
    const agent = closing.use(createRpcClient(NixAgentService, at("nix-agent")));
    const kv = closing.use(createRpcClient(KvService, at("chainfire")));
    await until("a writer", () => deployer.getStatus({}).then(({ writing }) => writing, () => false));
    const observed = (state: SystemState, target: string, reason = /^/) =>
      until(`${SystemState[state]} of ${target}`, async () => {
        const { observed } = await nodes.getNode({ node });
        return observed?.state === state && observed.targetSystem === target && reason.test(observed.reason) &&
          observed;
      });
    const activations = async () => (await Deno.readTextFile(`${root}/run/activations`)).trim().split("\n").length;

    const [a, b, c] = [await world.system("system-a"), await world.system("system-b"), await world.system("system-c")];
    await deployer.applyClusterState({ stateJson: stateOf(a, cache) });
    await observed(SystemState.ACTIVE, a);

    // Who schedules services says no: nothing is switched, and the status says why.
    await deployer.applyClusterState({ stateJson: stateOf(b, cache, { drain: "required" }) });
    const asked = () =>
      until("a request for the drain", async () => {
        const { kvs: [item] } = await kv.range({ key: utf8.encode(drainRequestKey(node)) });
        return item && drainRequestSchema.parse(JSON.parse(utf8.decode(item.value)));
      });
    const answer = async (requestId: string, state: string, reason = "") => {
      const value = utf8.encode(JSON.stringify({ requestId, state, reason, remaining: 0 }));
      await kv.put({ key: utf8.encode(drainAnswerKey(node)), value });
    };
    const first = await asked();
    assert.deepEqual([first.reason, first.targetSystem], ["switch", b]);
    await answer(first.id, "refused", "the last replica of web is here");
    await observed(SystemState.PREFLIGHT, b, /drain was refused: the last replica of web is here/);
    assert.equal(await activations(), 1);
    // It asks again; what was answered to the request before grants nothing.
    const second = await until("another request", async () => {
      const request = await asked();
      return request.id !== first.id && request;
    });
    assert.equal(await activations(), 1);
    await answer(second.id, "granted");
    await observed(SystemState.ACTIVE, b);
    await until("the end of the request", async () => {
      const { kvs } = await kv.range({ key: utf8.encode(drainRequestKey(node)) });
      return kvs.length === 0;
    });

    // Killed in the middle of a trial; the next one goes on with it.
    await deployer.applyClusterState({ stateJson: stateOf(c, cache, { health_check_grace_ms: 6_000 }) });
    await observed(SystemState.VERIFYING, c);
    await stack.process("nix-agent")!.kill();
    stack.start("nix-agent");
    await observed(SystemState.ACTIVE, c);
    assert.equal(await activations(), 3);
    const { generations } = await agent.listGenerations({});
    assert.deepEqual(generations.map(({ number, system, current }) => [number, system, current]), [
      [1, a, false],
      [2, b, false],
      [3, c, true],
    ]);
    await assert.rejects(agent.retry({ intentId: "ff" }), { code: "rejection_not_found" });
  },
);
