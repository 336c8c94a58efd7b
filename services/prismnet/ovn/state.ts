import type { StoredRecord } from "@ultracloud/platform";
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
} from "../domain/types.ts";

/** Everything that the northbound database is made of. */
export interface NetworkState {
  readonly vpcs: readonly StoredRecord<Vpc>[];
  readonly subnets: readonly StoredRecord<Subnet>[];
  readonly groups: readonly StoredRecord<SecurityGroup>[];
  readonly ports: readonly StoredRecord<Port>[];
  readonly acls: readonly StoredRecord<NetworkAcl>[];
  readonly routers: readonly StoredRecord<Router>[];
  readonly pools: readonly StoredRecord<AddressPool>[];
  readonly gateways: readonly StoredRecord<NatGateway>[];
  readonly floatingIps: readonly StoredRecord<FloatingIp>[];
  readonly peerings: readonly StoredRecord<Peering>[];
  readonly hosts: readonly StoredRecord<NetHost>[];
}
