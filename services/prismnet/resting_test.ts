import assert from "node:assert/strict";
import { Fault, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { memoryBackend, openPlatform } from "@ultracloud/platform";
import {
  AddressPoolService,
  FloatingIpService,
  PortService,
  SubnetService,
  VpcService,
} from "@ultracloud/proto/prismnet/v1";
import { inProcessClient } from "@ultracloud/testing";
import { createPrismnet, ovnEngine } from "./mod.ts";
import { wakeRested } from "./resting.ts";

const project = "acme/prod";
const graceMs = 3_600_000;

function world(addressGraceMs = graceMs) {
  const platform = openPlatform({ service: "prismnet" }, {
    kv: memoryBackend({ clock: systemClock }),
    clock: systemClock,
    rng: seededRng(5),
    log: noopLogger,
  });
  const { services } = createPrismnet({ platform, engine: ovnEngine(), addressGraceMs });
  return {
    platform,
    vpcs: inProcessClient(VpcService, services),
    subnets: inProcessClient(SubnetService, services),
    ports: inProcessClient(PortService, services),
    pools: inProcessClient(AddressPoolService, services),
    ips: inProcessClient(FloatingIpService, services),
  };
}
async function outcome(work: Promise<unknown>): Promise<string> {
  return await work.then(() => "ok", (error) => error instanceof Fault ? error.code : String(error));
}

/** A /29 has five addresses for guests. */
async function full(addressGraceMs?: number) {
  const at = world(addressGraceMs);
  await at.vpcs.createVpc({ project, name: "net" });
  await at.subnets.createSubnet({ project, name: "lan", vpc: "net", cidr: "10.1.0.0/29" });
  for (let i = 0; i < 5; i++) await at.ports.createPort({ project, name: `p${i}`, subnet: "lan" });
  const { ipAddress } = await at.ports.getPort({ project, port: "p2" });
  await at.ports.deletePort({ project, port: "p2" });
  return { ...at, ipAddress };
}

Deno.test("an address that was given back rests, is handed out after its grace time, and says so meanwhile", async () => {
  const { platform, ports, ipAddress } = await full();
  await assert.rejects(
    ports.createPort({ project, name: "next", subnet: "lan" }),
    (error: Fault) => error.code === "subnet_exhausted" && /1 of them were given back and rest/.test(error.message),
  );
  assert.equal(await wakeRested(platform, graceMs), 0, "its time is not over");
  assert.equal(await wakeRested(platform, 0), 1);
  assert.equal((await ports.createPort({ project, name: "next", subnet: "lan" })).ipAddress, ipAddress);
  assert.equal(await wakeRested(platform, 0), 0);
});

Deno.test("a resting address is given to whoever asks for it by name, and its sweep leaves it alone", async () => {
  const { platform, ports, ipAddress } = await full();
  await ports.createPort({ project, name: "again", subnet: "lan", ipAddress });
  assert.equal(await wakeRested(platform, 0), 0);
  assert.equal(await outcome(ports.createPort({ project, name: "more", subnet: "lan", ipAddress })), "ip_taken");
});

Deno.test("without a grace time an address is free at once", async () => {
  const { ports, ipAddress } = await full(0);
  assert.equal((await ports.createPort({ project, name: "next", subnet: "lan" })).ipAddress, ipAddress);
});

Deno.test("a subnet and a pool whose addresses only rest can be deleted, and one made anew begins with all of them", async () => {
  const { subnets, ports, pools, ips, platform } = await full();
  assert.equal(await outcome(subnets.deleteSubnet({ project, subnet: "lan" })), "subnet_in_use");
  for (const i of [0, 1, 3, 4]) await ports.deletePort({ project, port: `p${i}` });
  await subnets.deleteSubnet({ project, subnet: "lan" });
  await pools.createAddressPool({ name: "public", cidr: "172.30.0.0/29", uplink: "outside" });
  await ips.createFloatingIp({ project, name: "ip", addressPool: "public" });
  assert.equal(await outcome(pools.deleteAddressPool({ addressPool: "public" })), "address_pool_in_use");
  await ips.deleteFloatingIp({ project, floatingIp: "ip" });
  await pools.deleteAddressPool({ addressPool: "public" });
  assert.deepEqual(await platform.kv.scan("rows", { prefix: "resting|", limit: 10 }), []);
});
