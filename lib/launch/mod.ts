/** Starts components of the workspace under their pinned permissions: for the quickstart, tests and the test cluster. */
export * from "./cluster_file.ts";
export { type ClusterKeys, makeClusterKeys } from "./cluster_keys.ts";
export * from "./fleet.ts";
export * from "./ports.ts";
export * from "./process_table.ts";
export * from "./readiness.ts";
export * from "./run_dir.ts";
export * from "./spawn.ts";
export * from "./stack.ts";
export { helpersOf, helperSource, placeHelpers } from "./helpers.ts";
