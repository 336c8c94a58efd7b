import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  Direction,
  EngineService,
  type Port,
  PortSchema,
  PortService,
  PortState,
  Protocol,
  type SecurityGroup,
  type SecurityGroupRule,
  SecurityGroupSchema,
  SecurityGroupService,
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
  { name: "gateway", get: (s) => s.gatewayIp },
  { name: "network", get: (s) => s.vpcId, wide: true },
];
const portColumns: readonly Column<Port>[] = [
  ...metaColumns<Port>(),
  { name: "ip", get: (p) => p.ipAddress },
  { name: "mac", get: (p) => p.macAddress },
  { name: "owner", get: (p) => p.owner?.name ?? "" },
  { name: "host", get: (p) => p.host },
  { name: "state", get: (p) => enumName(PortState, p.state) },
  { name: "reason", get: (p) => p.stateReason, wide: true },
];
export const ruleText = (rule: SecurityGroupRule) => {
  const ports = rule.portMin === 0 && rule.portMax === 0
    ? ""
    : `:${rule.portMin}${rule.portMax === rule.portMin ? "" : `-${rule.portMax}`}`;
  const protocol = rule.protocol === Protocol.UNSPECIFIED ? "any" : enumName(Protocol, rule.protocol);
  return `${enumName(Direction, rule.direction)} ${protocol}${ports} ${
    rule.remoteGroupId || rule.remoteCidr || "0.0.0.0/0"
  }`;
};
const groupColumns: readonly Column<SecurityGroup>[] = [
  ...metaColumns<SecurityGroup>(),
  { name: "rules", get: (g) => g.rules.map(ruleText).join(", ") },
  { name: "rule_ids", get: (g) => g.rules.map((rule) => rule.id).join(", "), wide: true },
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
      args: named("Network", "network"),
      async run({ session, one }, _flags, vpc) {
        await one(
          VpcSchema,
          await session.client(VpcService, "prismnet").getVpc({ project: session.project, vpc }),
          vpcColumns,
        );
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a network without subnets",
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
      { subnet: string; ip?: string; mac?: string; sg?: readonly string[]; label?: readonly string[] },
      [string]
    >({
      brief: "Create a port",
      args: named("Port", "port"),
      flags: {
        subnet: { kind: "parsed", parse: text, brief: "Subnet, name or id" },
        ip: { kind: "parsed", parse: text, optional: true, brief: "Address; the next free one unless given" },
        mac: { kind: "parsed", parse: text, optional: true, brief: "MAC; made unless given" },
        sg: { kind: "parsed", parse: text, optional: true, variadic: true, brief: "Security group, repeatable" },
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
          labels: labelsOf(flags.label),
        });
        await one(PortSchema, value, portColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a port",
      args: named("Port", "port"),
      async run({ session, one }, _flags, port) {
        await one(
          PortSchema,
          await session.client(PortService, "prismnet").getPort({ project: session.project, port }),
          portColumns,
        );
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete an unused port",
      args: named("Port", "port"),
      async run({ session, confirm, io }, _flags, port) {
        confirm(`Delete the port ${port}?`);
        await session.client(PortService, "prismnet").deletePort({ project: session.project, port });
        io.err(`Deleted port ${port}\n`);
      },
    }),
  },
});

/** "tcp:80", "udp:5000-5010", "icmp" or "any", with an optional "@CIDR or group id". */
export function parseRule(direction: "ingress" | "egress", input: string) {
  const match = /^(?:(?:(tcp|udp)(?::(\d{1,5})(?:-(\d{1,5}))?)?)|(icmp|any))(?:@(.+))?$/.exec(input);
  const min = match?.[2] === undefined ? 0 : Number(match[2]);
  const max = match?.[3] === undefined ? min : Number(match[3]);
  // On the wire 0 stands for every port: who writes it out means something else.
  if (!match || max < min || max > 65_535 || (match[2] !== undefined && min === 0)) {
    throw fault(
      "invalid_argument",
      "invalid_rule",
      `Cannot read ${JSON.stringify(input)} as a rule: wanted tcp:80, udp:5000-5010@10.0.0.0/8, icmp or any`,
    );
  }
  const remote = match[5] ?? "";
  return {
    direction: direction === "ingress" ? Direction.INGRESS : Direction.EGRESS,
    protocol: {
      tcp: Protocol.TCP,
      udp: Protocol.UDP,
      icmp: Protocol.ICMP,
      any: Protocol.UNSPECIFIED,
    }[(match[1] ?? match[4]) as "tcp"],
    portMin: min,
    portMax: max,
    remoteCidr: remote.startsWith("sg_") ? "" : remote,
    remoteGroupId: remote.startsWith("sg_") ? remote : "",
  };
}

