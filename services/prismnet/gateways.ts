import { checkName, fault } from "@ultracloud/base";
import { idempotencyOf, type Platform, projectScope, resourceScope } from "@ultracloud/platform";
import {
  CreateNatGatewayRequestSchema,
  DeleteNatGatewayRequestSchema,
  DeleteNatGatewayResponseSchema,
  NatGatewaySchema,
  NatGatewayService,
} from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { parseIp } from "./domain/ipv4.ts";
import { type Engine, requireFeature } from "./engine.ts";
import { takeOutside } from "./floating_ips.ts";
import { floatingIpKind, gatewayKind, poolKind, portKind, vpcKind } from "./kinds.ts";
import { outsidePool } from "./pools.ts";
import { rest } from "./resting.ts";
import { type GatewayInit, toGateway, views } from "./wire.ts";

export function gatewayService(platform: Platform, engine: Engine, graceMs: number): BoundService {
  const scope = (project: string, gateway: string) =>
    resourceScope("prismnet", "nat_gateway", project, gateway, "natGateway");
  return bind(NatGatewayService, {
    createNatGateway(request, context) {
      const name = checkName(request.name, "name");
      requireFeature(engine, "floating_ip", "make a NAT gateway");
      return platform.transact<GatewayInit>(async (tx) => {
        const vpc = await tx.get(vpcKind, request.project, request.vpc);
        const pool = await tx.get(poolKind, "", request.addressPool);
        await tx.guard(vpc.id);
        tx.touch(vpc.id);
        tx.touch(pool.id);
        const present = (await platform.list(gatewayKind, request.project)).find((g) => g.value.vpcId === vpc.id);
        if (present) {
          throw fault(
            "failed_precondition",
            "vpc_has_gateway",
            `Cannot make a NAT gateway for VPC ${vpc.name} as ${present.name} is one: wanted at most one`,
          );
        }
        const id = tx.newId("nat");
        const value = { vpcId: vpc.id, poolId: pool.id, ipAddress: await takeOutside(tx, pool, "", id) };
        const { project, labels } = request;
        return toGateway(await tx.create(gatewayKind, { id, project, name, labels, value }));
      }, {
        idempotency: idempotencyOf(context, CreateNatGatewayRequestSchema, request, NatGatewaySchema),
        serialize: "outside",
      });
    },
    getNatGateway: async (request) => toGateway(await platform.get(gatewayKind, request.project, request.natGateway)),
    async listNatGateways({ project, page: wanted }) {
      const page = await platform.page(gatewayKind, { project, page: wanted, view: views.nat_gateway });
      return { natGateways: page.items.map(toGateway), page: { nextPageToken: page.nextPageToken } };
    },
    deleteNatGateway(request, context) {
      return platform.transact(async (tx) => {
        const gateway = await tx.get(gatewayKind, request.project, request.natGateway);
        await tx.guard(gateway.id);
        for (const ip of await platform.list(floatingIpKind, request.project)) {
          if (ip.value.portId === "" || ip.value.poolId !== gateway.value.poolId) continue;
          const port = await tx.findById(portKind, ip.value.portId);
          if (port?.value.vpcId !== gateway.value.vpcId) continue;
          throw fault(
            "failed_precondition",
            "nat_gateway_in_use",
            `Cannot delete NAT gateway ${gateway.name} as floating IP ${ip.name} comes in through it: wanted none`,
          );
        }
        const pool = await tx.getById(poolKind, gateway.value.poolId);
        await rest(tx, outsidePool(pool), parseIp(gateway.value.ipAddress)!, gateway.id, graceMs);
        tx.remove(gatewayKind, gateway, { etag: request.etag });
        return {};
      }, {
        idempotency: idempotencyOf(context, DeleteNatGatewayRequestSchema, request, DeleteNatGatewayResponseSchema),
      });
    },
  }, {
    createNatGateway: { resource: "nat_gateway", action: "create", scope: (r) => projectScope(r.project) },
    getNatGateway: { resource: "nat_gateway", action: "get", scope: (r) => scope(r.project, r.natGateway) },
    listNatGateways: { resource: "nat_gateway", action: "list", scope: (r) => projectScope(r.project) },
    deleteNatGateway: { resource: "nat_gateway", action: "delete", scope: (r) => scope(r.project, r.natGateway) },
  });
}
