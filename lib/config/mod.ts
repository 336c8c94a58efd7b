/** One frozen configuration from file, environment and flags. */
export * from "./base_shape.ts";
export * from "./json_schema.ts";
export * from "./load.ts";
export * from "./secret.ts";
