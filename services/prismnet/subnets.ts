import { checkName, fault, invalidField } from "@ultracloud/base";
import {
  claim,
  forget,
  idempotencyOf,
  type Platform,
  poolHolders,
  projectScope,
  release,
  resourceScope,
} from "@ultracloud/platform";
import {
  CreateSubnetRequestSchema,
  DeleteSubnetRequestSchema,
  DeleteSubnetResponseSchema,
  SetSubnetAclRequestSchema,
  SubnetSchema,
  SubnetService,
} from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { checkHostIp, checkNoOverlap, checkSubnetCidr, formatIp, parseIp } from "./domain/ipv4.ts";
import { checkSubnetCidr6, gatewayOf } from "./domain/ipv6.ts";
import { type Engine, requireFeature } from "./engine.ts";
import { aclKind, addressPool, gatewayHolder, peeringKind, subnetKind, vpcKind } from "./kinds.ts";
import { addressesMax, nobody, wakeAll } from "./resting.ts";
import { type SubnetInit, toSubnet, views } from "./wire.ts";

const dnsServersMax = 4;

export function subnetService(platform: Platform, engine: Engine): BoundService {
  const scope = (project: string, subnet: string) => resourceScope("prismnet", "subnet", project, subnet);
  return bind(SubnetService, {
    createSubnet(request, context) {
      const name = checkName(request.name, "name");
      const network = checkSubnetCidr(request.cidr, "cidr");
      const gateway = request.gatewayIp === ""
        ? network.first + 1
        : checkHostIp(network, request.gatewayIp, "gatewayIp");
      if (request.dnsServers.length > dnsServersMax) {
        throw invalidField("dnsServers", `Cannot keep ${request.dnsServers.length}: wanted at most ${dnsServersMax}`);
      }
      for (const [i, server] of request.dnsServers.entries()) {
        if (parseIp(server) === undefined) {
          throw invalidField(`dnsServers.${i}`, `Cannot use ${JSON.stringify(server.slice(0, 40))} as an IPv4 address`);
        }
      }
      const cidrV6 = request.cidrV6 === "" ? undefined : checkSubnetCidr6(request.cidrV6, "cidrV6");
      if (cidrV6 !== undefined) requireFeature(engine, "ipv6", "make a subnet with IPv6");
      return platform.transact(async (tx) => {
        const vpc = await tx.get(vpcKind, request.project, request.vpc);
        // Guard and touch: of two subnets made at once the second sees the first.
        await tx.guard(vpc.id);
        tx.touch(vpc.id);
        const near = new Set([vpc.id]);
        for (const { value } of await platform.list(peeringKind, request.project)) {
          if (value.vpcId === vpc.id) near.add(value.peerVpcId);
          if (value.peerVpcId === vpc.id) near.add(value.vpcId);
        }
        const siblings = (await platform.list(subnetKind, request.project)).filter((s) => near.has(s.value.vpcId));
        checkNoOverlap(network, siblings.map((s) => ({ name: s.name, cidr: s.value.cidr })));
        if (cidrV6 !== undefined && siblings.some((s) => s.value.cidrV6 === cidrV6)) {
          throw fault("failed_precondition", "cidr_overlaps", `Cannot use ${cidrV6} as another subnet has it`, {
            field: "cidrV6",
          });
        }
        const subnet = await tx.create(subnetKind, {
          project: request.project,
          name,
          labels: request.labels,
          value: {
            vpcId: vpc.id,
            cidr: network.cidr,
            gatewayIp: formatIp(gateway),
            dnsServers: [...request.dnsServers],
            ...(cidrV6 === undefined ? {} : { cidrV6, gatewayV6: gatewayOf(cidrV6) }),
          },
        });
        await claim(tx, addressPool(subnet.id, network.cidr), gateway, gatewayHolder);
        return toSubnet(subnet);
      }, {
        idempotency: idempotencyOf(context, CreateSubnetRequestSchema, request, SubnetSchema),
        serialize: `subnets/${request.project}`,
      });
    },
    getSubnet: async (request) => toSubnet(await platform.get(subnetKind, request.project, request.subnet)),
    async listSubnets(request) {
      const vpc = request.vpc === "" ? undefined : await platform.get(vpcKind, request.project, request.vpc);
      const page = await platform.page(subnetKind, {
        project: request.project,
        page: request.page,
        where: (s) => vpc === undefined || s.value.vpcId === vpc.id,
        view: views.subnet,
      });
      return { subnets: page.items.map(toSubnet), page: { nextPageToken: page.nextPageToken } };
    },
    setSubnetAcl(request, context) {
      return platform.transact<SubnetInit>(async (tx) => {
        const subnet = await tx.get(subnetKind, request.project, request.subnet);
        const { networkAclId: _, ...rest } = subnet.value;
        if (request.networkAcl === "") return toSubnet(tx.update(subnetKind, subnet, { value: rest }));
        requireFeature(engine, "network_acl", "guard a subnet by a network ACL");
        const acl = await tx.get(aclKind, request.project, request.networkAcl);
        tx.touch(acl.id);
        return toSubnet(tx.update(subnetKind, subnet, { value: { ...rest, networkAclId: acl.id } }));
      }, { idempotency: idempotencyOf(context, SetSubnetAclRequestSchema, request, SubnetSchema) });
    },
    deleteSubnet(request, context) {
      return platform.transact(async (tx) => {
        const subnet = await tx.get(subnetKind, request.project, request.subnet);
        await tx.guard(subnet.id);
        const pool = addressPool(subnet.id, subnet.value.cidr);
        const user = (await poolHolders(platform.kv, pool, addressesMax))
          .find((holder) => holder !== gatewayHolder && holder !== nobody);
        if (user !== undefined) {
          throw fault(
            "failed_precondition",
            "subnet_in_use",
            `Cannot delete subnet ${subnet.name} as ${user} has an address in it: wanted no ports`,
          );
        }
        await wakeAll(tx, pool);
        await release(tx, pool, parseIp(subnet.value.gatewayIp)!, gatewayHolder);
        forget(tx, pool);
        tx.remove(subnetKind, subnet, { etag: request.etag });
        return {};
      }, { idempotency: idempotencyOf(context, DeleteSubnetRequestSchema, request, DeleteSubnetResponseSchema) });
    },
  }, {
    createSubnet: { resource: "subnet", action: "create", scope: (r) => projectScope(r.project) },
    getSubnet: { resource: "subnet", action: "get", scope: (r) => scope(r.project, r.subnet) },
    listSubnets: { resource: "subnet", action: "list", scope: (r) => projectScope(r.project) },
    setSubnetAcl: { resource: "subnet", action: "update", scope: (r) => scope(r.project, r.subnet) },
    deleteSubnet: { resource: "subnet", action: "delete", scope: (r) => scope(r.project, r.subnet) },
  });
}
