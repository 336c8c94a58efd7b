import { defineKind, type NumberPool } from "@ultracloud/platform";
import { parseNetwork } from "./domain/ipv4.ts";
import type {
  AddressPool,
  FloatingIp,
  NatGateway,
  NetHost,
  NetworkAcl,
  Peering,
  Port,
  Router,
  SecurityGroup,
  Subnet,
  Vpc,
} from "./domain/types.ts";

export const vpcKind = defineKind<Vpc>({ name: "vpc", prefix: "vpc", title: "VPC" });
export const subnetKind = defineKind<Subnet>({ name: "subnet", prefix: "snet" });
export const groupKind = defineKind<SecurityGroup>({ name: "security_group", prefix: "sg" });
export const portKind = defineKind<Port>({ name: "port", prefix: "port" });
export const aclKind = defineKind<NetworkAcl>({ name: "network_acl", prefix: "acl", title: "network ACL" });
export const routerKind = defineKind<Router>({ name: "router", prefix: "rtr" });
export const poolKind = defineKind<AddressPool>({ name: "address_pool", prefix: "pool" });
export const gatewayKind = defineKind<NatGateway>({ name: "nat_gateway", prefix: "nat", title: "NAT gateway" });
export const floatingIpKind = defineKind<FloatingIp>({ name: "floating_ip", prefix: "fip", title: "floating IP" });
export const peeringKind = defineKind<Peering>({ name: "peering", prefix: "peer" });
export const hostKind = defineKind<NetHost>({ name: "host" });

/** Holder of the gateway's address in a subnet's pool. */
export const gatewayHolder = "gateway";

/** Addresses of a subnet that hosts may have. */
export function addressPool(subnetId: string, cidr: string): NumberPool {
  const network = parseNetwork(cidr)!;
  return { name: `ip/${subnetId}`, first: network.first + 1, last: network.last - 1 };
}

/** Row that says who uses a group: a port or another group. */
export function groupUseKey(groupId: string, userId = ""): string {
  return `groupuse|${groupId}|${userId}`;
}

/** Row that keeps a MAC address once per VPC. */
export function macKey(vpcId: string, mac: string): string {
  return `mac|${vpcId}|${mac}`;
}
