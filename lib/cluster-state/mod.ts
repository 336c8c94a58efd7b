/** The cluster state: what `ultracloud.cluster` generates, and what follows from it for a node, a class and a service. */
export { nameSchema as nodeNameSchema } from "./_names.ts";
export * from "./bootstrap.ts";
export * from "./diff.ts";
export * from "./disk_check.ts";
export * from "./drain.ts";
export * from "./facts.ts";
export * from "./install_plan.ts";
export * from "./markers.ts";
export * from "./parse.ts";
export * from "./resolve.ts";
export * from "./rollout.ts";
export * from "./schema.ts";
export * from "./service.ts";
export * from "./store_path.ts";
export * from "./system.ts";
