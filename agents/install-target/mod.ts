/** What an installed system says and keeps at each of its boots. */
export { configSchema, type InstallTargetConfig } from "./config.ts";
export { confirmBoot } from "./target.ts";
