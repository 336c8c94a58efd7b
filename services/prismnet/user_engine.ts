import { Fault, fault, type Rng, uniform } from "@ultracloud/base";
import { allocate, type NumberPool, release } from "@ultracloud/platform";
import { formatIp, parseIp, parseNetwork } from "./domain/ipv4.ts";
import { allowsAllEgress, forwardRangeMax, forwardsPerPortMax, wantedForwards } from "./domain/rules.ts";
import type { Forward, Port, Subnet } from "./domain/types.ts";
import type { Engine, EngineFeature } from "./engine.ts";

/** Where forwards listen: nothing beyond the host reaches them. */
const forwardIp = "127.0.0.1";

export interface UserEngineOptions {
  /** Host ports handed out on every host, both ends included; keep them outside the host's ephemeral range. */
  readonly hostPortMin: number;
  readonly hostPortMax: number;
}

const features: readonly EngineFeature[] = [
  { name: "isolation", support: "enforced", note: "every port has an own NAT, so no tenant reaches another" },
  { name: "dhcp", support: "enforced", note: "the guest is leased exactly the port's address" },
  {
    name: "security_group_ingress",
    support: "partial",
    note: `only forwards come in: TCP and UDP rules of at most ${forwardRangeMax} ports each, ${forwardsPerPortMax} ` +
      "per port, whose peer includes 127.0.0.1; ICMP, wider ranges and group peers open nothing; a " +
      "running guest takes changes over at its next start",
  },
  {
    name: "security_group_egress",
    support: "partial",
    note: "all or nothing: without a rule that allows every protocol to 0.0.0.0/0 nothing goes out",
  },
  { name: "east_west", support: "not_enforced", note: "ports of one subnet do not reach each other" },
  { name: "floating_ip", support: "not_enforced", note: "guests are reached through forwards on the host only" },
  { name: "anti_spoofing", support: "partial", note: "a spoofed frame reaches nobody but the port's own NAT" },
  { name: "router_guard", support: "enforced", note: "a guest that plays router is heard by nobody" },
  {
    name: "host_isolation",
    support: "not_enforced",
    note: "a guest that may go out reaches what listens on the host's loopback, by its gateway's address",
  },
  { name: "ipv6", support: "not_enforced", note: "the NAT speaks IPv4 only; subnets with IPv6 are refused" },
  { name: "network_acl", support: "not_enforced", note: "there is no subnet whose edge could be guarded; refused" },
  { name: "routing", support: "not_enforced", note: "routers, routes and peerings are refused" },
];

/** Highest address that is neither the gateway's nor the port's: the NAT answers DNS there. */
function dnsAddress(subnet: Subnet, port: Port): string {
  const network = parseNetwork(subnet.cidr)!;
  const taken = new Set([parseIp(subnet.gatewayIp), parseIp(port.ipAddress)]);
  let address = network.last - 1;
  while (taken.has(address)) address--;
  return formatIp(address);
}

/** Forwards the port holds; one that another engine bound holds none. */
function forwardsOf(port: Port): readonly Forward[] {
  return port.binding?.engine === "user" ? port.binding.forwards : [];
}

/** QEMU user networking: needs no privilege on the host and joins nothing. */
export function userEngine(o: UserEngineOptions, deps: { readonly rng: Rng }): Engine {
  const pool = (host: string, protocol: string): NumberPool => ({
    name: `hostport/${host}/${protocol}`,
    first: o.hostPortMin,
    last: o.hostPortMax,
    // Several clouds on one machine would otherwise all begin with the same port.
    start: o.hostPortMin + uniform(deps.rng, o.hostPortMax - o.hostPortMin + 1),
  });
  return {
    name: "user",
    features,
    carriesTwice: false,
    turnOf: () => "bindings",
    stands(port, rules) {
      const text = (forwards: readonly { protocol: string; guestPort: number }[]) =>
        forwards.map((f) => `${f.protocol}/${f.guestPort}`).join();
      const binding = port.binding;
      return binding?.engine === "user" && binding.restrict === !allowsAllEgress(rules) &&
        text(binding.forwards) === text(wantedForwards(rules));
    },
    async bind(tx, { portId, host, port, subnet, rules }) {
      const present = forwardsOf(port);
      const wanted = wantedForwards(rules);
      const forwards: Forward[] = [];
      for (const forward of present) {
        const kept = wanted.some((w) => w.protocol === forward.protocol && w.guestPort === forward.guestPort);
        if (!kept) await release(tx, pool(host, forward.protocol), forward.hostPort, portId);
      }
      for (const want of wanted) {
        const old = present.find((f) => f.protocol === want.protocol && f.guestPort === want.guestPort);
        const hostPort = old?.hostPort ?? await take(tx, pool(host, want.protocol), portId);
        forwards.push({ protocol: want.protocol, hostIp: forwardIp, hostPort, guestPort: want.guestPort });
      }
      return {
        engine: "user",
        cidr: subnet.cidr,
        gatewayIp: subnet.gatewayIp,
        dnsIp: dnsAddress(subnet, port),
        forwards,
        restrict: !allowsAllEgress(rules),
      };
    },
    async unbind(tx, { portId, host, port }) {
      for (const forward of forwardsOf(port)) {
        await release(tx, pool(host, forward.protocol), forward.hostPort, portId);
      }
    },
    // Everything it needs is made by the guest's own start.
    view: () => ({ active: true, reason: "" }),
  };

  async function take(tx: Parameters<Engine["bind"]>[0], from: NumberPool, portId: string): Promise<number> {
    try {
      return await allocate(tx, from, portId);
    } catch (cause) {
      if (!(cause instanceof Fault) || cause.code !== "pool_exhausted") throw cause;
      throw fault(
        "resource_exhausted",
        "host_ports_exhausted",
        `Cannot forward another port as all ports ${from.first} to ${from.last} of the host are taken`,
        { cause },
      );
    }
  }
}
