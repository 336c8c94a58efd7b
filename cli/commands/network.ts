import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  EngineService,
  type Port,
  PortSchema,
  PortService,
  PortState,
  type Subnet,
  SubnetSchema,
  SubnetService,
  Support,
  type Vpc,
  VpcSchema,
  VpcService,
} from "@ultracloud/proto/prismnet/v1";
import { type Column, enumName } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { networkNames } from "./_network_names.ts";
import { labelFlag, labelsOf, metaColumns, pages } from "./_shared.ts";

export const named = (brief: string, placeholder: string) => [{ brief: `${brief}, name or id`, placeholder }] as const;

const vpcColumns: readonly Column<Vpc>[] = [...metaColumns<Vpc>(), {
  name: "description",
  get: (v) => v.description,
  wide: true,
}];
const subnetColumns: readonly Column<Subnet>[] = [
  ...metaColumns<Subnet>(),
  { name: "cidr", get: (s) => s.cidr },
  { name: "cidr6", get: (s) => s.cidrV6 },
  { name: "gateway", get: (s) => s.gatewayIp },
  { name: "network", get: (s) => s.vpcId, wide: true },
  { name: "acl", get: (s) => s.networkAclId, wide: true },
];
const portColumns: readonly Column<Port>[] = [
  ...metaColumns<Port>(),
  { name: "ip", get: (p) => p.ipAddress },
  { name: "ip6", get: (p) => p.ipv6Address, wide: true },
  { name: "allowed", get: (p) => p.allowedAddresses.join(" "), wide: true },
  { name: "groups", get: (p) => p.securityGroupIds.join(" "), wide: true },
  { name: "mac", get: (p) => p.macAddress },
  { name: "owner", get: (p) => p.owner?.name ?? "" },
  { name: "host", get: (p) => p.host },
  { name: "state", get: (p) => enumName(PortState, p.state) },
  { name: "reason", get: (p) => p.stateReason, wide: true },
];
export const network = buildRouteMap({
  docs: { brief: "Tenant networks (VPCs)" },
  routes: {
    list: command({
      brief: "List networks",
      async run({ session, list }) {
        const client = session.client(VpcService, "prismnet");
        const { project } = session;
        await list(VpcSchema, await pages((page) => client.listVpcs({ project, page }), (r) => r.vpcs), vpcColumns);
      },
    }),
    create: command<{ description?: string; label?: readonly string[] }, [string]>({
      brief: "Create a network",
      args: named("Network", "network"),
      flags: {
        description: { kind: "parsed", parse: text, optional: true, brief: "What it is for" },
        label: labelFlag,
      },
      async run({ session, one }, flags, name) {
        const client = session.client(VpcService, "prismnet");
        const request = {
          project: session.project,
          name,
          description: flags.description ?? "",
          labels: labelsOf(flags.label),
        };
        await one(VpcSchema, await client.createVpc(request), vpcColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a network",
      complete: networkNames.network,
      args: named("Network", "network"),
      async run({ session, one }, _flags, vpc) {
        await one(
          VpcSchema,
          await session.client(VpcService, "prismnet").getVpc({ project: session.project, vpc }),
          vpcColumns,
        );
      },
    }),
    update: command<{ description?: string; label?: readonly string[] }, [string]>({
      brief: "Change a network's description or its labels; all labels are replaced",
      complete: networkNames.network,
      args: named("Network", "network"),
      flags: {
        description: { kind: "parsed", parse: text, optional: true, brief: "What it is for" },
        label: labelFlag,
      },
      async run({ session, one }, flags, vpc) {
        const paths = [
          ...(flags.description === undefined ? [] : ["description"]),
          ...(flags.label === undefined ? [] : ["labels"]),
        ];
        if (paths.length === 0) {
          throw fault("invalid_argument", "usage", "Cannot change nothing: wanted --description or --label");
        }
        const value = { description: flags.description ?? "", meta: { labels: labelsOf(flags.label) } };
        const client = session.client(VpcService, "prismnet");
        const request = { project: session.project, vpc, value, updateMask: { paths } };
        await one(VpcSchema, await client.updateVpc(request), vpcColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a network without subnets",
      complete: networkNames.network,
      args: named("Network", "network"),
      async run({ session, confirm, io }, _flags, vpc) {
        confirm(`Delete the network ${vpc}?`);
        await session.client(VpcService, "prismnet").deleteVpc({ project: session.project, vpc });
        io.err(`Deleted network ${vpc}\n`);
      },
    }),
    engine: command({
      brief: "Show what the network engine of this cluster enforces",
      async run({ session, items, io, flags }) {
        const engine = await session.client(EngineService, "prismnet").getEngine({});
        if (flags.output === "table") io.err(`engine: ${engine.name}\n`);
        await items(
          engine.features.map((value) => ({
            value,
            json: {
              engine: engine.name,
              feature: value.name,
              support: enumName(Support, value.support),
              note: value.note,
            },
            name: value.name,
          })),
          [
            { name: "feature", get: (f) => f.name },
            { name: "support", get: (f) => enumName(Support, f.support) },
            { name: "note", get: (f) => f.note },
          ],
        );
      },
    }),
  },
});

export const subnet = buildRouteMap({
  docs: { brief: "Subnets" },
  routes: {
    list: command<{ network?: string }, []>({
      brief: "List subnets",
      flags: { network: { kind: "parsed", parse: text, optional: true, brief: "Only of this network" } },
      async run({ session, list }, flags) {
        const client = session.client(SubnetService, "prismnet");
        const { project } = session;
        const all = await pages(
          (page) => client.listSubnets({ project, vpc: flags.network ?? "", page }),
          (r) => r.subnets,
        );
        await list(SubnetSchema, all, subnetColumns);
      },
    }),
    create: command<
      {
        network: string;
        cidr: string;
        cidr6?: string;
        gateway?: string;
        dns?: readonly string[];
        label?: readonly string[];
      },
      [string]
    >({
      brief: "Create a subnet",
      args: named("Subnet", "subnet"),
      flags: {
        network: { kind: "parsed", parse: text, brief: "Network, name or id" },
        cidr: { kind: "parsed", parse: text, brief: "IPv4 range, for example 10.20.0.0/24" },
        cidr6: { kind: "parsed", parse: text, optional: true, brief: "IPv6 /64, for example fd00:1::/64" },
        gateway: { kind: "parsed", parse: text, optional: true, brief: "Gateway; the first address unless given" },
        dns: { kind: "parsed", parse: text, optional: true, variadic: true, brief: "DNS server, repeatable" },
        label: labelFlag,
      },
      async run({ session, one }, flags, name) {
        const value = await session.client(SubnetService, "prismnet").createSubnet({
          project: session.project,
          name,
          vpc: flags.network,
          cidr: flags.cidr,
          cidrV6: flags.cidr6 ?? "",
          gatewayIp: flags.gateway ?? "",
          dnsServers: [...flags.dns ?? []],
          labels: labelsOf(flags.label),
        });
        await one(SubnetSchema, value, subnetColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a subnet",
      complete: networkNames.subnet,
      args: named("Subnet", "subnet"),
      async run({ session, one }, _flags, subnet) {
        await one(
          SubnetSchema,
          await session.client(SubnetService, "prismnet").getSubnet({ project: session.project, subnet }),
          subnetColumns,
        );
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a subnet without ports",
      complete: networkNames.subnet,
      args: named("Subnet", "subnet"),
      async run({ session, confirm, io }, _flags, subnet) {
        confirm(`Delete the subnet ${subnet}?`);
        await session.client(SubnetService, "prismnet").deleteSubnet({ project: session.project, subnet });
        io.err(`Deleted subnet ${subnet}\n`);
      },
    }),
  },
});

export const port = buildRouteMap({
  docs: { brief: "Network ports" },
  routes: {
    list: command<{ subnet?: string }, []>({
      brief: "List ports",
      flags: { subnet: { kind: "parsed", parse: text, optional: true, brief: "Only of this subnet" } },
      async run({ session, list }, flags) {
        const client = session.client(PortService, "prismnet");
        const { project } = session;
        await list(
          PortSchema,
          await pages((page) => client.listPorts({ project, subnet: flags.subnet ?? "", page }), (r) => r.ports),
          portColumns,
        );
      },
    }),
    create: command<
      {
        subnet: string;
        ip?: string;
        mac?: string;
        sg?: readonly string[];
        allow?: readonly string[];
        label?: readonly string[];
      },
      [string]
    >({
      brief: "Create a port",
      args: named("Port", "port"),
      flags: {
        subnet: { kind: "parsed", parse: text, brief: "Subnet, name or id" },
        ip: { kind: "parsed", parse: text, optional: true, brief: "Address; the next free one unless given" },
        mac: { kind: "parsed", parse: text, optional: true, brief: "MAC; made unless given" },
        sg: { kind: "parsed", parse: text, optional: true, variadic: true, brief: "Security group, repeatable" },
        allow: {
          kind: "parsed",
          parse: text,
          optional: true,
          variadic: true,
          brief: "Address or CIDR it may send from beside its own, repeatable",
        },
        label: labelFlag,
      },
      async run({ session, one }, flags, name) {
        const value = await session.client(PortService, "prismnet").createPort({
          project: session.project,
          name,
          subnet: flags.subnet,
          ipAddress: flags.ip ?? "",
          macAddress: flags.mac ?? "",
          securityGroups: [...flags.sg ?? []],
          allowedAddresses: [...flags.allow ?? []],
          labels: labelsOf(flags.label),
        });
        await one(PortSchema, value, portColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a port",
      complete: networkNames.port,
      args: named("Port", "port"),
      async run({ session, one }, _flags, port) {
        await one(
          PortSchema,
          await session.client(PortService, "prismnet").getPort({ project: session.project, port }),
          portColumns,
        );
      },
    }),
    groups: command<{ sg?: readonly string[] }, [string]>({
      brief: "Put a port in these security groups and no others; without --sg in none, which lets nothing pass",
      complete: networkNames.port,
      args: named("Port", "port"),
      flags: {
        sg: { kind: "parsed", parse: text, optional: true, variadic: true, brief: "Security group, repeatable" },
      },
      async run({ session, one }, flags, port) {
        const client = session.client(PortService, "prismnet");
        const request = { project: session.project, port, securityGroups: [...flags.sg ?? []] };
        await one(PortSchema, await client.setPortSecurityGroups(request), portColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete an unused port",
      complete: networkNames.port,
      args: named("Port", "port"),
      async run({ session, confirm, io }, _flags, port) {
        confirm(`Delete the port ${port}?`);
        await session.client(PortService, "prismnet").deletePort({ project: session.project, port });
        io.err(`Deleted port ${port}\n`);
      },
    }),
  },
});
