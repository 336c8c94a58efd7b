import {
  AddressPoolService,
  FloatingIpService,
  NatGatewayService,
  NetworkAclService,
  PeeringService,
  PortService,
  RouterService,
  SecurityGroupService,
  SubnetService,
  VpcService,
} from "@ultracloud/proto/prismnet/v1";
import type { Run } from "../frame/command.ts";

type Session = Run["session"];
type Meta = { readonly meta?: { readonly name: string } | undefined };

/** One page: nobody reads more proposals. */
const page = { pageSize: 1000 };
const names = (items: readonly Meta[]) => items.map(({ meta }) => meta?.name ?? "");

/** Names that the shell proposes where a network resource is meant. */
export const networkNames = {
  network: async (s: Session) =>
    names((await s.client(VpcService, "prismnet").listVpcs({ project: s.project, page })).vpcs),
  subnet: async (s: Session) =>
    names((await s.client(SubnetService, "prismnet").listSubnets({ project: s.project, page })).subnets),
  port: async (s: Session) =>
    names((await s.client(PortService, "prismnet").listPorts({ project: s.project, page })).ports),
  group: async (s: Session) => {
    const client = s.client(SecurityGroupService, "prismnet");
    return names((await client.listSecurityGroups({ project: s.project, page })).securityGroups);
  },
  acl: async (s: Session) =>
    names((await s.client(NetworkAclService, "prismnet").listNetworkAcls({ project: s.project, page })).networkAcls),
  router: async (s: Session) =>
    names((await s.client(RouterService, "prismnet").listRouters({ project: s.project, page })).routers),
  gateway: async (s: Session) =>
    names((await s.client(NatGatewayService, "prismnet").listNatGateways({ project: s.project, page })).natGateways),
  ip: async (s: Session) =>
    names((await s.client(FloatingIpService, "prismnet").listFloatingIps({ project: s.project, page })).floatingIps),
  pool: async (s: Session) =>
    names((await s.client(AddressPoolService, "prismnet").listAddressPools({ page })).addressPools),
  peering: async (s: Session) =>
    names((await s.client(PeeringService, "prismnet").listPeerings({ project: s.project, page })).peerings),
} as const;
