import { map, set, type Value } from "@ultracloud/ovsdb";
import { formatIp, parseIp } from "../domain/ipv4.ts";
import { derivedMac } from "../domain/mac.ts";
import { guestMtu, routerPort, uplinkPort, withPrefix } from "./names.ts";
import { egressRows } from "./edge.ts";
import type { DesiredRow, Refs } from "./rows.ts";
import type { NetworkState } from "./state.ts";

/** Hosts that may carry a VPC's way out; beyond these nobody waits for another. */
const gatewayHostsMax = 5;
/** Links between routers: a /30 each, where no tenant has addresses. */
const linkFirst = parseIp("169.254.128.0")!;
/** Links that fit: /30 networks of 169.254.128.0/17. */
export const linksMax = 8_192;

/** Both ends of a link between two routers. */
function linkAddresses(link: number): readonly [string, string] {
  return [formatIp(linkFirst + link * 4 + 1), formatIp(linkFirst + link * 4 + 2)];
}

interface RouterParts {
  readonly ports: string[];
  readonly routes: string[];
  readonly nat: string[];
  readonly policies: readonly string[];
}

/** Routers, their ports, routes and translations. */
export function routingRows(state: NetworkState): DesiredRow[] {
  const rows: DesiredRow[] = [];
  const parts = new Map<string, RouterParts>(
    state.vpcs.map((vpc) => [vpc.id, { ports: [], routes: [], nat: [], policies: egressRows(state, vpc.id, rows) }]),
  );
  const port = (vpcId: string, name: string, columns: Readonly<Record<string, Value | Refs>>) => {
    parts.get(vpcId)!.ports.push(name);
    rows.push({ table: "Logical_Router_Port", key: name, columns: { name, mac: derivedMac(name), ...columns } });
  };
  const route = (vpcId: string, key: string, prefix: string, nexthop: string, output?: string) => {
    parts.get(vpcId)!.routes.push(key);
    rows.push({
      table: "Logical_Router_Static_Route",
      key,
      columns: { ip_prefix: prefix, nexthop, output_port: output ?? set([]) },
    });
  };
  subnetPorts(state, port);
  outside(state, rows, parts, port, route);
  for (const peering of state.peerings) peer(state, peering, parts, port, route);
  for (const router of state.routers) {
    if (!parts.has(router.value.vpcId)) continue;
    for (const { cidr, nextHop } of router.value.routes) {
      route(router.value.vpcId, `${router.id}/${cidr}`, cidr, nextHop);
    }
  }
  for (const vpc of state.vpcs) {
    const { ports, routes, nat, policies } = parts.get(vpc.id)!;
    rows.push({
      table: "Logical_Router",
      key: vpc.id,
      columns: {
        name: vpc.id,
        ports: { refs: ports },
        static_routes: { refs: routes },
        nat: { refs: nat },
        policies: { refs: policies },
      },
    });
  }
  return rows;
}

type AddPort = (vpcId: string, name: string, columns: Readonly<Record<string, Value | Refs>>) => void;
type AddRoute = (vpcId: string, key: string, prefix: string, nexthop: string, output?: string) => void;

function subnetPorts(state: NetworkState, port: AddPort): void {
  for (const { id, value } of state.subnets) {
    const networks = [withPrefix(value.gatewayIp, value.cidr)];
    if (value.cidrV6) networks.push(`${value.gatewayV6}/64`);
    const announcements = value.cidrV6
      ? { address_mode: "dhcpv6_stateful", send_periodic: "true", mtu: String(guestMtu) }
      : {};
    port(value.vpcId, routerPort(id), { networks: set(networks), ipv6_ra_configs: map(announcements) });
  }
}

