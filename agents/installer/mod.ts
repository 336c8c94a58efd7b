/** Turns a machine that is nobody into an installed node. */
export { configSchema, type InstallerConfig } from "./config.ts";
export { install, type InstallDeps } from "./install.ts";
