import assert from "node:assert/strict";
import { seededRng, systemClock } from "@ultracloud/base";
import { memoryBackend, openPlatform } from "@ultracloud/platform";
import {
  AddressPoolService,
  FloatingIpService,
  NatGatewayService,
  NetworkAclService,
  type Port,
  PortService,
  SecurityGroupService,
  SubnetService,
  VpcService,
} from "@ultracloud/proto/prismnet/v1";
import type { BoundService } from "@ultracloud/rpc";
import { inProcessClient } from "@ultracloud/testing";
import type { Engine } from "./engine.ts";
import { ovnEngine, userEngine } from "./mod.ts";
import { join, Netns } from "./ovn/test_netns.ts";
import { clocks, project, until, World } from "./ovn/test_world.ts";
import { createPrismnet } from "./service.ts";

export interface LabGuest {
  readonly ns: Netns;
  readonly port: Port;
}

export interface GuestSpec {
  readonly name: string;
  readonly subnet: string;
  readonly groups: readonly string[];
  readonly project?: string;
  /** False: the guest has to ask for its address. */
  readonly addressed?: boolean;
}

/** An engine with guests on it: what a suite of behaviours needs, whatever carries the packets. */
export interface Lab extends AsyncDisposable {
  readonly engine: Engine;
  readonly services: readonly BoundService[];
  /** The world outside, and its address. */
  readonly outside: Netns;
  readonly outsideIp: string;
  /** The host that carries the guests. */
  readonly host: Netns;
  guest(spec: GuestSpec): Promise<LabGuest>;
  /** Makes the way out of a network, where the engine needs one made. */
  wayOut(vpc: string): Promise<void>;
  /** Whether somebody outside gets a page from the guest's port, by whatever way in the engine has. */
  comesIn(guest: LabGuest, port: number): Promise<boolean>;
  /** Waits until what was asked for is what the network does. */
  settled(): Promise<void>;
}

export function clientsOf(services: readonly BoundService[]) {
  return {
    vpcs: inProcessClient(VpcService, services),
    subnets: inProcessClient(SubnetService, services),
    groups: inProcessClient(SecurityGroupService, services),
    ports: inProcessClient(PortService, services),
    acls: inProcessClient(NetworkAclService, services),
    pools: inProcessClient(AddressPoolService, services),
    gateways: inProcessClient(NatGatewayService, services),
    ips: inProcessClient(FloatingIpService, services),
  };
}

/** A page of the test web server from a namespace. */
export async function fetches(from: Netns, address: string): Promise<boolean> {
  return (await from.try(
    "timeout",
    "2",
    "busybox",
    "wget",
    "-q",
    "-O",
    "/dev/null",
    `http://${address}/ovn-nb.ovsschema`,
  ))
    .ok;
}

export async function ovnLab(): Promise<Lab> {
  const world = await World.make(1);
  const { pools, gateways, ips } = clientsOf(world.services);
  await pools.createAddressPool({ name: "public", cidr: "172.30.0.0/24", gatewayIp: "172.30.0.1", uplink: "outside" });
  const reached = new Map<string, string>();
  return {
    engine: ovnEngine(world.nb),
    services: world.services,
    outside: world.outside,
    outsideIp: "172.30.0.1",
    host: world.hvs[0]!,
    async guest({ name, subnet, groups, project: inside, addressed }) {
      return await world.guest({
        name,
        subnet,
        groups: [...groups],
        ...(inside === undefined ? {} : { project: inside }),
        address: addressed === false ? "none" : "static",
      });
    },
    wayOut: async (vpc) => void await gateways.createNatGateway({ project, name: "way", vpc, addressPool: "public" }),
    async comesIn({ port }, number) {
      const id = port.meta!.id;
      let ip = reached.get(id);
      if (ip === undefined) {
        const name = port.meta!.name;
        ip = (await ips.createFloatingIp({ project, name, addressPool: "public" })).ipAddress;
        await ips.attachFloatingIp({ project, floatingIp: name, port: name });
        reached.set(id, ip);
        await world.settled();
      }
      return await fetches(world.outside, `${ip}:${number}`);
    },
    settled: () => world.settled(),
    [Symbol.asyncDispose]: () => world[Symbol.asyncDispose](),
  };
}

