/** What prismnet keeps. Identity, name and labels stand in the record around each. */

export interface Vpc {
  readonly description: string;
}

export interface Subnet {
  readonly vpcId: string;
  readonly cidr: string;
  readonly gatewayIp: string;
  readonly dnsServers: readonly string[];
  /** IPv6 /64, absent without IPv6. */
  readonly cidrV6?: string;
  readonly gatewayV6?: string;
  /** Absent: everything passes the subnet's edge. */
  readonly networkAclId?: string;
}

export type Direction = "ingress" | "egress";
export type Protocol = "any" | "tcp" | "udp" | "icmp";

export interface Rule {
  readonly id: string;
  readonly direction: Direction;
  readonly protocol: Protocol;
  /** 0 and 0: every port. */
  readonly portMin: number;
  readonly portMax: number;
  /** Empty unless the peer is a CIDR. */
  readonly remoteCidr: string;
  /** Empty unless the peer is a group. */
  readonly remoteGroupId: string;
}

export interface SecurityGroup {
  readonly description: string;
  readonly rules: readonly Rule[];
  /** Removed rules whose connections may end by themselves. */
  readonly ending?: readonly EndingRule[];
}

/** A rule that lets nothing new pass. */
export interface EndingRule {
  readonly rule: Rule;
  /** From then on it lets nothing pass at all. */
  readonly untilMs: number;
}

export interface Forward {
  readonly protocol: "tcp" | "udp";
  readonly hostIp: string;
  readonly hostPort: number;
  readonly guestPort: number;
}

/** QEMU user networking: an own NAT per port. */
export interface UserBinding {
  readonly engine: "user";
  readonly cidr: string;
  readonly gatewayIp: string;
  readonly dnsIp: string;
  readonly forwards: readonly Forward[];
  readonly restrict: boolean;
}

/** A tap device that the host's net-agent makes and joins to the switch. */
export interface TapBinding {
  readonly engine: "tap";
  readonly device: string;
  readonly mtu: number;
}

export type Binding = UserBinding | TapBinding;

export interface Owner {
  readonly service: string;
  readonly kind: string;
  readonly project: string;
  readonly name: string;
  readonly id: string;
}

export interface Port {
  readonly subnetId: string;
  readonly vpcId: string;
  readonly macAddress: string;
  readonly ipAddress: string;
  /** Absent in a subnet without IPv6. */
  readonly ipv6Address?: string;
  /** Addresses and CIDRs beside its own that it may send from. */
  readonly allowedAddresses?: readonly string[];
  readonly securityGroupIds: readonly string[];
  readonly owner?: Owner;
  /** Empty: unbound. */
  readonly host: string;
  /** A second host that carries it while its guest moves there. */
  readonly arrivingHost?: string;
  readonly binding?: Binding;
}

/** A rule of a network ACL: stateless, at the edge of the subnet. */
export interface AclRule {
  /** 1 to 32765; the lowest number that matches decides. */
  readonly number: number;
  readonly action: "allow" | "deny";
  readonly direction: Direction;
  readonly protocol: Protocol;
  readonly portMin: number;
  readonly portMax: number;
  /** Peer beyond the edge. */
  readonly remoteCidr: string;
}

/** What no rule allows is dropped, in both directions. */
export interface NetworkAcl {
  readonly description: string;
  readonly rules: readonly AclRule[];
}

export interface Route {
  readonly cidr: string;
  readonly nextHop: string;
}

/** The route table of a VPC; its subnets reach each other without one. */
export interface Router {
  readonly vpcId: string;
  readonly routes: readonly Route[];
}

/** Addresses of a network outside, reached by hosts over an uplink of the same name. */
export interface AddressPool {
  readonly cidr: string;
  readonly gatewayIp: string;
  readonly firstIp: string;
  readonly lastIp: string;
  readonly uplink: string;
}

/** The way out of a VPC: its router's address outside. */
export interface NatGateway {
  readonly vpcId: string;
  readonly poolId: string;
  readonly ipAddress: string;
}

export interface FloatingIp {
  readonly poolId: string;
  readonly ipAddress: string;
  /** Empty: reserved, not in use. */
  readonly portId: string;
}

/** Two VPCs whose subnets reach each other. */
export interface Peering {
  readonly vpcId: string;
  readonly peerVpcId: string;
  /** Number of the link between the routers, unique in the cluster. */
  readonly link: number;
}

/** A worker with a net-agent. */
export interface NetHost {
  readonly agentUrl: string;
  /** Networks outside that it reaches. */
  readonly uplinks: readonly string[];
  readonly seenMs: number;
}
