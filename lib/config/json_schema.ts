import { z } from "zod";

/** The part of JSON Schema that configuration uses. */
export interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly additionalProperties?: boolean | JsonSchema;
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
  readonly allOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly [key: string]: unknown;
}

/** JSON Schema of what a configuration file may hold, for generated reference and editors. */
export function jsonSchemaOf(schema: z.ZodType): JsonSchema {
  return z.toJSONSchema(schema, { io: "input", unrepresentable: "any", reused: "inline" }) as JsonSchema;
}

/** What a path of the configuration may hold. */
export function alternatives(schema: JsonSchema): readonly JsonSchema[] {
  const inner = schema.anyOf ?? schema.oneOf ?? schema.allOf;
  return inner === undefined ? [schema] : inner.flatMap(alternatives);
}

/** Names below this point of the configuration; empty where any name goes. */
export function keysOf(schema: JsonSchema): string[] {
  return [...new Set(alternatives(schema).flatMap((s) => Object.keys(s.properties ?? {})))];
}

/** Schema of the value under `key`; undefined when the key is unknown. */
export function childOf(schema: JsonSchema, key: string): JsonSchema | undefined {
  for (const s of alternatives(schema)) {
    const known = s.properties && Object.hasOwn(s.properties, key) ? s.properties[key] : undefined;
    if (known !== undefined) return known;
    if (typeof s.additionalProperties === "object") return s.additionalProperties;
  }
  return undefined;
}

/** True when the value may be a JSON type of the name. */
export function allows(schema: JsonSchema, type: string): boolean {
  return alternatives(schema).some((s) => {
    const types = s.type === undefined ? [] : typeof s.type === "string" ? [s.type] : s.type;
    if (types.includes(type)) return true;
    if (type === "number" && types.includes("integer")) return true;
    return types.length === 0 && (s.enum ?? (s.const === undefined ? [] : [s.const])).some((v) => typeof v === type);
  });
}

/** Dotted paths of every value that has no named parts, in order. */
export function leafPaths(schema: JsonSchema, prefix: readonly string[] = []): string[][] {
  const keys = keysOf(schema);
  if (keys.length === 0) return prefix.length === 0 ? [] : [[...prefix]];
  return keys.flatMap((key) => leafPaths(childOf(schema, key)!, [...prefix, key]));
}

/** `RPC__LISTEN` for ["rpc", "listen"], `STATE_DIR` for ["stateDir"]. */
export function envSuffix(path: readonly string[]): string {
  return path.map((key) => key.replace(/([a-z0-9])([A-Z])/g, "$1_$2").replaceAll("-", "_").toUpperCase()).join("__");
}
