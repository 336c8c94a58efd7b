import type { OvsdbClient } from "@ultracloud/ovsdb";
import type { Engine, EngineFeature } from "../engine.ts";
import { deviceOf, guestMtu } from "./names.ts";
import { upPorts } from "./observed.ts";

const features: readonly EngineFeature[] = [
  { name: "isolation", support: "enforced", note: "a VPC is a router and switches of its own: same CIDRs stay apart" },
  { name: "dhcp", support: "enforced", note: "the switch answers with exactly the port's address, IPv4 and IPv6" },
  {
    name: "security_group_ingress",
    support: "enforced",
    note: "stateful; what no rule allows is dropped, and removing a rule cuts the flows it let pass",
  },
  { name: "security_group_egress", support: "enforced", note: "stateful, as ingress" },
  { name: "east_west", support: "enforced", note: "ports of a VPC reach each other where their groups let them" },
  { name: "floating_ip", support: "enforced", note: "translated at the gateway host of the VPC's NAT gateway" },
  {
    name: "anti_spoofing",
    support: "enforced",
    note: "MAC, IP, ARP and neighbour advertisements by port; no DHCP server of guests",
  },
  {
    name: "router_guard",
    support: "enforced",
    note:
      "router announcements, redirects and false MACs in neighbour solicitations of guests are dropped at their port",
  },
  {
    name: "ipv6",
    support: "enforced",
    note: "addresses, router's announcements and rules, within a VPC; no IPv6 outside",
  },
  { name: "network_acl", support: "enforced", note: "stateless and ordered, where a subnet meets its router" },
  { name: "routing", support: "enforced", note: "subnets of a VPC, static routes, peered VPCs of one project" },
  { name: "host_isolation", support: "enforced", note: "a guest reaches the host only as the network outside does" },
];

/**
 * Tenant networks on OVN. Bindings name a tap; everything else follows from the records, through the reconciler. What
 * hosts carry is read from the northbound database; without one no port is ever active.
 */
export function ovnEngine(northbound?: OvsdbClient): Engine {
  const up = northbound && upPorts(northbound);
  return {
    name: "ovn",
    features,
    carriesTwice: true,
    turnOf: (port) => `binding/${port}`,
    stands: (port) => port.binding?.engine === "tap",
    bind: (_tx, { portId }) => Promise.resolve({ engine: "tap", device: deviceOf(portId), mtu: guestMtu }),
    // Nothing is taken that could be given back: the tap goes when no port of the host names it.
    unbind: () => Promise.resolve(),
    view(portId, port) {
      if (!northbound?.connected) {
        return { active: false, reason: `the northbound database is not there: ${northbound?.reason ?? "none given"}` };
      }
      if (up!().has(portId)) return { active: true, reason: "" };
      return { active: false, reason: `the switch of ${port.host} has not taken it: is its net-agent up?` };
    },
  };
}
