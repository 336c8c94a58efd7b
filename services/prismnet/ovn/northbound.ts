import { map, set, type Value } from "@ultracloud/ovsdb";
import { derivedMac } from "../domain/mac.ts";
import type { Rule } from "../domain/types.ts";
import { guestMtu, routerPort, switchRouterPort } from "./names.ts";
import { routingRows } from "./routing.ts";
import { ingressRows } from "./edge.ts";
import { endingMatches, groupName, ruleMatches } from "./matches.ts";
import type { DesiredRow } from "./rows.ts";
import type { NetworkState } from "./state.ts";

const leaseTimeS = 3_600;

/** Tables that this engine writes, with the columns it compares. */
export const northboundTables: Readonly<Record<string, readonly string[]>> = {
  NB_Global: ["nb_cfg", "sb_cfg", "hv_cfg", "options"],
  Logical_Switch: ["name", "ports", "acls", "dns_records", "other_config", "external_ids"],
  Logical_Switch_Port: [
    "name",
    "type",
    "options",
    "addresses",
    "port_security",
    "dhcpv4_options",
    "dhcpv6_options",
    "up",
    "external_ids",
  ],
  Logical_Router: ["name", "ports", "static_routes", "nat", "policies", "external_ids"],
  Logical_Router_Policy: ["priority", "match", "action", "external_ids"],
  Logical_Router_Port: [
    "name",
    "mac",
    "networks",
    "peer",
    "gateway_chassis",
    "ipv6_ra_configs",
    "options",
    "external_ids",
  ],
  Gateway_Chassis: ["name", "chassis_name", "priority", "external_ids"],
  Logical_Router_Static_Route: ["ip_prefix", "nexthop", "output_port", "external_ids"],
  NAT: ["type", "external_ip", "logical_ip", "external_ids"],
  DHCP_Options: ["cidr", "options", "external_ids"],
  DNS: ["records", "external_ids"],
  Port_Group: ["name", "ports", "acls", "external_ids"],
  ACL: ["priority", "direction", "match", "action", "name", "external_ids"],
};

/** Tables whose rows are compared; NB_Global is the fence. */
export const ownTables = Object.keys(northboundTables).filter((table) => table !== "NB_Global");

/** Every guest port is in it: it drops what no rule allows. */
const guestGroup = "uc_guests";
/** Rank of rules; a higher number wins. */
const ranks = {
  /** Servers of addresses and routes are the platform's alone. */
  noServers: 2_000,
  /** Finding neighbours and getting an address is never filtered; what may be claimed is port security's. */
  basics: 1_900,
  allow: 1_002,
  drop: 1_000,
} as const;

function acl(
  rows: DesiredRow[],
  key: string,
  columns: { direction: "ingress" | "egress"; rank: number; match: string; action: string },
): string {
  rows.push({
    table: "ACL",
    key,
    columns: {
      direction: columns.direction === "ingress" ? "to-lport" : "from-lport",
      priority: columns.rank,
      match: columns.match,
      action: columns.action,
    },
  });
  return key;
}

function guestRows(state: NetworkState): DesiredRow[] {
  const rows: DesiredRow[] = [];
  const from = `inport == @${guestGroup}`, to = `outport == @${guestGroup}`;
  const { noServers, basics, drop } = ranks;
  const add = (name: string, direction: "ingress" | "egress", rank: number, match: string, action: string) =>
    acl(rows, `guests/${name}`, { direction, rank, match, action });
  const acls = [
    add("no-dhcp-server", "egress", noServers, `${from} && udp && udp.src == 67`, "drop"),
    add("no-dhcp6-server", "egress", noServers, `${from} && udp && udp.src == 547`, "drop"),
    add("no-router", "egress", noServers, `${from} && icmp6 && icmp6.type == {134, 137}`, "drop"),
    add("dhcp", "egress", basics, `${from} && ip4 && udp.src == 68 && udp.dst == 67`, "allow"),
    add("dhcp6", "egress", basics, `${from} && ip6 && udp.src == 546 && udp.dst == 547`, "allow"),
    add("neighbours", "egress", basics, `${from} && icmp6 && icmp6.type == {133, 135, 136, 143}`, "allow"),
    add("neighbours-in", "ingress", basics, `${to} && icmp6 && icmp6.type == {134, 135, 136}`, "allow"),
    add("drop-out", "egress", drop, `${from} && ip`, "drop"),
    add("drop-in", "ingress", drop, `${to} && ip`, "drop"),
  ];
  const ports = state.ports.map((port) => port.id);
  rows.push({
    table: "Port_Group",
    key: guestGroup,
    columns: { name: guestGroup, ports: { refs: ports }, acls: { refs: acls } },
  });
  return rows;
}

function groupRows(state: NetworkState): DesiredRow[] {
  const rows: DesiredRow[] = [];
  const members = new Map<string, string[]>(state.groups.map((group) => [group.id, []]));
  for (const port of state.ports) for (const id of port.value.securityGroupIds) members.get(id)?.push(port.id);
  for (const group of state.groups) {
    const allowing = (rule: Rule, matches: readonly string[]) =>
      matches.map((match, i) =>
        acl(rows, `${rule.id}/${i}`, { direction: rule.direction, rank: ranks.allow, match, action: "allow-related" })
      );
    // A peer that is gone in the same breath has no members: it opens nothing.
    const stands = ({ remoteGroupId }: Rule) => remoteGroupId === "" || members.has(remoteGroupId);
    const acls = [
      ...group.value.rules.filter(stands).flatMap((rule) => allowing(rule, ruleMatches(group.id, rule))),
      ...(group.value.ending ?? []).map(({ rule }) => rule).filter(stands)
        .flatMap((rule) => allowing(rule, endingMatches(group.id, rule))),
    ];
    rows.push({
      table: "Port_Group",
      key: group.id,
      columns: { name: groupName(group.id), ports: { refs: members.get(group.id)! }, acls: { refs: acls } },
    });
  }
  return rows;
}

