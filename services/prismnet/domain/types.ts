/** What prismnet keeps. Identity, name and labels stand in the record around each. */

export interface Vpc {
  readonly description: string;
}

export interface Subnet {
  readonly vpcId: string;
  readonly cidr: string;
  readonly gatewayIp: string;
  readonly dnsServers: readonly string[];
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

export type Binding = UserBinding;

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
  readonly securityGroupIds: readonly string[];
  readonly owner?: Owner;
  /** Empty: unbound. */
  readonly host: string;
  readonly binding?: Binding;
}