/**
 * User networking without a guest's kernel: QEMU's NAT on one side of a hub and a tap on the other, whose device is
 * moved into the guest's namespace.
 */
export async function userLab(): Promise<Lab> {
  await using building = new AsyncDisposableStack();
  const platform = openPlatform({ service: "prismnet" }, {
    ...clocks,
    kv: memoryBackend({ clock: systemClock }),
    rng: seededRng(7),
  });
  const engine = userEngine({ hostPortMin: 20_000, hostPortMax: 20_999 }, { rng: seededRng(1) });
  const { services } = createPrismnet({ platform, engine });
  const { ports, subnets } = clientsOf(services);
  const tag = `uc${Deno.pid}-l`;
  const host = building.use(await Netns.make(`${tag}h`));
  const outside = building.use(await Netns.make(`${tag}o`));
  await join([host, "out"], [outside, "in"], 1500);
  await host.run("ip", "address", "add", "172.31.0.2/24", "dev", "out");
  await outside.run("ip", "address", "add", "172.31.0.1/24", "dev", "in");
  let count = 0;
  const kept = building.move();
  return {
    engine,
    services,
    outside,
    outsideIp: "172.31.0.1",
    host,
    async guest({ name, subnet, groups, project: inside = project, addressed }) {
      await ports.createPort({ project: inside, name, subnet, securityGroups: [...groups] });
      const port = await ports.bindPort({ project: inside, port: name, host: "hv0" });
      assert.equal(port.binding?.engine.case, "user");
      const { cidr, gatewayIp, dnsIp, forwards, restrict } = port.binding.engine.value;
      const [n, device] = [count, `ulab${count++}`];
      const ns = kept.use(await Netns.make(`${tag}${n}`));
      const nat = [
        `user,id=nat,ipv6=off,net=${cidr},host=${gatewayIp},dns=${dnsIp},dhcpstart=${port.ipAddress}`,
        `restrict=${restrict ? "on" : "off"}`,
        ...forwards.map((f) => `hostfwd=tcp:${f.hostIp}:${f.hostPort}-${port.ipAddress}:${f.guestPort}`),
      ].join(",");
      const qemu = host.spawn(
        "qemu-system-x86_64",
        ...["-machine", "none", "-display", "none", "-nodefaults", "-netdev", nat],
        ...["-netdev", `tap,id=tap,ifname=${device},script=no,downscript=no,vnet_hdr=off`],
        ...["-netdev", "hubport,id=h0,hubid=0,netdev=nat", "-netdev", "hubport,id=h1,hubid=0,netdev=tap"],
      );
      kept.defer(async () => {
        qemu.kill("SIGKILL");
        await Promise.all([qemu.stdout.cancel(), qemu.status]);
      });
      await until("QEMU has its tap", async () => (await host.try("ip", "link", "show", device)).ok);
      await host.run("ip", "link", "set", device, "netns", ns.name, "name", "eth0");
      await ns.run("ip", "link", "set", "dev", "eth0", "address", port.macAddress, "up");
      if (addressed !== false) {
        const { cidr: range } = await subnets.getSubnet({ project: inside, subnet });
        await ns.run("ip", "address", "add", `${port.ipAddress}/${range.split("/")[1]}`, "dev", "eth0");
        await ns.run("ip", "route", "add", "default", "via", gatewayIp);
      }
      return { ns, port };
    },
    wayOut: () => Promise.resolve(),
    async comesIn({ port }, number) {
      const binding = port.binding!.engine;
      assert.equal(binding.case, "user");
      const forward = binding.value.forwards.find(({ guestPort }) => guestPort === number);
      return forward !== undefined && await fetches(host, `${forward.hostIp}:${forward.hostPort}`);
    },
    settled: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}
