import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { AclAction, Direction, Protocol } from "@ultracloud/proto/prismnet/v1";
import { missingPrograms, testUnless } from "@ultracloud/testing";
import type { EngineFeature } from "./engine.ts";
import {
  doubleSolicitation,
  echo,
  type Ends,
  listenFrames,
  redirect,
  routerAdvertisement,
  sendFrames,
  solicitation,
} from "./ovn/test_frames.ts";
import { noPackets } from "./ovn/test_netns.ts";
import { project, until } from "./ovn/test_world.ts";
import { clientsOf, fetches, type Lab, type LabGuest, ovnLab, userLab } from "./test_labs.ts";

/**
 * One suite of behaviours, each seen in packets, for every engine. What an engine declares is compared with what it
 * does: enforced means that each behaviour holds, not enforced that none does, partial that some do and some do not. So
 * neither a promise that is not kept nor one that nobody was told of can stand in `uc network engine`.
 */
const { INGRESS, EGRESS } = Direction;
const { TCP, ICMP, UNSPECIFIED } = Protocol;
const out = { direction: EGRESS, protocol: UNSPECIFIED };
const pingIn = { direction: INGRESS, protocol: ICMP };
const tcpIn = (port: number) => ({ direction: INGRESS, protocol: TCP, portMin: port, portMax: port });
const webPort = 80, shutPort = 81, latePort = 82, outsidePort = 8080;

interface Scene {
  readonly lab: Lab;
  readonly clients: ReturnType<typeof clientsOf>;
  /** In subnet a: lets ping and web in, everything out. */
  readonly one: LabGuest;
  readonly two: LabGuest;
  /** In subnet b of the same network. */
  readonly far: LabGuest;
  /** Another tenant's, with the CIDR of subnet a. */
  readonly twin: LabGuest;
  /** May not go out. */
  readonly mute: LabGuest;
  /** May go out to one port of the world. */
  readonly narrow: LabGuest;
}
type Behaviour = (scene: Scene) => Promise<boolean>;

async function pings(from: LabGuest, to: string, ...more: string[]): Promise<boolean> {
  return (await from.ns.try("ping", "-n", "-c", "1", "-W", "1", ...more, to)).ok;
}
/** A thing that shall happen, soon or never: whether it does. */
async function soon(look: () => Promise<boolean>, tries = 4): Promise<boolean> {
  for (let i = 0; i < tries; i++) if (await look()) return true;
  return false;
}
const refused = (error: unknown) => {
  if (error instanceof Fault && error.code === "engine_unsupported") return false;
  throw error;
};
const outsidePage = ({ lab }: Scene) => `${lab.outsideIp}:${outsidePort}`;

