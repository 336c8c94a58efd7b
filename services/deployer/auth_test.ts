import assert from "node:assert/strict";
import type { Authorizer, Principal } from "@ultracloud/rpc";
import { SystemState } from "@ultracloud/proto/deployer/v1";
import { bindAgents } from "./mod.ts";
import { clusterOf, openWorld } from "./test_world.ts";

const agent: Principal = { kind: "workload", id: "spiffe://test/svc/nix-agent" };
const everything: Authorizer = { authorize: () => ({ allow: true }) };

Deno.test("behind mutual TLS an agent is its node's: it reads and reports that one and nothing else", async () => {
  const { authenticator, authorizer } = bindAgents("test", {
    authenticator: { authenticate: () => agent },
    authorizer: everything,
  });
  const as = (certificateId: string | undefined) => authenticator.authenticate(new Headers(), { certificateId });
  const own = await as("spiffe://test/svc/nix-agent/node04");
  assert.equal(own.id, "spiffe://test/node/node04");
  const may = async (principal: Principal, permission: string, scope: string) =>
    (await authorizer.authorize(principal, permission, scope, true)).allow;
  assert.equal(await may(own, "deployer.agent.report", "node:node04"), true);
  assert.equal(await may(own, "deployer.agent.report", "node:node05"), false);
  assert.equal(await may(own, "deployer.agent.get", ""), false);
  assert.equal(await may(own, "deployer.node.get", "node:node04"), false);
  assert.equal(await may(own, "deployer.cluster.apply", ""), false);
  // The key of all agents with the certificate of something else, or of another cluster.
  for (
    const id of [
      "spiffe://test/svc/flaredb/node04",
      "spiffe://other/svc/nix-agent/node04",
      "spiffe://test/svc/nix-agent",
    ]
  ) {
    assert.throws(() => as(id), { code: "certificate_mismatch" });
  }
  assert.equal((await as(undefined)).id, agent.id, "on loopback there are no certificates");
});

Deno.test("every call asks for a permission of its own, at the root or at one node", async () => {
  await using world = await openWorld();
  await world.apply(clusterOf(1));
  world.server.asked.length = 0;
  await world.agents.getDesired({ node: "worker1" });
  await world.report("worker1", SystemState.IDLE, "");
  await world.nodes.rotateToken({});
  await world.deployer.export({});
  assert.deepEqual(world.server.asked, [
    { permission: "deployer.agent.get", scope: "node:worker1" },
    { permission: "deployer.agent.report", scope: "node:worker1" },
    { permission: "deployer.machine.rotate", scope: "" },
    { permission: "deployer.cluster.export", scope: "" },
  ]);
  world.server.who = { ...world.server.who, allow: false };
  await assert.rejects(world.nodes.rotateToken({}), { kind: "permission_denied" });
  await assert.rejects(world.deployer.export({}), { kind: "permission_denied" });
});

Deno.test("bad input is refused with what is wrong, and nothing has happened", async () => {
  await using world = await openWorld();
  await world.apply(clusterOf(1));
  const { exportJson: before } = await world.deployer.export({});
  const long = "x".repeat(5_000);
  const { nodes, agents, rollouts, deployer } = world;
  const cases: [() => Promise<unknown>, string][] = [
    [() => nodes.preRegister({}), "invalid_name"],
    [() => nodes.preRegister({ node: "../x" }), "invalid_name"],
    [() => nodes.preRegister({ node: "worker1", serial: long }), "invalid_field"],
    [() => nodes.preRegister({ node: "worker1", serial: "another" }), "invalid_field"],
    [() => nodes.preRegister({ node: "worker1", tokenSha256: "abc" }), "invalid_field"],
    [() => nodes.preRegister({ node: "worker1", tokenTtlMs: -1n }), "invalid_field"],
    [() => nodes.preRegister({ node: "worker1", tokenTtlMs: 2n ** 62n }), "invalid_field"],
    [() => nodes.preRegister({ node: "worker1", class: "none" }), "invalid_field"],
    [() => nodes.preRegister({ node: "worker1", tokenExpireTime: { seconds: 253_402_300_799n } }), "invalid_field"],
    [() => nodes.approve({ machine: long, node: "worker1" }), "machine_not_found"],
    [() => nodes.reject({}), "machine_not_found"],
    [() => nodes.rotateToken({ node: "none" }), "node_not_found"],
    [() => nodes.getNode({ node: "none" }), "node_not_found"],
    [() => nodes.listNodes({ page: { pageSize: -1 } }), "invalid_field"],
    [() => nodes.removeNode({ node: "none" }), "node_not_found"],
    [() => agents.getDesired({}), "invalid_name"],
    [() => agents.getDesired({ node: "none" }), "node_not_found"],
    [() => agents.getDesired({ node: "worker1", waitMs: -1 }), "invalid_field"],
    [() => agents.reportObserved({ node: "worker1" }), "invalid_field"],
    [() => agents.reportObserved({ node: "worker1", observed: {} }), "invalid_field"],
    [
      () => agents.reportObserved({ node: "worker1", observed: { state: SystemState.IDLE, bootId: long } }),
      "invalid_field",
    ],
    [() => agents.reportObserved({ node: "none", observed: { state: SystemState.IDLE } }), "node_not_found"],
    [() => rollouts.getRollout({}), "invalid_name"],
    [() => rollouts.abortRollout({ rollout: "none" }), "rollout_not_found"],
    [() => deployer.applyClusterState({}), "cluster_invalid"],
    [() => deployer.restore({}), "export_invalid"],
    [() => deployer.putBundle({}), "invalid_field"],
  ];
  for (const [i, [call, code]] of cases.entries()) await assert.rejects(call(), { code }, `case ${i}`);
  const { exportJson: after } = await world.deployer.export({});
  const timeless = (json: string) => ({ ...JSON.parse(json), exportedMs: 0 });
  assert.deepEqual(timeless(after), timeless(before));
});
