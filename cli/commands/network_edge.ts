import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  AclAction,
  Direction,
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
import { networkNames } from "./_network_names.ts";
import { metaColumns, pages } from "./_shared.ts";
import { named } from "./network.ts";
import { parseRule } from "./network_groups.ts";

/** A flag that must be given, and one that may be. */
export const wanted = (brief: string) => ({ kind: "parsed", parse: text, brief }) as const;
export const perhaps = (brief: string) => ({ kind: "parsed", parse: text, optional: true, brief }) as const;

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
    show: command<Record<never, never>, [string]>({
      brief: "Show a network ACL",
      complete: networkNames.acl,
      args: named("Network acl", "acl"),
      async run({ session, one }, _flags, networkAcl) {
        const client = session.client(NetworkAclService, "prismnet");
        await one(NetworkAclSchema, await client.getNetworkAcl({ project: session.project, networkAcl }), aclColumns);
      },
    }),
    rule: command<AclRuleFlags, [string]>({
      brief: "Add a rule, or remove it with --remove; the lowest number that matches decides",
      complete: networkNames.acl,
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
      complete: networkNames.acl,
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
      complete: networkNames.acl,
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
    show: command<Record<never, never>, [string]>({
      brief: "Show a router",
      complete: networkNames.router,
      args: named("Router", "router"),
      async run({ session, one }, _flags, router) {
        const client = session.client(RouterService, "prismnet");
        await one(RouterSchema, await client.getRouter({ project: session.project, router }), routerColumns);
      },
    }),
    route: command<{ cidr: string; via?: string; remove?: boolean }, [string]>({
      brief: "Add a route, or remove it with --remove",
      complete: networkNames.router,
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
      complete: networkNames.router,
      args: named("Router", "router"),
      async run({ session, confirm, io }, _flags, router) {
        confirm(`Delete the router ${router}?`);
        await session.client(RouterService, "prismnet").deleteRouter({ project: session.project, router });
        io.err(`Deleted router ${router}\n`);
      },
    }),
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
    show: command<Record<never, never>, [string]>({
      brief: "Show a peering",
      complete: networkNames.peering,
      args: named("Peering", "peering"),
      async run({ session, one }, _flags, peering) {
        const client = session.client(PeeringService, "prismnet");
        await one(PeeringSchema, await client.getPeering({ project: session.project, peering }), peeringColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Part two networks again",
      complete: networkNames.peering,
      args: named("Peering", "peering"),
      async run({ session, confirm, io }, _flags, peering) {
        confirm(`Delete the peering ${peering}?`);
        await session.client(PeeringService, "prismnet").deletePeering({ project: session.project, peering });
        io.err(`Deleted peering ${peering}\n`);
      },
    }),
  },
});