const behaviours: Readonly<Record<EngineFeature["name"], Readonly<Record<string, Behaviour>>>> = {
  isolation: {
    "a tenant with the same addresses is not reached": async ({ one, twin, two }) => {
      assert.equal(twin.port.ipAddress, one.port.ipAddress);
      return !await soon(() => pings(twin, two.port.ipAddress));
    },
  },
  dhcp: {
    "the guest is leased exactly the port's address": async ({ lab }) => {
      const guest = await lab.guest({ name: "asks", subnet: "a", groups: ["web"], addressed: false });
      await lab.settled();
      const ask = ["udhcpc", "-f", "-q", "-n", "-t", "3", "-T", "1", "-i", "eth0", "-s", "/bin/true"];
      const lease = await until("somebody answers", async () => {
        const { ok, text } = await guest.ns.try("busybox", ...ask);
        return ok && text;
      });
      return lease.includes(`lease of ${guest.port.ipAddress} obtained`);
    },
  },
  security_group_ingress: {
    "what a rule names comes in, and nothing else": async ({ lab, one }) =>
      await soon(() => lab.comesIn(one, webPort)) && !await lab.comesIn(one, shutPort),
    "a rule added to a running guest takes effect at once": async ({ lab, one, clients }) => {
      await clients.groups.addRule({ project, securityGroup: "web", rule: tcpIn(latePort) });
      await lab.settled();
      return await soon(() => lab.comesIn(one, latePort));
    },
  },
  security_group_egress: {
    "without a rule nothing goes out, with one it does": async (scene) =>
      await soon(() => fetches(scene.one.ns, outsidePage(scene))) && !await fetches(scene.mute.ns, outsidePage(scene)),
    "a rule for one port lets out what it names": (scene) => soon(() => fetches(scene.narrow.ns, outsidePage(scene))),
  },
  east_west: {
    "ports of a subnet reach each other": ({ one, two }) => soon(() => pings(one, two.port.ipAddress)),
  },
  floating_ip: {
    "an address of a pool can be had": async ({ clients }) => {
      const pool = { name: "spare", cidr: "172.29.0.0/24", uplink: "outside" };
      await clients.pools.createAddressPool(pool);
      const made = clients.ips.createFloatingIp({ project, name: "spare", addressPool: "spare" });
      return await made.then(() => true, refused);
    },
  },
  anti_spoofing: {
    "an address that is not the guest's reaches no neighbour": async ({ one, two }) => {
      await one.ns.run("ip", "address", "replace", "10.1.0.77/24", "dev", "eth0");
      return !await soon(() => pings(one, two.port.ipAddress, "-I", "10.1.0.77"));
    },
    "nor the world outside": async (scene) => {
      const { one, lab } = scene;
      await one.ns.run("ip", "address", "replace", "10.1.0.77/24", "dev", "eth0");
      await one.ns.run("ip", "route", "replace", `${lab.outsideIp}/32`, "via", "10.1.0.1", "src", "10.1.0.77");
      const got = await soon(() => fetches(one.ns, outsidePage(scene)));
      await one.ns.run("ip", "route", "del", `${lab.outsideIp}/32`);
      return !got;
    },
  },
  router_guard: {
    "a redirect of a guest reaches no neighbour": (scene) => unheard(scene, (ends) => redirect(ends, 7, "fd00:9::99")),
    "nor does its router announcement": (scene) => unheard(scene, (ends) => routerAdvertisement(ends, 8)),
    "nor a solicitation under a false MAC": (scene) =>
      unheard(scene, (ends) => solicitation(ends, 9, "fd00:9::99", "52:54:00:66:66:66")),
    "nor one whose MAC is given twice": (scene) =>
      unheard(scene, (ends) => doubleSolicitation(ends, 9, "fd00:9::99", "52:54:00:66:66:66")),
  },
  host_isolation: {
    "what listens on the host's loopback alone is not reached": async ({ lab, one }) => {
      await using _server = serve(lab.host, `127.0.0.1:${outsidePort + 1}`);
      return !await soon(() => fetches(one.ns, `10.1.0.1:${outsidePort + 1}`));
    },
  },
  ipv6: {
    "a subnet may have IPv6": async ({ clients }) => {
      const subnet = { project, name: "six", vpc: "net", cidr: "10.6.0.0/24", cidrV6: "fd00:6::/64" };
      return await clients.subnets.createSubnet(subnet).then(() => true, refused);
    },
  },
  network_acl: {
    "an ACL that denies is obeyed": async ({ lab, clients, one, far }) => {
      const rule = { number: 1, direction: INGRESS, action: AclAction.DENY, protocol: ICMP };
      await clients.acls.createNetworkAcl({ project, name: "edge", rules: [rule] });
      const set = clients.subnets.setSubnetAcl({ project, subnet: "b", networkAcl: "edge" });
      if (!await set.then(() => true, refused)) return false;
      await lab.settled();
      const dropped = !await soon(() => pings(one, far.port.ipAddress));
      await clients.subnets.setSubnetAcl({ project, subnet: "b", networkAcl: "" });
      await lab.settled();
      return dropped && await soon(() => pings(one, far.port.ipAddress));
    },
  },
  routing: {
    "subnets of a network reach each other": ({ one, far }) => soon(() => pings(one, far.port.ipAddress)),
  },
};

