import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  AclAction,
  type AddressPool,
  AddressPoolSchema,
  AddressPoolService,
  Direction,
  type FloatingIp,
  FloatingIpSchema,
  FloatingIpService,
  type NatGateway,
  NatGatewaySchema,
  NatGatewayService,
  type NetworkAcl,
  NetworkAclSchema,
  NetworkAclService,
  type Peering,
  PeeringSchema,
  PeeringService,
  Protocol,
  type Router,
  RouterSchema,
  RouterService,
  SubnetSchema,
  SubnetService,
} from "@ultracloud/proto/prismnet/v1";
import { type Column, enumName } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { metaColumns, pages } from "./_shared.ts";
import { parseRule } from "./network.ts";

const named = (brief: string, placeholder: string) => [{ brief: `${brief}, name or id`, placeholder }] as const;
const wanted = (brief: string) => ({ kind: "parsed", parse: text, brief }) as const;
const perhaps = (brief: string) => ({ kind: "parsed", parse: text, optional: true, brief }) as const;

const aclRule = (rule: NetworkAcl["rules"][number]) => {
  const protocol = rule.protocol === Protocol.UNSPECIFIED ? "any" : enumName(Protocol, rule.protocol);
  const ports = rule.portMin === 0 ? "" : `:${rule.portMin}-${rule.portMax}`;
  return `${rule.number} ${enumName(AclAction, rule.action)} ${enumName(Direction, rule.direction)} ` +
    `${protocol}${ports} ${rule.remoteCidr}`;
};
const aclColumns: readonly Column<NetworkAcl>[] = [
  ...metaColumns<NetworkAcl>(),
  { name: "rules", get: (a) => a.rules.map(aclRule).join(", ") },
];
const routerColumns: readonly Column<Router>[] = [
  ...metaColumns<Router>(),
  { name: "network", get: (r) => r.vpcId },
  { name: "routes", get: (r) => r.routes.map((route) => `${route.cidr} via ${route.nextHop}`).join(", ") },
];
const natColumns: readonly Column<NatGateway>[] = [
  ...metaColumns<NatGateway>(),
  { name: "ip", get: (g) => g.ipAddress },
  { name: "network", get: (g) => g.vpcId },
];
const ipColumns: readonly Column<FloatingIp>[] = [
  ...metaColumns<FloatingIp>(),
  { name: "ip", get: (f) => f.ipAddress },
  { name: "port", get: (f) => f.portId },
];
const poolColumns: readonly Column<AddressPool>[] = [
  ...metaColumns<AddressPool>(),
  { name: "cidr", get: (p) => p.cidr },
  { name: "range", get: (p) => `${p.firstIp} to ${p.lastIp}` },
  { name: "uplink", get: (p) => p.uplink },
];
const peeringColumns: readonly Column<Peering>[] = [
  ...metaColumns<Peering>(),
  { name: "network", get: (p) => p.vpcId },
  { name: "peer", get: (p) => p.peerVpcId },
];

type AclRuleFlags = { number: string; ingress?: string; egress?: string; deny?: boolean; remove?: boolean };

function aclRuleOf(flags: AclRuleFlags) {
  if ((flags.ingress === undefined) === (flags.egress === undefined) || !/^\d{1,5}$/.test(flags.number)) {
    throw fault(
      "invalid_argument",
      "invalid_rule",
      "Cannot use the rule: wanted --number N and exactly one of --ingress and --egress",
    );
  }
  const { remoteGroupId, ...rule } = flags.ingress === undefined
    ? parseRule("egress", flags.egress!)
    : parseRule("ingress", flags.ingress);
  if (remoteGroupId !== "") {
    throw fault("invalid_argument", "invalid_rule", "Cannot use a security group in a network ACL: wanted a CIDR");
  }
  return { ...rule, number: Number(flags.number), action: flags.deny ? AclAction.DENY : AclAction.ALLOW };
}

