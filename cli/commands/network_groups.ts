import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  Direction,
  Protocol,
  type SecurityGroup,
  type SecurityGroupRule,
  SecurityGroupSchema,
  SecurityGroupService,
} from "@ultracloud/proto/prismnet/v1";
import { type Column, enumName } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { networkNames } from "./_network_names.ts";
import { labelFlag, labelsOf, metaColumns, pages } from "./_shared.ts";
import { named } from "./network.ts";

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
      complete: networkNames.group,
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
      complete: networkNames.group,
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
          complete: networkNames.group,
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
        remove: command<{ letFlowsEnd?: boolean }, [string, string]>({
          brief: "Remove a rule, cutting what it let pass",
          complete: networkNames.group,
          args: [...named("Security group", "group"), {
            brief: "Rule id, as `uc sg show -o wide` shows it",
            placeholder: "rule",
          }],
          flags: {
            letFlowsEnd: {
              kind: "boolean",
              optional: true,
              brief: "Let its connections go on until they end, a day at most; nothing new passes",
            },
          },
          async run({ session, one }, { letFlowsEnd = false }, securityGroup, ruleId) {
            const client = session.client(SecurityGroupService, "prismnet");
            await one(
              SecurityGroupSchema,
              await client.removeRule({ project: session.project, securityGroup, ruleId, letFlowsEnd }),
              groupColumns,
            );
          },
        }),
      },
    }),
  },
});
