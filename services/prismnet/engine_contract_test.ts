import assert from "node:assert/strict";
import { Fault, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { memoryBackend, openPlatform } from "@ultracloud/platform";
import {
  AddressPoolService,
  EngineService,
  FloatingIpService,
  NatGatewayService,
  NetworkAclService,
  PeeringService,
  PortService,
  RouterService,
  SubnetService,
  Support,
  VpcService,
} from "@ultracloud/proto/prismnet/v1";
import { inProcessClient } from "@ultracloud/testing";
import type { Engine } from "./engine.ts";
import { createPrismnet, ovnEngine, userEngine } from "./mod.ts";

/** What every engine must do, whatever carries the packets; packets themselves are in ovn/packets_process_test.ts. */
const engines: Readonly<Record<string, () => Engine>> = {
  user: () => userEngine({ hostPortMin: 20_000, hostPortMax: 20_999 }, { rng: seededRng(1) }),
  ovn: ovnEngine,
};
const project = "acme/prod";

async function world(engine: Engine) {
  const platform = openPlatform({ service: "prismnet" }, {
    kv: memoryBackend({ clock: systemClock }),
    clock: systemClock,
    rng: seededRng(5),
    log: noopLogger,
  });
  const { services } = createPrismnet({ platform, engine });
  const vpcs = inProcessClient(VpcService, services);
  const subnets = inProcessClient(SubnetService, services);
  await vpcs.createVpc({ project, name: "net" });
  await vpcs.createVpc({ project, name: "other" });
  await subnets.createSubnet({ project, name: "lan", vpc: "net", cidr: "10.1.0.0/24" });
  return { services, subnets, ports: inProcessClient(PortService, services) };
}

async function outcome(work: Promise<unknown>): Promise<string> {
  return await work.then(() => "ok", (error) => error instanceof Fault ? error.code : String(error));
}

for (const [name, make] of Object.entries(engines)) {
  Deno.test(`engine ${name} declares every feature once, with a word on it`, async () => {
    const { services } = await world(make());
    const engine = await inProcessClient(EngineService, services).getEngine({});
    assert.equal(engine.name, name);
    const features = engine.features.map((feature) => feature.name);
    assert.equal(new Set(features).size, features.length);
    assert.deepEqual(features.toSorted(), make().features.map((feature) => feature.name).toSorted());
    assert.deepEqual(features.toSorted(), userEngineFeatures());
    assert.ok(engine.features.every(({ note, support }) => note.length > 10 && support !== Support.UNSPECIFIED));
  });

  Deno.test(`engine ${name} binds a port to one host, the same again, and elsewhere once it is free`, async () => {
    const { ports } = await world(make());
    await ports.createPort({ project, name: "p", subnet: "lan" });
    const bind = (host: string) => ports.bindPort({ project, port: "p", host });
    const { binding } = await bind("node01");
    assert.ok(binding?.engine.case);
    assert.deepEqual((await bind("node01")).binding, binding);
    assert.equal(await outcome(bind("node02")), "port_bound");
    assert.equal((await ports.unbindPort({ project, port: "p" })).binding, undefined);
    assert.equal((await bind("node02")).host, "node02");
    await ports.unbindPort({ project, port: "p" });
    assert.equal(await outcome(ports.deletePort({ project, port: "p" })), "ok");
  });

  Deno.test(`engine ${name} has a port on two hosts while its guest moves, or says that it cannot`, async () => {
    const { ports } = await world(make());
    await ports.createPort({ project, name: "p", subnet: "lan" });
    const bind = (host: string) => ports.bindPort({ project, port: "p", host, beside: true });
    const unbind = (host: string) => ports.unbindPort({ project, port: "p", host });
    const hosts = (port: { host: string; arrivingHost: string }) => [port.host, port.arrivingHost];
    assert.deepEqual(hosts(await bind("node01")), ["node01", ""], "beside nobody is alone");
    if (!make().carriesTwice) {
      assert.equal(await outcome(bind("node02")), "engine_unsupported");
      return;
    }
    assert.deepEqual(hosts(await bind("node02")), ["node01", "node02"]);
    assert.deepEqual(hosts(await bind("node02")), ["node01", "node02"], "the same again");
    assert.equal(await outcome(bind("node03")), "port_bound");
    assert.deepEqual(hosts(await unbind("node03")), ["node01", "node02"], "one that does not have it");
    assert.deepEqual(hosts(await unbind("node02")), ["node01", ""], "it did not move");
    await bind("node02");
    const moved = await unbind("node01");
    assert.deepEqual([...hosts(moved), moved.binding?.engine.case], ["node02", "", "tap"], "it moved");
    await bind("node01");
    assert.deepEqual(hosts(await unbind("")), ["", ""], "from all");
    assert.equal(await outcome(ports.deletePort({ project, port: "p" })), "ok");
  });

  Deno.test(`engine ${name} refuses what it does not enforce, and takes what it does`, async () => {
    const engine = make();
    const { services, subnets } = await world(engine);
    const wanted = (feature: string) =>
      engine.features.find((f) => f.name === feature)?.support === "enforced" ? "ok" : "engine_unsupported";
    const acls = inProcessClient(NetworkAclService, services);
    const pools = inProcessClient(AddressPoolService, services);
    await acls.createNetworkAcl({ project, name: "edge" });
    await pools.createAddressPool({ name: "public", cidr: "172.30.0.0/24", uplink: "outside" });
    const { createNatGateway, listNatGateways } = inProcessClient(NatGatewayService, services);
    const { createFloatingIp, listFloatingIps } = inProcessClient(FloatingIpService, services);
    const { createRouter, listRouters } = inProcessClient(RouterService, services);
    const { createPeering, listPeerings } = inProcessClient(PeeringService, services);
    const six = { project, name: "six", vpc: "net", cidr: "10.6.0.0/24", cidrV6: "fd00:6::/64" };
    const seen = {
      ipv6: await outcome(subnets.createSubnet(six)),
      network_acl: await outcome(subnets.setSubnetAcl({ project, subnet: "lan", networkAcl: "edge" })),
      floating_ip: await outcome(createNatGateway({ project, name: "way", vpc: "net", addressPool: "public" })),
      floating_ip_address: await outcome(createFloatingIp({ project, name: "ip", addressPool: "public" })),
      routing: await outcome(createRouter({ project, name: "main", vpc: "net" })),
      routing_peer: await outcome(createPeering({ project, name: "both", vpc: "net", peerVpc: "other" })),
    };
    for (const [feature, answer] of Object.entries(seen)) {
      assert.equal(answer, wanted(feature.replace(/_(address|peer)$/, "")), feature);
    }
    const listed = {
      floating_ip: (await listNatGateways({ project })).natGateways.length,
      floating_ip_address: (await listFloatingIps({ project })).floatingIps.length,
      routing: (await listRouters({ project })).routers.length,
      routing_peer: (await listPeerings({ project })).peerings.length,
    };
    for (const [feature, count] of Object.entries(listed)) {
      assert.equal(count, seen[feature as keyof typeof listed] === "ok" ? 1 : 0, `listed ${feature}`);
    }
    assert.equal((await acls.listNetworkAcls({ project })).networkAcls.length, 1);
    assert.equal((await pools.listAddressPools({})).addressPools.length, 1);
  });
}

function userEngineFeatures(): string[] {
  return engines.user!().features.map((feature) => feature.name).toSorted();
}
