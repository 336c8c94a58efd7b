/** The replicated coordination store: keys with revisions, watches, leases. */
export { type Chainfire, type ChainfireDeps, type ChainfireOptions, createChainfire } from "./chainfire.ts";
export { type ChainfireConfig, configSchema, type MemberConfig } from "./config.ts";