const rulesFlag = (what: string) =>
  ({
    kind: "parsed",
    parse: text,
    optional: true,
    variadic: true,
    brief: `${what}: tcp:80, udp:53@10.0.0.0/8, icmp, any`,
  }) as const;

export const sg = buildRouteMap({
  docs: { brief: "Security groups" },
  routes: {
    list: command({
      brief: "List security groups",
      async run({ session, list }) {
        const client = session.client(SecurityGroupService, "prismnet");
        const { project } = session;
        const all = await pages((page) => client.listSecurityGroups({ project, page }), (r) => r.securityGroups);
        await list(SecurityGroupSchema, all, groupColumns);
      },
    }),
    create: command<
      { ingress?: readonly string[]; egress?: readonly string[]; description?: string; label?: readonly string[] },
      [string]
    >({
      brief: "Create a security group; without rules it allows what goes out",
      args: named("Security group", "group"),
      flags: {
        ingress: rulesFlag("Let in"),
        egress: rulesFlag("Let out"),
        description: { kind: "parsed", parse: text, optional: true, brief: "What it is for" },
        label: labelFlag,
      },
      async run({ session, one }, flags, name) {
        const egress = flags.egress ?? (flags.ingress ? ["any"] : []);
        const rules = [
          ...(flags.ingress ?? []).map((rule) => parseRule("ingress", rule)),
          ...egress.map((rule) => parseRule("egress", rule)),
        ];
        const value = await session.client(SecurityGroupService, "prismnet").createSecurityGroup({
          project: session.project,
          name,
          description: flags.description ?? "",
          rules,
          labels: labelsOf(flags.label),
        });
        await one(SecurityGroupSchema, value, groupColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a security group",
      args: named("Security group", "group"),
      async run({ session, one }, _flags, securityGroup) {
        const client = session.client(SecurityGroupService, "prismnet");
        await one(
          SecurityGroupSchema,
          await client.getSecurityGroup({ project: session.project, securityGroup }),
          groupColumns,
        );
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete an unused security group",
      args: named("Security group", "group"),
      async run({ session, confirm, io }, _flags, securityGroup) {
        confirm(`Delete the security group ${securityGroup}?`);
        await session.client(SecurityGroupService, "prismnet").deleteSecurityGroup({
          project: session.project,
          securityGroup,
        });
        io.err(`Deleted security group ${securityGroup}\n`);
      },
    }),
    rule: buildRouteMap({
      docs: { brief: "Rules of a security group" },
      routes: {
        add: command<{ ingress?: string; egress?: string }, [string]>({
          brief: "Add a rule; it takes effect on running ports",
          args: named("Security group", "group"),
          flags: {
            ingress: { kind: "parsed", parse: text, optional: true, brief: "Let in, for example tcp:443" },
            egress: { kind: "parsed", parse: text, optional: true, brief: "Let out" },
          },
          async run({ session, one }, flags, securityGroup) {
            if ((flags.ingress === undefined) === (flags.egress === undefined)) {
              throw fault(
                "invalid_argument",
                "invalid_rule",
                "Cannot add a rule: wanted exactly one of --ingress and --egress",
              );
            }
            const rule = flags.ingress === undefined
              ? parseRule("egress", flags.egress!)
              : parseRule("ingress", flags.ingress);
            const client = session.client(SecurityGroupService, "prismnet");
            await one(
              SecurityGroupSchema,
              await client.addRule({ project: session.project, securityGroup, rule }),
              groupColumns,
            );
          },
        }),
        remove: command<Record<never, never>, [string, string]>({
          brief: "Remove a rule",
          args: [...named("Security group", "group"), {
            brief: "Rule id, as `uc sg show -o wide` shows it",
            placeholder: "rule",
          }],
          async run({ session, one }, _flags, securityGroup, ruleId) {
            const client = session.client(SecurityGroupService, "prismnet");
            await one(
              SecurityGroupSchema,
              await client.removeRule({ project: session.project, securityGroup, ruleId }),
              groupColumns,
            );
          },
        }),
      },
    }),
  },
});
