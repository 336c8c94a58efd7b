import assert from "node:assert/strict";
import { Fault, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { memoryBackend, openPlatform } from "@ultracloud/platform";
import {
  Direction,
  EngineService,
  PortService,
  Protocol,
  SecurityGroupService,
  SubnetService,
  VpcService,
} from "@ultracloud/proto/prismnet/v1";
import { inProcessClient } from "@ultracloud/testing";
import { reconcilePorts } from "./ports_core.ts";
import { createPrismnet } from "./service.ts";
import { userEngine } from "./user_engine.ts";

const project = "acme/prod";

function world(o: { hostPorts?: [number, number] } = {}) {
  const kv = memoryBackend({ clock: systemClock });
  const platform = openPlatform({ service: "prismnet" }, {
    kv,
    clock: systemClock,
    rng: seededRng(5),
    log: noopLogger,
  });
  const [hostPortMin, hostPortMax] = o.hostPorts ?? [20000, 20999];
  const engine = userEngine({ hostPortMin, hostPortMax }, { rng: { ...seededRng(1), uint32: () => 0 } });
  const { services } = createPrismnet({ platform, engine });
  const controller = { kind: "workload" as const, id: "spiffe://test/svc/plasmavmc" };
  return {
    kv,
    platform,
    engine,
    vpcs: inProcessClient(VpcService, services),
    subnets: inProcessClient(SubnetService, services),
    groups: inProcessClient(SecurityGroupService, services),
    ports: inProcessClient(PortService, services),
    controller: inProcessClient(PortService, services, { principal: controller }),
    engines: inProcessClient(EngineService, services),
  };
}

async function network(o: { cidr?: string; hostPorts?: [number, number] } = {}) {
  const w = world(o);
  const vpc = await w.vpcs.createVpc({ project, name: "net" });
  const subnet = await w.subnets.createSubnet({ project, name: "front", vpc: "net", cidr: o.cidr ?? "10.1.0.0/24" });
  return { ...w, vpc, subnet };
}

async function code(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof Fault) return `${error.kind}/${error.code}`;
    throw error;
  }
  return "ok";
}

const tcp = (port: number, remoteCidr = "") => ({
  direction: Direction.INGRESS,
  protocol: Protocol.TCP,
  portMin: port,
  portMax: port,
  remoteCidr,
});

Deno.test("a VPC is made, found by name and id, updated under its etag and deleted", async () => {
  const { vpcs } = world();
  const made = await vpcs.createVpc({ project, name: "net", description: "one", labels: { tier: "gold" } });
  assert.equal((await vpcs.getVpc({ project, vpc: made.meta!.id })).meta!.name, "net");
  const next = await vpcs.updateVpc({
    project,
    vpc: "net",
    value: { description: "two" },
    updateMask: { paths: ["description"] },
    etag: made.meta!.etag,
  });
  assert.equal(next.description, "two");
  assert.deepEqual(next.meta!.labels, { tier: "gold" });
  assert.equal(await code(vpcs.updateVpc({ project, vpc: "net", etag: made.meta!.etag })), "aborted/etag_mismatch");
  const badMask = vpcs.updateVpc({ project, vpc: "net", updateMask: { paths: ["meta.id"] } });
  assert.equal(await code(badMask), "invalid_argument/invalid_field");
  assert.equal((await vpcs.listVpcs({ project })).vpcs.length, 1);
  await vpcs.deleteVpc({ project, vpc: "net" });
  assert.equal(await code(vpcs.getVpc({ project, vpc: "net" })), "not_found/vpc_not_found");
});

Deno.test("subnets of one VPC do not overlap, those of two may", async () => {
  const { vpcs, subnets } = await network();
  const overlapping = subnets.createSubnet({ project, name: "b", vpc: "net", cidr: "10.1.0.128/25" });
  assert.equal(await code(overlapping), "failed_precondition/cidr_overlaps");
  await vpcs.createVpc({ project, name: "other" });
  await subnets.createSubnet({ project, name: "b", vpc: "other", cidr: "10.1.0.128/25" });
  const both = await Promise.all(
    ["c", "d"].map((name) => code(subnets.createSubnet({ project, name, vpc: "net", cidr: "10.9.0.0/16" }))),
  );
  assert.deepEqual(both.sort(), ["failed_precondition/cidr_overlaps", "ok"]);
});

