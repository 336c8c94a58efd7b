/** Services that run on the hosts: placement, rolling changes, drains and failover of their instances. */
export { configSchema, type FleetSchedulerConfig } from "./config.ts";
export type { AgentClient } from "./scheduler.ts";
export {
  createFleetScheduler,
  type FleetScheduler,
  type FleetSchedulerDeps,
  type FleetSchedulerOptions,
} from "./service.ts";
