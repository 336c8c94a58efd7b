import { projectScope } from "@ultracloud/platform";
import { FlavorService } from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { flavorOf, flavors } from "./domain/flavors.ts";
import { toFlavor } from "./wire.ts";

export function flavorService(): BoundService {
  return bind(FlavorService, {
    getFlavor: (request) => toFlavor(flavorOf(request.name)),
    listFlavors: () => ({ flavors: flavors.map(toFlavor) }),
  }, {
    getFlavor: { resource: "flavor", action: "get", scope: (r) => projectScope(r.project) },
    listFlavors: { resource: "flavor", action: "list", scope: (r) => projectScope(r.project) },
  });
}