let guards = 0;
/** Whether a frame of one guest stays unheard by its neighbour, which hears a ping of the same guest. */
async function unheard({ lab, clients }: Scene, frame: (ends: Ends) => Uint8Array<ArrayBuffer>): Promise<boolean> {
  const octet = guards++;
  const name = `guard${octet}`;
  const subnet = { project, name, vpc: "net", cidr: `10.9.${octet}.0/24`, cidrV6: `fd00:9:${octet}::/64` };
  // Without IPv6 there is neither a router to play nor a neighbour to be heard by.
  if (!await clients.subnets.createSubnet(subnet).then(() => true, refused)) return true;
  const everything = { protocol: UNSPECIFIED, remoteCidr: "::/0" };
  const rules = [{ ...everything, direction: INGRESS }, { ...everything, direction: EGRESS }];
  await clients.groups.createSecurityGroup({ project, name, rules });
  const [liar, victim] = [
    await lab.guest({ name: `${name}a`, subnet: name, groups: [name] }),
    await lab.guest({ name: `${name}b`, subnet: name, groups: [name] }),
  ];
  await lab.settled();
  const ends = {
    sourceMac: liar.port.macAddress,
    destinationMac: victim.port.macAddress,
    source: liar.port.ipv6Address,
    destination: victim.port.ipv6Address,
  };
  await using heard = await listenFrames(victim.ns);
  const [lie, truth] = [frame(ends), 5];
  await until("the neighbour hears", async () => {
    await sendFrames(liar.ns, [lie, echo(ends, truth)]);
    return heard.labels().has(truth);
  });
  // Other IPv6 of the kernels has no flow label of ours.
  return ![7, 8, 9].some((label) => heard.labels().has(label));
}

function serve(ns: LabGuest["ns"], address: string): AsyncDisposable {
  const child = ns.spawn("busybox", "httpd", "-f", "-p", address, "-h", "/usr/share/ovn");
  return {
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await Promise.all([child.stdout.cancel(), child.status]);
    },
  };
}

const engines = { user: userLab, ovn: ovnLab };
const why = noPackets ?? missingPrograms("qemu-system-x86_64");
for (const [name, make] of Object.entries(engines)) {
  testUnless(`engine ${name} does exactly what it declares`, why, async (t) => {
    await using stack = new AsyncDisposableStack();
    const lab = stack.use(await make());
    const clients = clientsOf(lab.services);
    const other = "umbra/prod";
    for (const inside of [project, other]) {
      await clients.vpcs.createVpc({ project: inside, name: "net" });
      await clients.subnets.createSubnet({ project: inside, name: "a", vpc: "net", cidr: "10.1.0.0/24" });
      const rules = [pingIn, tcpIn(webPort), out];
      await clients.groups.createSecurityGroup({ project: inside, name: "web", rules });
    }
    await clients.subnets.createSubnet({ project, name: "b", vpc: "net", cidr: "10.1.1.0/24" });
    await clients.groups.createSecurityGroup({ project, name: "mute", rules: [pingIn] });
    const toOutside = { ...tcpIn(outsidePort), direction: EGRESS };
    await clients.groups.createSecurityGroup({ project, name: "narrow", rules: [toOutside] });
    await lab.wayOut("net");
    const guest = (guestName: string, subnet: string, group: string) =>
      lab.guest({ name: guestName, subnet, groups: [group] });
    const one = await guest("one", "a", "web");
    const two = await guest("two", "a", "web");
    const far = await guest("far", "b", "web");
    const mute = await guest("mute", "a", "mute");
    const narrow = await guest("narrow", "a", "narrow");
    const twin = await lab.guest({ name: "one", subnet: "a", groups: ["web"], project: other });
    for (const port of [webPort, shutPort, latePort]) stack.use(serve(one.ns, String(port)));
    stack.use(serve(lab.outside, String(outsidePort)));
    await lab.settled();
    const scene: Scene = { lab, clients, one, two, far, mute, narrow, twin };
    for (const { name: feature, support } of lab.engine.features) {
      await t.step(`${feature}: ${support}`, async () => {
        const seen: Record<string, boolean> = {};
        for (const [what, holds] of Object.entries(behaviours[feature])) seen[what] = await holds(scene);
        const told = Object.entries(seen).map(([what, holds]) => `${holds ? "holds" : "does not hold"}: ${what}`);
        console.log(told.map((line) => `    ${line}`).join("\n"));
        const held = Object.values(seen).filter((holds) => holds).length;
        const wanted = {
          enforced: held === Object.keys(seen).length,
          not_enforced: held === 0,
          partial: held > 0 && held < Object.keys(seen).length,
        };
        assert.ok(wanted[support], `${name} declares ${feature} ${support}: ${told.join("; ")}`);
      });
    }
  });
}