export const acl = buildRouteMap({
  docs: { brief: "Network ACLs: stateless rules at the edge of subnets" },
  routes: {
    list: command({
      brief: "List network ACLs",
      async run({ session, list }) {
        const client = session.client(NetworkAclService, "prismnet");
        const { project } = session;
        const all = await pages((page) => client.listNetworkAcls({ project, page }), (r) => r.networkAcls);
        await list(NetworkAclSchema, all, aclColumns);
      },
    }),
    create: command<Record<never, never>, [string]>({
      brief: "Create a network ACL; without rules it lets nothing pass",
      args: named("Network ACL", "acl"),
      async run({ session, one }, _flags, name) {
        const client = session.client(NetworkAclService, "prismnet");
        await one(NetworkAclSchema, await client.createNetworkAcl({ project: session.project, name }), aclColumns);
      },
    }),
    rule: command<AclRuleFlags, [string]>({
      brief: "Add a rule, or remove it with --remove; the lowest number that matches decides",
      args: named("Network ACL", "acl"),
      flags: {
        number: wanted("1 to 32765"),
        ingress: perhaps("Into the subnet, for example tcp:443@10.0.0.0/8"),
        egress: perhaps("Out of the subnet"),
        deny: { kind: "boolean", optional: true, brief: "Deny instead of allow" },
        remove: { kind: "boolean", optional: true, brief: "Remove the rule of this number and direction" },
      },
      async run({ session, one }, flags, networkAcl) {
        const client = session.client(NetworkAclService, "prismnet");
        const { project } = session;
        const rule = aclRuleOf(flags);
        const { direction, number } = rule;
        const value = flags.remove
          ? await client.removeNetworkAclRule({ project, networkAcl, direction, number })
          : await client.addNetworkAclRule({ project, networkAcl, rule });
        await one(NetworkAclSchema, value, aclColumns);
      },
    }),
    attach: command<{ subnet: string }, [string]>({
      brief: "Guard a subnet by a network ACL",
      args: named("Network ACL", "acl"),
      flags: { subnet: wanted("Subnet, name or id") },
      async run({ session, one }, { subnet }, networkAcl) {
        const client = session.client(SubnetService, "prismnet");
        const value = await client.setSubnetAcl({ project: session.project, subnet, networkAcl });
        await one(SubnetSchema, value, [...metaColumns(), { name: "cidr", get: (s) => s.cidr }]);
      },
    }),
    detach: command<{ subnet: string }, []>({
      brief: "Let everything pass the edge of a subnet again",
      flags: { subnet: wanted("Subnet, name or id") },
      async run({ session, io }, { subnet }) {
        const client = session.client(SubnetService, "prismnet");
        await client.setSubnetAcl({ project: session.project, subnet, networkAcl: "" });
        io.err(`Subnet ${subnet} has no network ACL\n`);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a network ACL that no subnet uses",
      args: named("Network ACL", "acl"),
      async run({ session, confirm, io }, _flags, networkAcl) {
        confirm(`Delete the network ACL ${networkAcl}?`);
        await session.client(NetworkAclService, "prismnet").deleteNetworkAcl({ project: session.project, networkAcl });
        io.err(`Deleted network ACL ${networkAcl}\n`);
      },
    }),
  },
});

export const router = buildRouteMap({
  docs: { brief: "Route tables of networks" },
  routes: {
    list: command({
      brief: "List routers",
      async run({ session, list }) {
        const client = session.client(RouterService, "prismnet");
        const { project } = session;
        await list(
          RouterSchema,
          await pages((page) => client.listRouters({ project, page }), (r) => r.routers),
          routerColumns,
        );
      },
    }),
    create: command<{ network: string }, [string]>({
      brief: "Create the route table of a network",
      args: named("Router", "router"),
      flags: { network: wanted("Network, name or id") },
      async run({ session, one }, { network: vpc }, name) {
        const client = session.client(RouterService, "prismnet");
        await one(RouterSchema, await client.createRouter({ project: session.project, name, vpc }), routerColumns);
      },
    }),
    route: command<{ cidr: string; via?: string; remove?: boolean }, [string]>({
      brief: "Add a route, or remove it with --remove",
      args: named("Router", "router"),
      flags: {
        cidr: wanted("Where to, for example 192.168.0.0/16"),
        via: perhaps("Next hop, an address in a subnet of the network"),
        remove: { kind: "boolean", optional: true, brief: "Remove the route" },
      },
      async run({ session, one }, { cidr, via = "", remove }, router) {
        const client = session.client(RouterService, "prismnet");
        const { project } = session;
        const value = remove
          ? await client.removeRoute({ project, router, cidr })
          : await client.addRoute({ project, router, route: { cidr, nextHop: via } });
        await one(RouterSchema, value, routerColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a router with its routes",
      args: named("Router", "router"),
      async run({ session, confirm, io }, _flags, router) {
        confirm(`Delete the router ${router}?`);
        await session.client(RouterService, "prismnet").deleteRouter({ project: session.project, router });
        io.err(`Deleted router ${router}\n`);
      },
    }),
  },
});

export const nat = buildRouteMap({
  docs: { brief: "NAT gateways: the way out of a network" },
  routes: {
    list: command({
      brief: "List NAT gateways",
      async run({ session, list }) {
        const client = session.client(NatGatewayService, "prismnet");
        const { project } = session;
        const all = await pages((page) => client.listNatGateways({ project, page }), (r) => r.natGateways);
        await list(NatGatewaySchema, all, natColumns);
      },
    }),
    create: command<{ network: string; pool: string }, [string]>({
      brief: "Let a network out under an address of a pool",
      args: named("NAT gateway", "gateway"),
      flags: { network: wanted("Network, name or id"), pool: wanted("Address pool, name or id") },
      async run({ session, one }, { network: vpc, pool: addressPool }, name) {
        const client = session.client(NatGatewayService, "prismnet");
        const request = { project: session.project, name, vpc, addressPool };
        await one(NatGatewaySchema, await client.createNatGateway(request), natColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a NAT gateway that no floating IP comes in through",
      args: named("NAT gateway", "gateway"),
      async run({ session, confirm, io }, _flags, natGateway) {
        confirm(`Delete the NAT gateway ${natGateway}?`);
        await session.client(NatGatewayService, "prismnet").deleteNatGateway({ project: session.project, natGateway });
        io.err(`Deleted NAT gateway ${natGateway}\n`);
      },
    }),
  },
});

export const ip = buildRouteMap({
  docs: { brief: "Floating IPs and the pools they come from" },
  routes: {
    list: command({
      brief: "List floating IPs",
      async run({ session, list }) {
        const client = session.client(FloatingIpService, "prismnet");
        const { project } = session;
        const all = await pages((page) => client.listFloatingIps({ project, page }), (r) => r.floatingIps);
        await list(FloatingIpSchema, all, ipColumns);
      },
    }),
    create: command<{ pool: string; address?: string }, [string]>({
      brief: "Reserve a floating IP",
      args: named("Floating IP", "ip"),
      flags: { pool: wanted("Address pool, name or id"), address: perhaps("Address; the next free one unless given") },
      async run({ session, one }, { pool, address = "" }, name) {
        const client = session.client(FloatingIpService, "prismnet");
        const request = { project: session.project, name, addressPool: pool, ipAddress: address };
        await one(FloatingIpSchema, await client.createFloatingIp(request), ipColumns);
      },
    }),
    attach: command<{ port: string }, [string]>({
      brief: "Lead a floating IP to a port",
      args: named("Floating IP", "ip"),
      flags: { port: wanted("Port, name or id") },
      async run({ session, one }, { port }, floatingIp) {
        const client = session.client(FloatingIpService, "prismnet");
        const request = { project: session.project, floatingIp, port };
        await one(FloatingIpSchema, await client.attachFloatingIp(request), ipColumns);
      },
    }),
    detach: command<Record<never, never>, [string]>({
      brief: "Keep a floating IP without leading it anywhere",
      args: named("Floating IP", "ip"),
      async run({ session, one }, _flags, floatingIp) {
        const client = session.client(FloatingIpService, "prismnet");
        const request = { project: session.project, floatingIp, port: "" };
        await one(FloatingIpSchema, await client.attachFloatingIp(request), ipColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Give a detached floating IP back",
      args: named("Floating IP", "ip"),
      async run({ session, confirm, io }, _flags, floatingIp) {
        confirm(`Delete the floating IP ${floatingIp}?`);
        await session.client(FloatingIpService, "prismnet").deleteFloatingIp({ project: session.project, floatingIp });
        io.err(`Deleted floating IP ${floatingIp}\n`);
      },
    }),
    pools: command({
      brief: "List address pools",
      async run({ session, list }) {
        const client = session.client(AddressPoolService, "prismnet");
        await list(
          AddressPoolSchema,
          await pages((page) => client.listAddressPools({ page }), (r) => r.addressPools),
          poolColumns,
        );
      },
    }),
    "create-pool": command<{ cidr: string; uplink: string; gateway?: string; first?: string; last?: string }, [string]>(
      {
        brief: "Make the addresses of a network outside available",
        args: named("Address pool", "pool"),
        flags: {
          cidr: wanted("Network outside, for example 203.0.113.0/24"),
          uplink: wanted("Uplink of the hosts that reach it"),
          gateway: perhaps("Router of that network"),
          first: perhaps("First address to hand out"),
          last: perhaps("Last address to hand out"),
        },
        async run({ session, one }, { cidr, uplink, gateway = "", first = "", last = "" }, name) {
          const client = session.client(AddressPoolService, "prismnet");
          const request = { name, cidr, uplink, gatewayIp: gateway, firstIp: first, lastIp: last };
          await one(AddressPoolSchema, await client.createAddressPool(request), poolColumns);
        },
      },
    ),
  },
});

export const peering = buildRouteMap({
  docs: { brief: "Networks that reach each other" },
  routes: {
    list: command({
      brief: "List peerings",
      async run({ session, list }) {
        const client = session.client(PeeringService, "prismnet");
        const { project } = session;
        await list(
          PeeringSchema,
          await pages((page) => client.listPeerings({ project, page }), (r) => r.peerings),
          peeringColumns,
        );
      },
    }),
    create: command<{ network: string; peer: string }, [string]>({
      brief: "Let two networks of the project reach each other",
      args: named("Peering", "peering"),
      flags: { network: wanted("Network, name or id"), peer: wanted("The other network, name or id") },
      async run({ session, one }, { network: vpc, peer: peerVpc }, name) {
        const client = session.client(PeeringService, "prismnet");
        await one(
          PeeringSchema,
          await client.createPeering({ project: session.project, name, vpc, peerVpc }),
          peeringColumns,
        );
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Part two networks again",
      args: named("Peering", "peering"),
      async run({ session, confirm, io }, _flags, peering) {
        confirm(`Delete the peering ${peering}?`);
        await session.client(PeeringService, "prismnet").deletePeering({ project: session.project, peering });
        io.err(`Deleted peering ${peering}\n`);
      },
    }),
  },
});
