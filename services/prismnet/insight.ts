import type { Client } from "@connectrpc/connect";
import { Fault, fault, invalidField } from "@ultracloud/base";
import type { OvsdbClient } from "@ultracloud/ovsdb";
import { type Platform, resourceScope, type StoredRecord } from "@ultracloud/platform";
import type { NetAgentService } from "@ultracloud/proto/netagent/v1";
import { InsightService, Verdict } from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService, toFault } from "@ultracloud/rpc";
import { type Flow, type FlowAnswer, FlowTracer } from "./domain/flow.ts";
import { parseIp } from "./domain/ipv4.ts";
import { parseIp6 } from "./domain/ipv6.ts";
import { derivedMac } from "./domain/mac.ts";
import type { Port } from "./domain/types.ts";
import { type Engine, requireFeature } from "./engine.ts";
import { groupKind, hostKind, portKind } from "./kinds.ts";
import { readNetwork } from "./network_records.ts";
import { routerPort, uplinkPort } from "./ovn/names.ts";
import { keyOf } from "./ovn/rows.ts";
import type { NetworkState } from "./ovn/state.ts";
import { fromProtocol } from "./wire.ts";

/** The agent at the address a host has reported. */
export type AgentClients = (url: string) => Client<typeof NetAgentService>;

const agentTimeoutMs = 10_000;
/** Digits of a row's UUID that hosts count by. */
const hintDigits = 8;
/** Where a packet goes that no neighbour would take: no port has this address. */
const nobodysMac = "02:00:00:00:00:00";

const foreignText = "the address is another project's: what becomes of the flow there is for that project to say";

export interface InsightDeps {
  readonly platform: Platform;
  readonly engine: Engine;
  readonly northbound: OvsdbClient | undefined;
  readonly agents: AgentClients | undefined;
}