Deno.test("what is in use is not deleted, and everything goes in the right order", async () => {
  const { vpcs, subnets, groups, ports } = await network();
  await groups.createSecurityGroup({ project, name: "web" });
  await ports.createPort({ project, name: "p", subnet: "front", securityGroups: ["web"] });
  assert.equal(await code(vpcs.deleteVpc({ project, vpc: "net" })), "failed_precondition/vpc_in_use");
  assert.equal(await code(subnets.deleteSubnet({ project, subnet: "front" })), "failed_precondition/subnet_in_use");
  const group = () => groups.deleteSecurityGroup({ project, securityGroup: "web" });
  assert.equal(await code(group()), "failed_precondition/security_group_in_use");
  await ports.deletePort({ project, port: "p" });
  await group();
  await subnets.deleteSubnet({ project, subnet: "front" });
  await vpcs.deleteVpc({ project, vpc: "net" });
});

Deno.test("100 concurrent ports get 100 different addresses and MACs", async () => {
  const { ports } = await network();
  const made = await Promise.all(
    Array.from({ length: 100 }, (_, i) => ports.createPort({ project, name: `p${i}`, subnet: "front" })),
  );
  assert.equal(new Set(made.map((p) => p.ipAddress)).size, 100);
  assert.equal(new Set(made.map((p) => p.macAddress)).size, 100);
  assert.ok(made.every((p) => p.ipAddress !== "10.1.0.1" && p.macAddress.startsWith("52:54:00:")));
});

Deno.test("of 100 concurrent ports in a /26 as many fit as it has addresses and the rest is told that it is full", async () => {
  const { ports } = await network({ cidr: "10.1.0.0/26" });
  const results = await Promise.all(
    Array.from({ length: 100 }, (_, i) => code(ports.createPort({ project, name: `p${i}`, subnet: "front" }))),
  );
  assert.equal(results.filter((r) => r === "ok").length, 61);
  assert.equal(results.filter((r) => r === "resource_exhausted/subnet_exhausted").length, 39);
});

Deno.test("a fixed address is given once, and again after its port is gone", async () => {
  const { ports } = await network();
  const create = (name: string, ipAddress: string) => ports.createPort({ project, name, subnet: "front", ipAddress });
  assert.equal((await create("a", "10.1.0.50")).ipAddress, "10.1.0.50");
  assert.equal(await code(create("b", "10.1.0.50")), "already_exists/ip_taken");
  assert.equal(await code(create("b", "10.1.0.1")), "already_exists/ip_taken");
  assert.equal(await code(create("b", "10.1.1.50")), "invalid_argument/invalid_ip");
  await ports.deletePort({ project, port: "a" });
  assert.equal((await create("b", "10.1.0.50")).ipAddress, "10.1.0.50");
});

Deno.test("binding gives forwards for ingress rules, the same again for the same host, and unbinding frees them", async () => {
  const { ports, groups } = await network();
  await groups.createSecurityGroup({ project, name: "web", rules: [tcp(80), tcp(22)] });
  await ports.createPort({ project, name: "p", subnet: "front", securityGroups: ["web"] });
  const bound = await ports.bindPort({ project, port: "p", host: "node01" });
  assert.equal(bound.binding?.engine.case, "user");
  const user = bound.binding.engine.value;
  assert.ok(user && "forwards" in user);
  assert.deepEqual(user.forwards.map((f) => [f.hostIp, f.hostPort, f.guestPort]), [
    ["127.0.0.1", 20000, 22],
    ["127.0.0.1", 20001, 80],
  ]);
  assert.equal(user.restrict, true);
  assert.equal(user.gatewayIp, "10.1.0.1");
  assert.deepEqual((await ports.bindPort({ project, port: "p", host: "node01" })).binding, bound.binding);
  const elsewhere = ports.bindPort({ project, port: "p", host: "node02" });
  assert.equal(await code(elsewhere), "failed_precondition/port_bound");
  const unbound = await ports.unbindPort({ project, port: "p" });
  assert.equal(unbound.host, "");
  assert.equal(unbound.binding, undefined);
  assert.equal((await ports.bindPort({ project, port: "p", host: "node02" })).host, "node02");
});

Deno.test("rule changes reach bound ports and keep the forwards that stay", async () => {
  const { ports, groups } = await network();
  const forwards = async () => {
    const engine = (await ports.getPort({ project, port: "p" })).binding!.engine;
    return engine.case === "user"
      ? { ports: engine.value.forwards.map((f) => `${f.hostPort}>${f.guestPort}`), restrict: engine.value.restrict }
      : undefined;
  };
  await groups.createSecurityGroup({ project, name: "web", rules: [tcp(22)] });
  await ports.createPort({ project, name: "p", subnet: "front", securityGroups: ["web"] });
  await ports.bindPort({ project, port: "p", host: "node01" });
  const group = await groups.addRule({ project, securityGroup: "web", rule: tcp(80) });
  assert.deepEqual(await forwards(), { ports: ["20000>22", "20001>80"], restrict: true });
  await groups.addRule({ project, securityGroup: "web", rule: { direction: Direction.EGRESS } });
  await groups.removeRule({ project, securityGroup: "web", ruleId: group.rules[0]!.id });
  assert.deepEqual(await forwards(), { ports: ["20001>80"], restrict: false });
  await ports.setPortSecurityGroups({ project, port: "p", securityGroups: [] });
  assert.deepEqual(await forwards(), { ports: [], restrict: true });
  assert.equal(
    await code(groups.addRule({ project, securityGroup: "web", rule: tcp(80) })),
    "already_exists/rule_exists",
  );
  const absent = groups.removeRule({ project, securityGroup: "web", ruleId: "rule_x" });
  assert.equal(await code(absent), "not_found/rule_not_found");
});

