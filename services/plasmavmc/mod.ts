/** Virtual machines: images, flavors, placement, life cycle by sagas, consoles, and the workers that run them. */
export type { AgentClient, NetworkClients } from "./control.ts";
export type { ImageEngine, ImageUpload } from "./image_engine.ts";
export { openLocalImages } from "./local_images.ts";
export { chainfireLeases, type NodeLeases } from "./node_leases.ts";
export { localQuota, type QuotaEngine, type QuotaLimits } from "./quota.ts";
export { createPlasmavmc, type Plasmavmc, type PlasmavmcDeps, type PlasmavmcOptions } from "./service.ts";
