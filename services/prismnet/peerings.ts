import { checkName, fault, invalidField } from "@ultracloud/base";
import { allocate, idempotencyOf, type Platform, projectScope, release, resourceScope } from "@ultracloud/platform";
import {
  CreatePeeringRequestSchema,
  DeletePeeringRequestSchema,
  DeletePeeringResponseSchema,
  PeeringSchema,
  PeeringService,
} from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { checkNoOverlap, parseNetwork } from "./domain/ipv4.ts";
import { type Engine, requireFeature } from "./engine.ts";
import { peeringKind, subnetKind, vpcKind } from "./kinds.ts";
import { linksMax } from "./ovn/routing.ts";
import { type PeeringInit, toPeering, views } from "./wire.ts";

/** Numbers of links between routers, each once in the cluster. */
const links = { name: "peering-links", first: 0, last: linksMax - 1 };

export function peeringService(platform: Platform, engine: Engine): BoundService {
  const scope = (project: string, peering: string) => resourceScope("prismnet", "peering", project, peering);
  return bind(PeeringService, {
    createPeering(request, context) {
      const name = checkName(request.name, "name");
      requireFeature(engine, "routing", "peer VPCs");
      return platform.transact<PeeringInit>(async (tx) => {
        const [vpc, peer] = [
          await tx.get(vpcKind, request.project, request.vpc),
          await tx.get(vpcKind, request.project, request.peerVpc),
        ];
        if (vpc.id === peer.id) {
          throw invalidField("peerVpc", `Cannot peer VPC ${vpc.name} with itself: wanted another`);
        }
        for (const { id } of [vpc, peer]) {
          await tx.guard(id);
          tx.touch(id);
        }
        const ends = (a: string, b: string) => [a, b].sort().join();
        const present = (await platform.list(peeringKind, request.project))
          .find(({ value }) => ends(value.vpcId, value.peerVpcId) === ends(vpc.id, peer.id));
        if (present) {
          throw fault("already_exists", "peering_exists", `Cannot peer the VPCs again as ${present.name} does`);
        }
        const subnets = await platform.list(subnetKind, request.project);
        const theirs = subnets.filter((s) => s.value.vpcId === peer.id).map((s) => ({
          name: s.name,
          cidr: s.value.cidr,
        }));
        for (const own of subnets.filter((s) => s.value.vpcId === vpc.id)) {
          checkNoOverlap(parseNetwork(own.value.cidr)!, theirs);
        }
        const id = tx.newId("peer");
        const value = { vpcId: vpc.id, peerVpcId: peer.id, link: await allocate(tx, links, id) };
        const { project, labels } = request;
        return toPeering(await tx.create(peeringKind, { id, project, name, labels, value }));
      }, {
        idempotency: idempotencyOf(context, CreatePeeringRequestSchema, request, PeeringSchema),
        serialize: "peerings",
      });
    },
    getPeering: async (request) => toPeering(await platform.get(peeringKind, request.project, request.peering)),
    async listPeerings({ project, page: wanted }) {
      const page = await platform.page(peeringKind, { project, page: wanted, view: views.peering });
      return { peerings: page.items.map(toPeering), page: { nextPageToken: page.nextPageToken } };
    },
    deletePeering(request, context) {
      return platform.transact(async (tx) => {
        const peering = await tx.get(peeringKind, request.project, request.peering);
        await release(tx, links, peering.value.link, peering.id);
        tx.remove(peeringKind, peering, { etag: request.etag });
        return {};
      }, { idempotency: idempotencyOf(context, DeletePeeringRequestSchema, request, DeletePeeringResponseSchema) });
    },
  }, {
    createPeering: { resource: "peering", action: "create", scope: (r) => projectScope(r.project) },
    getPeering: { resource: "peering", action: "get", scope: (r) => scope(r.project, r.peering) },
    listPeerings: { resource: "peering", action: "list", scope: (r) => projectScope(r.project) },
    deletePeering: { resource: "peering", action: "delete", scope: (r) => scope(r.project, r.peering) },
  });
}