/** What the network does with a flow, and what passed it. */
export function insightService({ platform, engine, northbound, agents }: InsightDeps): BoundService {
  const portScope = (project: string, port: string) => resourceScope("prismnet", "port", project, port);
  const groupScope = (project: string, group: string) =>
    resourceScope("prismnet", "security_group", project, group, "securityGroup");

  function agentOf(url: string | undefined, host: string): Client<typeof NetAgentService> {
    if (agents && url) return agents(url);
    throw fault("unavailable", "host_unknown", `Cannot ask host ${host || "(none)"} as its net-agent has not reported`);
  }

  async function agentUrls(): Promise<Map<string, string>> {
    return new Map((await platform.list(hostKind)).map((host) => [host.name, host.value.agentUrl]));
  }

  /** The engine's view, from the host of the port or any other: each knows the whole logical network. */
  async function engineTrace(port: StoredRecord<Port>, flow: Flow, answer: FlowAnswer) {
    const urls = await agentUrls();
    const [anyHost, anyUrl] = [...urls][0] ?? ["", undefined];
    const host = port.value.host !== "" && urls.has(port.value.host) ? port.value.host : anyHost;
    const hop = answer.firstHop;
    const neighbour = hop.kind === "port" ? (await platform.getById(portKind, hop.id)).value.macAddress : nobodysMac;
    return await agentOf(urls.get(host) ?? anyUrl, host).tracePacket({
      datapath: port.value.subnetId,
      portId: port.id,
      sourceMac: port.value.macAddress,
      destinationMac: hop.kind === "router" ? derivedMac(routerPort(port.value.subnetId)) : neighbour,
      sourceIp: flow.source,
      destinationIp: flow.destination,
      protocol: flow.protocol,
      destinationPort: flow.port,
    }, { timeoutMs: agentTimeoutMs });
  }

  return bind(InsightService, {
    async traceFlow(request) {
      const destination = request.destinationIp;
      if (parseIp(destination) === undefined && parseIp6(destination) === undefined) {
        throw invalidField(
          "destinationIp",
          `Cannot trace to ${JSON.stringify(destination.slice(0, 60))}: wanted an IPv4 or IPv6 address`,
        );
      }
      const protocol = fromProtocol(request.protocol, "");
      if (protocol === "any") throw invalidField("protocol", "Cannot trace any protocol: wanted TCP, UDP or ICMP");
      const port = request.destinationPort;
      const right = protocol === "icmp" ? port === 0 : Number.isInteger(port) && port >= 1 && port <= 65_535;
      if (!right) {
        throw invalidField(
          "destinationPort",
          `Cannot trace port ${port}: wanted 1 to 65535 with TCP and UDP, else none`,
        );
      }
      requireFeature(engine, "east_west", "trace a flow");
      const from = await platform.get(portKind, request.project, request.port);
      const { state: all } = await readNetwork(platform);
      const answer = new FlowTracer(inProject(all, request.project)).trace(from, { destination, protocol, port });
      const verdict = (allowed: boolean) => allowed ? Verdict.ALLOWED : Verdict.DENIED;
      const steps = answer.steps.map(({ stage, allowed, text, by }) => ({
        stage,
        verdict: verdict(allowed),
        text,
        decidedBy: by,
      }));
      const source = destination.includes(":") ? from.value.ipv6Address : from.value.ipAddress;
      const told = { verdict: verdict(answer.allowed), steps };
      // Without an address of that family there is no packet that the engine could be asked about.
      if (source === undefined) return { ...told, engineVerdict: Verdict.UNSPECIFIED, engineText: "", agree: false };
      if (from.value.host === "") {
        const engineText = `port ${from.name} is on no host`;
        return { ...told, engineVerdict: Verdict.UNSPECIFIED, engineText, agree: false };
      }
      // The engine's words would tell of a network that is not the caller's.
      const foreign = all.floatingIps.some((ip) =>
        ip.value.ipAddress === destination && ip.value.portId !== "" && ip.project !== request.project
      );
      if (foreign) return { ...told, engineVerdict: Verdict.UNSPECIFIED, engineText: foreignText, agree: false };
      try {
        const seen = await engineTrace(from, { source, destination, protocol, port }, answer);
        const leaves = answer.leavesBy;
        const expected = leaves && (leaves.kind === "port" ? leaves.id : uplinkPort(leaves.id));
        const same = answer.allowed
          ? seen.outputs.length > 0 && (expected === undefined || seen.outputs.includes(expected))
          : seen.outputs.length === 0;
        return { ...told, engineVerdict: verdict(seen.outputs.length > 0), engineText: seen.text, agree: same };
      } catch (error) {
        const { message } = toFault(error);
        return { ...told, engineVerdict: Verdict.UNSPECIFIED, engineText: message, agree: false };
      }
    },
    async getPortCounters(request) {
      requireFeature(engine, "east_west", "count the packets of a port");
      const port = await platform.get(portKind, request.project, request.port);
      if (port.value.host === "") {
        throw fault("failed_precondition", "port_unbound", `Cannot count port ${port.name} as no host has it`);
      }
      const agent = agentOf((await agentUrls()).get(port.value.host), port.value.host);
      const { ports } = await typed(agent.getCounters({ portIds: [port.id] }, { timeoutMs: agentTimeoutMs }));
      const [counters] = ports;
      if (counters) {
        const { portId, sentPackets, sentBytes, receivedPackets, receivedBytes, droppedPackets } = counters;
        return { portId, sentPackets, sentBytes, receivedPackets, receivedBytes, droppedPackets };
      }
      throw fault(
        "unavailable",
        "port_pending",
        `Cannot count port ${port.name} as host ${port.value.host} has not taken it`,
      );
    },
    async getRuleCounters(request) {
      requireFeature(engine, "east_west", "count the packets of a rule");
      const group = await platform.get(groupKind, request.project, request.securityGroup);
      const members = (await platform.list(portKind, request.project))
        .filter(({ value }) => value.host !== "" && value.securityGroupIds.includes(group.id));
      const rules = new Map(group.value.rules.map(({ id }) => [id, { ruleId: id, packets: 0n, bytes: 0n }]));
      const owners = ruleOwners(northbound);
      const urls = await agentUrls();
      const missingHosts: string[] = [];
      await Promise.all([...new Set(members.map(({ value }) => value.host))].map(async (host) => {
        try {
          const counters = agentOf(urls.get(host), host).getCounters({ acls: true }, {
            timeoutMs: agentTimeoutMs,
          });
          for (const { acl, packets, bytes } of (await counters).acls) {
            const rule = rules.get(owners.get(acl) ?? "");
            if (!rule) continue;
            rule.packets += packets;
            rule.bytes += bytes;
          }
        } catch (error) {
          platform.log.warn("a host does not count", { host, error: String(error) });
          missingHosts.push(host);
        }
      }));
      return { rules: [...rules.values()], missingHosts: missingHosts.sort() };
    },
  }, {
    traceFlow: { resource: "port", action: "trace", scope: (r) => portScope(r.project, r.port) },
    getPortCounters: { resource: "port", action: "get", scope: (r) => portScope(r.project, r.port) },
    getRuleCounters: {
      resource: "security_group",
      action: "get",
      scope: (r) => groupScope(r.project, r.securityGroup),
    },
  });
}

/** The records that a person of the project may know of: pools are everybody's. */
function inProject(state: NetworkState, project: string): NetworkState {
  const own = <T>(records: readonly StoredRecord<T>[]) => records.filter((record) => record.project === project);
  return {
    ...state,
    subnets: own(state.subnets),
    groups: own(state.groups),
    ports: own(state.ports),
    acls: own(state.acls),
    routers: own(state.routers),
    gateways: own(state.gateways),
    floatingIps: own(state.floatingIps),
    peerings: own(state.peerings),
  };
}

/** Ids of rules by the first digits of the rows made of them. */
function ruleOwners(northbound: OvsdbClient | undefined): Map<string, string> {
  const owners = new Map<string, string>();
  for (const [uuid, row] of northbound?.replica.rows("ACL") ?? []) {
    const key = keyOf(row);
    if (key?.startsWith("rule_")) owners.set(uuid.slice(0, hintDigits), key.split("/")[0]!);
  }
  return owners;
}

async function typed<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw error instanceof Fault ? error : toFault(error);
  }
}
