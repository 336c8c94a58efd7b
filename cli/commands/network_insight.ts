import { buildRouteMap } from "@stricli/core";
import { Fault, fault } from "@ultracloud/base";
import { VmService } from "@ultracloud/proto/plasmavmc/v1";
import {
  InsightService,
  type PortCounters,
  PortCountersSchema,
  Protocol,
  RuleCountersSchema,
  SecurityGroupService,
  TraceFlowResponseSchema,
  type TraceStep,
  Verdict,
} from "@ultracloud/proto/prismnet/v1";
import { toJson } from "@bufbuild/protobuf";
import { type Column, enumName } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import type { Session } from "../frame/session.ts";
import { networkNames } from "./_network_names.ts";
import { named } from "./network.ts";
import { ruleText } from "./network_groups.ts";

/** "10.0.0.3:80", "[fd00::3]:80", or an address alone. */
export function parseTarget(input: string): { ip: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([0-9.]+))(?::(\d{1,5}))?$/.exec(input) ?? /^([0-9a-fA-F:]+)$/.exec(input);
  const port = Number(match?.[3] ?? 0);
  if (match && port <= 65_535) return { ip: (match[1] ?? match[2])!, port };
  throw fault(
    "invalid_argument",
    "invalid_target",
    `Cannot read ${JSON.stringify(input)} as a target: wanted 10.0.0.3:80, [fd00::3]:80, or an address for icmp`,
  );
}

/** Port of a VM's first NIC, or the port of that name. */
async function portOf(session: Session, name: string): Promise<string> {
  try {
    const { nics } = await session.client(VmService, "plasmavmc").getVm({ project: session.project, vm: name });
    return nics[0]?.portId || name;
  } catch (error) {
    // No VM, or no plasmavmc: a network works without.
    if (error instanceof Fault && (error.kind === "not_found" || error.kind === "unavailable")) return name;
    throw error;
  }
}

const stepColumns: readonly Column<TraceStep>[] = [
  { name: "stage", get: (s) => s.stage },
  { name: "verdict", get: (s) => enumName(Verdict, s.verdict) },
  { name: "why", get: (s) => s.text },
  { name: "decided_by", get: (s) => s.decidedBy, wide: true },
];

const portCounterColumns: readonly Column<PortCounters>[] = [
  { name: "port", get: (c) => c.portId },
  { name: "sent_packets", get: (c) => String(c.sentPackets) },
  { name: "sent_bytes", get: (c) => String(c.sentBytes) },
  { name: "received_packets", get: (c) => String(c.receivedPackets) },
  { name: "received_bytes", get: (c) => String(c.receivedBytes) },
  { name: "dropped", get: (c) => String(c.droppedPackets) },
];

const portCounters = command<Record<never, never>, [string]>({
  brief: "What passed a port since its host's switch took it",
  complete: networkNames.port,
  args: named("Port", "port"),
  async run({ session, one }, _flags, port) {
    const client = session.client(InsightService, "prismnet");
    await one(PortCountersSchema, await client.getPortCounters({ project: session.project, port }), portCounterColumns);
  },
});

const groupCounters = command<Record<never, never>, [string]>({
  brief: "What each rule let pass since its flows were installed, answers not counted",
  complete: networkNames.group,
  args: named("Security group", "group"),
  async run({ session, io, items }, _flags, securityGroup) {
    const request = { project: session.project, securityGroup };
    const group = await session.client(SecurityGroupService, "prismnet").getSecurityGroup(request);
    const { rules, missingHosts } = await session.client(InsightService, "prismnet").getRuleCounters(request);
    const texts = new Map(group.rules.map((rule) => [rule.id, ruleText(rule)]));
    await items(
      rules.map((value) => ({ value, json: toJson(RuleCountersSchema, value), name: value.ruleId })),
      [
        { name: "rule", get: (c) => texts.get(c.ruleId) ?? "" },
        { name: "packets", get: (c) => String(c.packets) },
        { name: "bytes", get: (c) => String(c.bytes) },
        { name: "rule_id", get: (c) => c.ruleId, wide: true },
      ],
    );
    if (missingHosts.length > 0) io.err(`Not counted, as they do not answer: ${missingHosts.join(", ")}\n`);
  },
});

const protocols = ["tcp", "udp", "icmp"] as const;

export const net = buildRouteMap({
  docs: { brief: "What the network does with a flow, and what passed" },
  routes: {
    counters: buildRouteMap({
      docs: { brief: "Packets and bytes that passed" },
      routes: { port: portCounters, sg: groupCounters },
    }),
    trace: command<{ from: string; to: string; protocol?: (typeof protocols)[number]; detail: boolean }, []>({
      brief: "Would this flow pass? Says what decides it; sends nothing",
      flags: {
        from: { kind: "parsed", parse: text, brief: "VM or port that would send" },
        to: { kind: "parsed", parse: text, brief: "10.0.0.3:80, [fd00::3]:80, or an address for icmp" },
        protocol: { kind: "enum", values: protocols, optional: true, brief: "tcp with a port, icmp without, or udp" },
        detail: { kind: "boolean", default: false, brief: "The engine's own words, too" },
      },
      async run({ session, io, flags: common, items }, flags) {
        const target = parseTarget(flags.to);
        const protocol = flags.protocol ?? (target.port === 0 ? "icmp" : "tcp");
        const answer = await session.client(InsightService, "prismnet").traceFlow({
          project: session.project,
          port: await portOf(session, flags.from),
          destinationIp: target.ip,
          protocol: { tcp: Protocol.TCP, udp: Protocol.UDP, icmp: Protocol.ICMP }[protocol],
          destinationPort: target.port,
        });
        if (common.output === "json" || common.output === "yaml") {
          return await items(
            [{ value: answer, json: toJson(TraceFlowResponseSchema, answer), name: "flow" }] as never,
            [],
            true,
          );
        }
        await items(answer.steps.map((value) => ({ value, json: null, name: value.stage })), stepColumns);
        const engine = answer.engineVerdict === Verdict.UNSPECIFIED
          ? `the engine was not asked: ${answer.engineText || "no packet to ask about"}`
          : answer.agree
          ? "the engine agrees"
          : `the engine says ${enumName(Verdict, answer.engineVerdict)}: a change may be under way`;
        io.err(`${protocol} from ${flags.from} to ${flags.to}: ${enumName(Verdict, answer.verdict)}; ${engine}\n`);
        if (flags.detail && answer.engineVerdict !== Verdict.UNSPECIFIED) io.err(`\n${answer.engineText}\n`);
      },
    }),
  },
});
