/** Virtual machines: images, flavors, placement, life cycle by sagas, consoles, and the workers that run them. */
export { consoleSocket } from "./console_socket.ts";
export type { ImageEngine, ImageUpload } from "./image_engine.ts";
export { openLocalImages } from "./local_images.ts";
export { localVolumes } from "./local_volumes.ts";
export { localQuota, type QuotaEngine, type QuotaLimits } from "./quota.ts";
export { createPlasmavmc, type Plasmavmc, type PlasmavmcDeps, type PlasmavmcOptions } from "./service.ts";
export type { NetworkClients } from "./vm_ports.ts";
export type { OpenVolume, VolumeEngine, VolumeSource } from "./volume_engine.ts";
export type { AgentClient, Workers } from "./workers.ts";
