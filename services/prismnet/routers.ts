import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, type Platform, projectScope, resourceScope } from "@ultracloud/platform";
import {
  AddRouteRequestSchema,
  CreateRouterRequestSchema,
  DeleteRouterRequestSchema,
  DeleteRouterResponseSchema,
  RemoveRouteRequestSchema,
  RouterSchema,
  RouterService,
} from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { contains, parseIp, parseNetwork } from "./domain/ipv4.ts";
import { type Engine, requireFeature } from "./engine.ts";
import { routerKind, subnetKind, vpcKind } from "./kinds.ts";
import { type RouterInit, toRouter, views } from "./wire.ts";

/** Beyond this a route table is somebody's routing protocol. */
export const routesMax = 64;

export function routerService(platform: Platform, engine: Engine): BoundService {
  const scope = (project: string, router: string) => resourceScope("prismnet", "router", project, router);
  return bind(RouterService, {
    createRouter(request, context) {
      const name = checkName(request.name, "name");
      requireFeature(engine, "routing", "make a router");
      return platform.transact<RouterInit>(async (tx) => {
        const vpc = await tx.get(vpcKind, request.project, request.vpc);
        await tx.guard(vpc.id);
        tx.touch(vpc.id);
        const present = (await platform.list(routerKind, request.project)).find((r) => r.value.vpcId === vpc.id);
        if (present) {
          throw fault(
            "failed_precondition",
            "vpc_has_router",
            `Cannot make a router for VPC ${vpc.name} as ${present.name} is one: wanted at most one`,
          );
        }
        const value = { vpcId: vpc.id, routes: [] };
        return toRouter(
          await tx.create(routerKind, { project: request.project, name, labels: request.labels, value }),
        );
      }, { idempotency: idempotencyOf(context, CreateRouterRequestSchema, request, RouterSchema) });
    },
    getRouter: async (request) => toRouter(await platform.get(routerKind, request.project, request.router)),
    async listRouters({ project, page: wanted }) {
      const page = await platform.page(routerKind, { project, page: wanted, view: views.router });
      return { routers: page.items.map(toRouter), page: { nextPageToken: page.nextPageToken } };
    },
    addRoute(request, context) {
      const { cidr = "", nextHop = "" } = request.route ?? {};
      const hop = parseIp(nextHop);
      if (!parseNetwork(cidr)) {
        throw invalidField("route.cidr", `Cannot use ${JSON.stringify(cidr.slice(0, 40))}: wanted an IPv4 CIDR`);
      }
      return platform.transact<RouterInit>(async (tx) => {
        const router = await tx.get(routerKind, request.project, request.router);
        const subnets = (await tx.list(subnetKind, request.project)).filter((s) =>
          s.value.vpcId === router.value.vpcId
        );
        if (hop === undefined || !subnets.some((s) => contains(parseNetwork(s.value.cidr)!, hop))) {
          throw invalidField(
            "route.nextHop",
            `Cannot use ${JSON.stringify(nextHop.slice(0, 40))} as next hop: wanted an address in a subnet of the VPC`,
          );
        }
        if (router.value.routes.some((route) => route.cidr === cidr)) {
          throw fault("already_exists", "route_exists", `Cannot add a route to ${cidr} as there is one`, {
            field: "route.cidr",
          });
        }
        if (router.value.routes.length >= routesMax) {
          throw fault("resource_exhausted", "routes_exceeded", `Cannot keep more than ${routesMax} routes in a router`);
        }
        const routes = [...router.value.routes, { cidr, nextHop }];
        return toRouter(tx.update(routerKind, router, { value: { ...router.value, routes } }));
      }, { idempotency: idempotencyOf(context, AddRouteRequestSchema, request, RouterSchema) });
    },
    removeRoute(request, context) {
      return platform.transact<RouterInit>(async (tx) => {
        const router = await tx.get(routerKind, request.project, request.router);
        const routes = router.value.routes.filter((route) => route.cidr !== request.cidr);
        if (routes.length === router.value.routes.length) {
          const shown = JSON.stringify(request.cidr.slice(0, 40));
          throw fault("not_found", "route_not_found", `Cannot find a route to ${shown} in router ${router.name}`);
        }
        return toRouter(tx.update(routerKind, router, { value: { ...router.value, routes } }));
      }, { idempotency: idempotencyOf(context, RemoveRouteRequestSchema, request, RouterSchema) });
    },
    deleteRouter(request, context) {
      return platform.transact(async (tx) => {
        tx.remove(routerKind, await tx.get(routerKind, request.project, request.router), { etag: request.etag });
        return {};
      }, { idempotency: idempotencyOf(context, DeleteRouterRequestSchema, request, DeleteRouterResponseSchema) });
    },
  }, {
    createRouter: { resource: "router", action: "create", scope: (r) => projectScope(r.project) },
    getRouter: { resource: "router", action: "get", scope: (r) => scope(r.project, r.router) },
    listRouters: { resource: "router", action: "list", scope: (r) => projectScope(r.project) },
    addRoute: { resource: "router", action: "update", scope: (r) => scope(r.project, r.router) },
    removeRoute: { resource: "router", action: "update", scope: (r) => scope(r.project, r.router) },
    deleteRouter: { resource: "router", action: "delete", scope: (r) => scope(r.project, r.router) },
  });
}
