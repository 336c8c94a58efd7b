import { create, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import { invalidField } from "@ultracloud/base";
import { type StoredRecord, toMeta } from "@ultracloud/platform";
import {
  Direction,
  type EngineFeatureSchema,
  PortSchema,
  Protocol,
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
  const { vpcId, cidr, gatewayIp, dnsServers } = record.value;
  return { meta: toMeta(record), vpcId, cidr, gatewayIp, dnsServers: [...dnsServers] };
}

const directions: Record<domain.Direction, Direction> = { ingress: Direction.INGRESS, egress: Direction.EGRESS };
const protocols: Record<domain.Protocol, Protocol> = {
  any: Protocol.UNSPECIFIED,
  tcp: Protocol.TCP,
  udp: Protocol.UDP,
  icmp: Protocol.ICMP,
};

/** The rule as domain type; unknown enum values are invalid_argument under `field`. */
export function fromRule(rule: SecurityGroupRule, id: string, field: string): domain.Rule {
  const direction = (Object.keys(directions) as domain.Direction[]).find((d) => directions[d] === rule.direction);
  const protocol = (Object.keys(protocols) as domain.Protocol[]).find((p) => protocols[p] === rule.protocol);
  if (!direction) {
    throw invalidField(`${field}.direction`, "Cannot use a rule without direction: wanted ingress or egress");
  }
  if (!protocol) {
    throw invalidField(`${field}.protocol`, `Cannot use protocol ${rule.protocol}: wanted TCP, UDP, ICMP or none`);
  }
  return {
    id,
    direction,
    protocol,
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
  const { securityGroupIds, owner, binding, ...rest } = record.value;
  return {
    meta: toMeta(record),
    ...rest,
    securityGroupIds: [...securityGroupIds],
    ...(owner ? { owner } : {}),
    ...(binding ? { binding: { engine: { case: "user" as const, value: toUserBinding(binding) } } } : {}),
  };
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

/** Public JSON per kind, for events and field filters. */
export const views = {
  vpc: (r: StoredRecord) => toJson(VpcSchema, create(VpcSchema, toVpc(r as StoredRecord<domain.Vpc>))),
  subnet: (r: StoredRecord) => toJson(SubnetSchema, create(SubnetSchema, toSubnet(r as StoredRecord<domain.Subnet>))),
  security_group: (r: StoredRecord) =>
    toJson(SecurityGroupSchema, create(SecurityGroupSchema, toGroup(r as StoredRecord<domain.SecurityGroup>))),
  port: (r: StoredRecord) => toJson(PortSchema, create(PortSchema, toPort(r as StoredRecord<domain.Port>))),
};
