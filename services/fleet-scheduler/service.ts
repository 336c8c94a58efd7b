import type { Client } from "@connectrpc/connect";
import type { KvService } from "@ultracloud/proto/chainfire/v1";
import type { BoundService } from "@ultracloud/rpc";
import { DrainDesk } from "./drain_desk.ts";
import { drainSaga } from "./drain_saga.ts";
import { AssignmentFeed } from "./feed.ts";
import { fleetService } from "./fleet_service.ts";
import { nodeService } from "./node_service.ts";
import { FleetMetrics, reconcile, type SchedulerDeps } from "./scheduler.ts";

export interface FleetSchedulerOptions {
  /** How often the fleet is looked at. */
  readonly tickMs: number;
}

export interface FleetSchedulerDeps extends SchedulerDeps {
  /** chainfire, where nix-agents ask for drains. */
  readonly kv: Pick<Client<typeof KvService>, "range" | "put" | "deleteRange">;
}

export interface FleetScheduler {
  /** Everything fleet-scheduler answers. */
  readonly services: readonly BoundService[];
  /** Decides until the signal aborts; run it where this replica leads. */
  reconcile(signal: AbortSignal): Promise<void>;
}

/** The scheduler of services that run on the hosts. Nothing starts by itself. */
export function createFleetScheduler(o: FleetSchedulerOptions, deps: FleetSchedulerDeps): FleetScheduler {
  const feed = new AssignmentFeed(deps.platform);
  const drains = drainSaga(deps.platform);
  const desk = new DrainDesk(deps);
  const metrics = new FleetMetrics(deps.registry);
  return {
    services: [fleetService(deps, feed), nodeService(deps, feed, drains), deps.platform.operationService()],
    reconcile: (signal) => reconcile(deps, { feed, desk, metrics }, o, signal),
  };
}