Deno.test("a rule change whose process died before its effect is healed by the reconciler", async () => {
  const w = await network();
  await w.groups.createSecurityGroup({ project, name: "web", rules: [tcp(22)] });
  await w.ports.createPort({ project, name: "p", subnet: "front", securityGroups: ["web"] });
  await w.ports.bindPort({ project, port: "p", host: "node01" });
  const { groupKind } = await import("./kinds.ts");
  await w.platform.transact(async (tx) => {
    const group = await tx.get(groupKind, project, "web");
    tx.update(groupKind, group, { value: { ...group.value, rules: [] } });
  });
  const signal = new AbortController().signal;
  assert.equal(await reconcilePorts(w.platform, w.engine, signal), 1);
  assert.equal(await reconcilePorts(w.platform, w.engine, signal), 0);
});

Deno.test("an owned port is bound and freed by its owner's service only", async () => {
  const { ports, controller } = await network();
  const owner = { service: "plasmavmc", kind: "vm", project, name: "web", id: "vm_1" };
  await ports.createPort({ project, name: "p", subnet: "front", owner });
  assert.equal(await code(ports.bindPort({ project, port: "p", host: "n" })), "failed_precondition/port_in_use");
  assert.equal(await code(ports.deletePort({ project, port: "p" })), "failed_precondition/port_in_use");
  await controller.bindPort({ project, port: "p", host: "n" });
  assert.equal(await code(controller.deletePort({ project, port: "p" })), "failed_precondition/port_bound");
  await controller.unbindPort({ project, port: "p" });
  await controller.deletePort({ project, port: "p" });
});

Deno.test("forwards of one host never share a port, and a host without free ports says so", async () => {
  const { ports, groups } = await network({ hostPorts: [30000, 30009] });
  await groups.createSecurityGroup({ project, name: "web", rules: [tcp(22), tcp(80)] });
  for (let i = 0; i < 6; i++) {
    await ports.createPort({ project, name: `p${i}`, subnet: "front", securityGroups: ["web"] });
  }
  const results = await Promise.all(
    Array.from({ length: 6 }, (_, i) => code(ports.bindPort({ project, port: `p${i}`, host: "n" }))),
  );
  assert.equal(results.filter((r) => r === "ok").length, 5);
  assert.equal(results.filter((r) => r === "resource_exhausted/host_ports_exhausted").length, 1);
  const all = (await ports.listPorts({ project })).ports.flatMap((p) =>
    p.binding?.engine.case === "user" ? p.binding.engine.value.forwards.map((f) => f.hostPort) : []
  );
  assert.equal(new Set(all).size, 10);
});

Deno.test("an idempotency key makes one port of two calls", async () => {
  const { ports } = await network();
  const headers = { "idempotency-key": "k1" };
  const a = await ports.createPort({ project, name: "p", subnet: "front" }, { headers });
  const b = await ports.createPort({ project, name: "p", subnet: "front" }, { headers });
  assert.equal(a.meta!.id, b.meta!.id);
  const other = ports.createPort({ project, name: "q", subnet: "front" }, { headers });
  assert.equal(await code(other), "already_exists/idempotency_mismatch");
});

Deno.test("lists filter by parent and by field, and the engine says what it does not enforce", async () => {
  const { ports, subnets, engines } = await network();
  await subnets.createSubnet({ project, name: "back", vpc: "net", cidr: "10.2.0.0/24" });
  await ports.createPort({ project, name: "a", subnet: "front" });
  await ports.createPort({ project, name: "b", subnet: "back", ipAddress: "10.2.0.9" });
  assert.deepEqual((await ports.listPorts({ project, subnet: "back" })).ports.map((p) => p.meta!.name), ["b"]);
  const filtered = await ports.listPorts({ project, page: { filter: ["ip_address=10.2.0.9"] } });
  assert.deepEqual(filtered.ports.map((p) => p.meta!.name), ["b"]);
  assert.equal((await subnets.listSubnets({ project, vpc: "net" })).subnets.length, 2);
  const engine = await engines.getEngine({});
  assert.equal(engine.name, "user");
  assert.equal(engine.features.length, 12);
});
