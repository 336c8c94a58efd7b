import { create, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import { invalidField } from "@ultracloud/base";
import { type StoredRecord, toMeta } from "@ultracloud/platform";
import {
  AclAction,
  AddressPoolSchema,
  Direction,
  type EngineFeatureSchema,
  FloatingIpSchema,
  NatGatewaySchema,
  NetworkAclSchema,
  PeeringSchema,
  PortSchema,
  Protocol,
  RouterSchema,
  type SecurityGroupRule,
  SecurityGroupSchema,
  SubnetSchema,
  Support,
  VpcSchema,
} from "@ultracloud/proto/prismnet/v1";
import type * as domain from "./domain/types.ts";
import type { EngineFeature } from "./engine.ts";

/** Between messages and domain types: messages stop here. */

export type VpcInit = MessageInitShape<typeof VpcSchema>;
export type SubnetInit = MessageInitShape<typeof SubnetSchema>;
export type GroupInit = MessageInitShape<typeof SecurityGroupSchema>;
export type PortInit = MessageInitShape<typeof PortSchema>;

export function toVpc(record: StoredRecord<domain.Vpc>): VpcInit {
  return { meta: toMeta(record), description: record.value.description };
}

export function toSubnet(record: StoredRecord<domain.Subnet>): SubnetInit {
  const { dnsServers, ...rest } = record.value;
  return { meta: toMeta(record), ...rest, dnsServers: [...dnsServers] };
}

const directions: Record<domain.Direction, Direction> = { ingress: Direction.INGRESS, egress: Direction.EGRESS };
const protocols: Record<domain.Protocol, Protocol> = {
  any: Protocol.UNSPECIFIED,
  tcp: Protocol.TCP,
  udp: Protocol.UDP,
  icmp: Protocol.ICMP,
};

export function fromDirection(wire: Direction, field: string): domain.Direction {
  const direction = (Object.keys(directions) as domain.Direction[]).find((d) => directions[d] === wire);
  if (direction) return direction;
  throw invalidField(
    field === "" ? "direction" : `${field}.direction`,
    "Cannot use a rule without direction: wanted ingress or egress",
  );
}

export function fromProtocol(wire: Protocol, field: string): domain.Protocol {
  const protocol = (Object.keys(protocols) as domain.Protocol[]).find((p) => protocols[p] === wire);
  if (protocol) return protocol;
  throw invalidField(`${field}.protocol`, `Cannot use protocol ${wire}: wanted TCP, UDP, ICMP or none`);
}

/** The rule as domain type; unknown enum values are invalid_argument under `field`. */
export function fromRule(rule: SecurityGroupRule, id: string, field: string): domain.Rule {
  return {
    id,
    direction: fromDirection(rule.direction, field),
    protocol: fromProtocol(rule.protocol, field),
    portMin: rule.portMin,
    portMax: rule.portMax === 0 ? rule.portMin : rule.portMax,
    remoteCidr: rule.remoteCidr,
    remoteGroupId: rule.remoteGroupId,
  };
}

export function toGroup(record: StoredRecord<domain.SecurityGroup>): GroupInit {
  return {
    meta: toMeta(record),
    description: record.value.description,
    rules: record.value.rules.map((rule) => ({
      ...rule,
      direction: directions[rule.direction],
      protocol: protocols[rule.protocol],
    })),
  };
}

export function toPort(record: StoredRecord<domain.Port>): PortInit {
  const { securityGroupIds, allowedAddresses, owner, binding, ...rest } = record.value;
  return {
    meta: toMeta(record),
    ...rest,
    allowedAddresses: [...allowedAddresses ?? []],
    securityGroupIds: [...securityGroupIds],
    ...(owner ? { owner } : {}),
    ...(binding ? { binding: { engine: toBinding(binding) } } : {}),
  };
}

function toBinding(binding: domain.Binding) {
  if (binding.engine === "user") return { case: "user" as const, value: toUserBinding(binding) };
  return { case: "tap" as const, value: { device: binding.device, mtu: binding.mtu } };
}

function toUserBinding(binding: domain.UserBinding) {
  const { engine: _, forwards, ...rest } = binding;
  return { ...rest, forwards: forwards.map((f) => ({ ...f, protocol: protocols[f.protocol] })) };
}

const supports: Record<EngineFeature["support"], Support> = {
  enforced: Support.ENFORCED,
  partial: Support.PARTIAL,
  not_enforced: Support.NOT_ENFORCED,
};

export function toFeature(feature: EngineFeature): MessageInitShape<typeof EngineFeatureSchema> {
  return { ...feature, support: supports[feature.support] };
}

export type AclInit = MessageInitShape<typeof NetworkAclSchema>;
export type RouterInit = MessageInitShape<typeof RouterSchema>;
export type PoolInit = MessageInitShape<typeof AddressPoolSchema>;
export type GatewayInit = MessageInitShape<typeof NatGatewaySchema>;
export type FloatingIpInit = MessageInitShape<typeof FloatingIpSchema>;
export type PeeringInit = MessageInitShape<typeof PeeringSchema>;

export function toAcl(record: StoredRecord<domain.NetworkAcl>): AclInit {
  return {
    meta: toMeta(record),
    description: record.value.description,
    rules: record.value.rules.map((rule) => ({
      ...rule,
      action: rule.action === "allow" ? AclAction.ALLOW : AclAction.DENY,
      direction: directions[rule.direction],
      protocol: protocols[rule.protocol],
    })),
  };
}

export function toRouter(record: StoredRecord<domain.Router>): RouterInit {
  return { meta: toMeta(record), vpcId: record.value.vpcId, routes: [...record.value.routes] };
}

export function toPool(record: StoredRecord<domain.AddressPool>): PoolInit {
  return { meta: toMeta(record), ...record.value };
}

export function toGateway(record: StoredRecord<domain.NatGateway>): GatewayInit {
  const { vpcId, poolId, ipAddress } = record.value;
  return { meta: toMeta(record), vpcId, addressPoolId: poolId, ipAddress };
}

export function toFloatingIp(record: StoredRecord<domain.FloatingIp>): FloatingIpInit {
  const { poolId, ipAddress, portId } = record.value;
  return { meta: toMeta(record), addressPoolId: poolId, ipAddress, portId };
}

export function toPeering(record: StoredRecord<domain.Peering>): PeeringInit {
  const { vpcId, peerVpcId } = record.value;
  return { meta: toMeta(record), vpcId, peerVpcId };
}

/** Public JSON per kind, for events and field filters. */
export const views = {
  vpc: (r: StoredRecord) => toJson(VpcSchema, create(VpcSchema, toVpc(r as StoredRecord<domain.Vpc>))),
  subnet: (r: StoredRecord) => toJson(SubnetSchema, create(SubnetSchema, toSubnet(r as StoredRecord<domain.Subnet>))),
  security_group: (r: StoredRecord) =>
    toJson(SecurityGroupSchema, create(SecurityGroupSchema, toGroup(r as StoredRecord<domain.SecurityGroup>))),
  port: (r: StoredRecord) => toJson(PortSchema, create(PortSchema, toPort(r as StoredRecord<domain.Port>))),
  network_acl: (r: StoredRecord) =>
    toJson(NetworkAclSchema, create(NetworkAclSchema, toAcl(r as StoredRecord<domain.NetworkAcl>))),
  router: (r: StoredRecord) => toJson(RouterSchema, create(RouterSchema, toRouter(r as StoredRecord<domain.Router>))),
  address_pool: (r: StoredRecord) =>
    toJson(AddressPoolSchema, create(AddressPoolSchema, toPool(r as StoredRecord<domain.AddressPool>))),
  nat_gateway: (r: StoredRecord) =>
    toJson(NatGatewaySchema, create(NatGatewaySchema, toGateway(r as StoredRecord<domain.NatGateway>))),
  floating_ip: (r: StoredRecord) =>
    toJson(FloatingIpSchema, create(FloatingIpSchema, toFloatingIp(r as StoredRecord<domain.FloatingIp>))),
  peering: (r: StoredRecord) =>
    toJson(PeeringSchema, create(PeeringSchema, toPeering(r as StoredRecord<domain.Peering>))),
};
