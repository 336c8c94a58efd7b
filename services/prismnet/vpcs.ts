import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, maskedFields, type Platform, projectScope, resourceScope } from "@ultracloud/platform";
import {
  CreateVpcRequestSchema,
  DeleteVpcRequestSchema,
  DeleteVpcResponseSchema,
  UpdateVpcRequestSchema,
  VpcSchema,
  VpcService,
} from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { gatewayKind, peeringKind, routerKind, subnetKind, vpcKind } from "./kinds.ts";
import { toVpc, views } from "./wire.ts";

export const descriptionCharsMax = 512;

export function checkDescription(text: string, field: string): string {
  if (text.length <= descriptionCharsMax) return text;
  throw invalidField(field, `Cannot keep ${text.length} characters: wanted at most ${descriptionCharsMax}`);
}

export function vpcService(platform: Platform): BoundService {
  const scope = (project: string, vpc: string) => resourceScope("prismnet", "vpc", project, vpc);
  return bind(VpcService, {
    createVpc(request, context) {
      const name = checkName(request.name, "name");
      const description = checkDescription(request.description, "description");
      return platform.transact(
        async (tx) =>
          toVpc(
            await tx.create(vpcKind, {
              project: request.project,
              name,
              labels: request.labels,
              value: { description },
            }),
          ),
        { idempotency: idempotencyOf(context, CreateVpcRequestSchema, request, VpcSchema) },
      );
    },
    getVpc: async (request) => toVpc(await platform.get(vpcKind, request.project, request.vpc)),
    async listVpcs(request) {
      const page = await platform.page(vpcKind, { project: request.project, page: request.page, view: views.vpc });
      return { vpcs: page.items.map(toVpc), page: { nextPageToken: page.nextPageToken } };
    },
    updateVpc(request, context) {
      const fields = maskedFields(request.updateMask, ["description", "labels"]);
      const description = checkDescription(request.value?.description ?? "", "value.description");
      return platform.transact(async (tx) => {
        const vpc = await tx.get(vpcKind, request.project, request.vpc);
        return toVpc(tx.update(vpcKind, vpc, {
          etag: request.etag,
          ...(fields.has("description") ? { value: { ...vpc.value, description } } : {}),
          ...(fields.has("labels") ? { labels: request.value?.meta?.labels ?? {} } : {}),
        }));
      }, { idempotency: idempotencyOf(context, UpdateVpcRequestSchema, request, VpcSchema) });
    },
    deleteVpc(request, context) {
      return platform.transact(async (tx) => {
        const vpc = await tx.get(vpcKind, request.project, request.vpc);
        await tx.guard(vpc.id);
        const subnet = (await platform.list(subnetKind, request.project)).find((s) => s.value.vpcId === vpc.id);
        if (subnet) {
          throw fault(
            "failed_precondition",
            "vpc_in_use",
            `Cannot delete VPC ${vpc.name} as subnet ${subnet.name} is in it: wanted none`,
          );
        }
        const uses = [
          ...(await platform.list(routerKind, request.project)).filter((r) => r.value.vpcId === vpc.id),
          ...(await platform.list(gatewayKind, request.project)).filter((g) => g.value.vpcId === vpc.id),
          ...(await platform.list(peeringKind, request.project))
            .filter(({ value }) => value.vpcId === vpc.id || value.peerVpcId === vpc.id),
        ];
        const [use] = uses;
        if (use) {
          throw fault(
            "failed_precondition",
            "vpc_in_use",
            `Cannot delete VPC ${vpc.name} as ${use.kind.replaceAll("_", " ")} ${use.name} is part of it: wanted none`,
          );
        }
        tx.remove(vpcKind, vpc, { etag: request.etag });
        return {};
      }, { idempotency: idempotencyOf(context, DeleteVpcRequestSchema, request, DeleteVpcResponseSchema) });
    },
  }, {
    createVpc: { resource: "vpc", action: "create", scope: (r) => projectScope(r.project) },
    getVpc: { resource: "vpc", action: "get", scope: (r) => scope(r.project, r.vpc) },
    listVpcs: { resource: "vpc", action: "list", scope: (r) => projectScope(r.project) },
    updateVpc: { resource: "vpc", action: "update", scope: (r) => scope(r.project, r.vpc) },
    deleteVpc: { resource: "vpc", action: "delete", scope: (r) => scope(r.project, r.vpc) },
  });
}
