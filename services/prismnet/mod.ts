/** Tenant networking: VPCs, subnets, security groups, ports and their bindings to hosts. */
export type { Engine, EngineFeature } from "./engine.ts";
export { createPrismnet, type Prismnet } from "./service.ts";
export { ovnEngine } from "./ovn/engine.ts";
export { openNorthbound } from "./ovn/database.ts";
export { userEngine, type UserEngineOptions } from "./user_engine.ts";
