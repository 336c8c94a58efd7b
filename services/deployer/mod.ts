/** Enrols machines and decides what each node becomes. */
export { bindAgents } from "./auth.ts";
export { BootstrapApi, listenBootstrap } from "./bootstrap_http.ts";
export { bundleBytesMax, openBundleSigner } from "./bundles.ts";
export { labModeWarning } from "./cluster_service.ts";
export type { DeployerOptions } from "./core.ts";
export { createDeployer, type Deployer } from "./service.ts";