/** A switch per pool with the uplink in it; a port of the router on it, the way there, and the translations. */
function outside(
  state: NetworkState,
  rows: DesiredRow[],
  parts: ReadonlyMap<string, RouterParts>,
  port: AddPort,
  route: AddRoute,
): void {
  const hosts = [...state.hosts].sort((a, b) => a.name < b.name ? -1 : 1);
  const subnetsOf = Map.groupBy(state.subnets, (subnet) => subnet.value.vpcId);
  const portsById = new Map(state.ports.map((p) => [p.id, p]));
  for (const pool of state.pools) {
    const { uplink, cidr, gatewayIp } = pool.value;
    const gateways = state.gateways.filter((g) => g.value.poolId === pool.id && parts.has(g.value.vpcId));
    const switchPorts = [uplinkPort(pool.id)];
    rows.push({
      table: "Logical_Switch_Port",
      key: uplinkPort(pool.id),
      columns: {
        name: uplinkPort(pool.id),
        type: "localnet",
        addresses: "unknown",
        options: map({ network_name: uplink }),
      },
    });
    for (const gateway of gateways) {
      const { vpcId, ipAddress } = gateway.value;
      const name = `lr-${gateway.id}`;
      const able = hosts.filter((host) => host.value.uplinks.includes(uplink)).slice(0, gatewayHostsMax);
      const chassis = able.map((host, i) => {
        const key = `${gateway.id}/${host.name}`;
        const columns = { name: key, chassis_name: host.name, priority: gatewayHostsMax - i };
        rows.push({ table: "Gateway_Chassis", key, columns });
        return key;
      });
      port(vpcId, name, { networks: withPrefix(ipAddress, cidr), gateway_chassis: { refs: chassis } });
      switchPorts.push(`ls-${gateway.id}`);
      rows.push({
        table: "Logical_Switch_Port",
        key: `ls-${gateway.id}`,
        columns: {
          name: `ls-${gateway.id}`,
          type: "router",
          addresses: "router",
          options: map({ "router-port": name, "nat-addresses": "router" }),
        },
      });
      if (gatewayIp !== "") route(vpcId, `${gateway.id}/default`, "0.0.0.0/0", gatewayIp, name);
      const nat = (key: string, type: string, externalIp: string, logicalIp: string) => {
        parts.get(vpcId)!.nat.push(key);
        rows.push({ table: "NAT", key, columns: { type, external_ip: externalIp, logical_ip: logicalIp } });
      };
      for (const subnet of subnetsOf.get(vpcId) ?? []) {
        nat(`${gateway.id}/${subnet.id}`, "snat", ipAddress, subnet.value.cidr);
      }
      for (const ip of state.floatingIps) {
        const target = portsById.get(ip.value.portId);
        if (ip.value.poolId !== pool.id || target?.value.vpcId !== vpcId) continue;
        nat(ip.id, "dnat_and_snat", ip.value.ipAddress, target.value.ipAddress);
      }
    }
    rows.push({
      table: "Logical_Switch",
      key: pool.id,
      columns: { name: pool.id, ports: { refs: switchPorts }, acls: { refs: [] }, dns_records: { refs: [] } },
    });
  }
}

function peer(
  state: NetworkState,
  peering: NetworkState["peerings"][number],
  parts: ReadonlyMap<string, RouterParts>,
  port: AddPort,
  route: AddRoute,
): void {
  const { vpcId, peerVpcId, link } = peering.value;
  if (!parts.has(vpcId) || !parts.has(peerVpcId)) return;
  const ends = linkAddresses(link);
  const sides = [[vpcId, 0], [peerVpcId, 1]] as const;
  const name = (side: number) => `lr-${peering.id}-${side}`;
  for (const [here, side] of sides) {
    const there = side === 0 ? peerVpcId : vpcId;
    port(here, name(side), { networks: `${ends[side]}/30`, peer: name(1 - side), ipv6_ra_configs: map({}) });
    for (const subnet of state.subnets.filter((s) => s.value.vpcId === there)) {
      route(here, `${peering.id}/${subnet.id}`, subnet.value.cidr, ends[1 - side]!, name(side));
    }
  }
}
