import { buildRouteMap } from "@stricli/core";
import { nodes } from "./fleet_nodes.ts";
import { apply, instances, logs, services, steer, why } from "./fleet_services.ts";

export const fleet = buildRouteMap({
  docs: {
    brief: "Services of the hosts and the nodes that run them",
    fullDescription: "What runs on the hosts themselves, outside any tenant: services are declared, fleet-scheduler " +
      "places their instances, node-agents run them.",
  },
  routes: { apply, services, instances, why, logs, update: steer, nodes },
});