function subnetRows(state: NetworkState): DesiredRow[] {
  const rows: DesiredRow[] = [];
  const vpcs = new Map(state.vpcs.map((vpc) => [vpc.id, vpc]));
  const portsOf = Map.groupBy(state.ports, (port) => port.value.subnetId);
  for (const subnet of state.subnets) {
    const { id, value } = subnet;
    const vpc = vpcs.get(value.vpcId);
    if (!vpc) continue;
    const mac = derivedMac(routerPort(id));
    const domain = `${vpc.name}.internal`;
    // Without servers of its own the gateway is named: the switch answers for the names of ports there.
    const servers = value.dnsServers.length > 0 ? value.dnsServers : [value.gatewayIp];
    rows.push({
      table: "DHCP_Options",
      key: `${id}/dhcp`,
      columns: {
        cidr: value.cidr,
        options: map({
          server_id: value.gatewayIp,
          server_mac: mac,
          router: value.gatewayIp,
          lease_time: String(leaseTimeS),
          mtu: String(guestMtu),
          dns_server: `{${servers.join(", ")}}`,
          domain_name: `"${domain}"`,
        }),
      },
    });
    if (value.cidrV6) {
      rows.push({
        table: "DHCP_Options",
        key: `${id}/dhcp6`,
        columns: { cidr: value.cidrV6, options: map({ server_id: mac, domain_search: domain }) },
      });
    }
    const ports = portsOf.get(id) ?? [];
    rows.push({
      table: "Logical_Switch_Port",
      key: switchRouterPort(id),
      columns: {
        name: switchRouterPort(id),
        type: "router",
        options: map({ "router-port": routerPort(id) }),
        addresses: "router",
      },
    });
    rows.push({
      table: "Logical_Switch",
      key: id,
      columns: {
        name: id,
        ports: { refs: [switchRouterPort(id), ...ports.map((port) => port.id)] },
        acls: { refs: ingressRows(state, id, rows) },
        dns_records: { refs: [`${vpc.id}/dns`] },
      },
    });
    for (const port of ports) rows.push(portRow(port, value.cidrV6 !== undefined));
  }
  return rows;
}

type PortRecord = NetworkState["ports"][number];
/** Rows made of records, which never change: a record that is still the same has the same row. */
const madeRows = [new WeakMap<PortRecord, DesiredRow>(), new WeakMap<PortRecord, DesiredRow>()] as const;

function portRow(port: PortRecord, v6: boolean): DesiredRow {
  const made = madeRows[v6 ? 1 : 0];
  const row = made.get(port) ?? makePortRow(port, v6);
  made.set(port, row);
  return row;
}

function makePortRow(port: PortRecord, v6: boolean): DesiredRow {
  const { macAddress, ipAddress, ipv6Address, allowedAddresses, subnetId, host, arrivingHost } = port.value;
  const own = [macAddress, ipAddress, ...(ipv6Address ? [ipv6Address] : [])].join(" ");
  const options: Record<string, string> = host === "" ? {} : {
    "requested-chassis": arrivingHost === undefined ? host : `${host},${arrivingHost}`,
    // What the guest's QEMU says on its arrival; until then the second host is neither heard nor told.
    ...(arrivingHost === undefined ? {} : { "activation-strategy": "rarp" }),
  };
  const dhcpv6: Value | { refs: string[] } = v6 ? { refs: [`${subnetId}/dhcp6`] } : set([]);
  return {
    table: "Logical_Switch_Port",
    key: port.id,
    columns: {
      name: port.id,
      type: "",
      addresses: own,
      port_security: [own, ...allowedAddresses ?? []].join(" "),
      options: map(options),
      dhcpv4_options: { refs: [`${subnetId}/dhcp`] },
      dhcpv6_options: dhcpv6,
    },
  };
}

/** Names of ports, for guests of their VPC: `<port>` and `<port>.<vpc>.internal`. */
function nameRows(state: NetworkState): DesiredRow[] {
  const portsOf = Map.groupBy(state.ports, (port) => port.value.vpcId);
  return state.vpcs.map((vpc) => {
    const records: Record<string, string> = {};
    for (const port of portsOf.get(vpc.id) ?? []) {
      const addresses = [port.value.ipAddress, port.value.ipv6Address].filter((a) => a).join(" ");
      records[port.name.toLowerCase()] = addresses;
      records[`${port.name}.${vpc.name}.internal`.toLowerCase()] = addresses;
    }
    return { table: "DNS", key: `${vpc.id}/dns`, columns: { records: map(records) } };
  });
}

/** The northbound rows that make the network what the records say. */
export function desiredRows(state: NetworkState): DesiredRow[] {
  // A port between two writes may name a subnet that is not read yet: it is told with the next change.
  const subnets = new Set(state.subnets.map((subnet) => subnet.id));
  const vpcs = new Set(state.vpcs.map((vpc) => vpc.id));
  const whole: NetworkState = {
    ...state,
    subnets: state.subnets.filter((subnet) => vpcs.has(subnet.value.vpcId)),
    // A port on no host carries nothing: northd need not compute it.
    ports: state.ports.filter(({ value }) => value.host !== "" && subnets.has(value.subnetId) && vpcs.has(value.vpcId)),
  };
  return [
    ...nameRows(whole),
    ...subnetRows(whole),
    ...routingRows(whole),
    ...groupRows(whole),
    ...guestRows(whole),
  ];
}
