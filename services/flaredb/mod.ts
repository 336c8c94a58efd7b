/** Replicated databases of records: KV buckets and SQL tables on one log each. */
export { configSchema, type FlaredbConfig, type MemberConfig } from "./config.ts";
export { createFlaredb, type Flaredb, type FlaredbDeps, type FlaredbOptions } from "./flaredb.ts";
