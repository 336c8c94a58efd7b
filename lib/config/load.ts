import { envPrefix, fault } from "@ultracloud/base";
import { parse as parseToml } from "smol-toml";
import { z } from "zod";
import { allows, childOf, envSuffix, type JsonSchema, jsonSchemaOf, keysOf, leafPaths } from "./json_schema.ts";

export interface LoadOptions {
  /** Component name, as in its manifest; gives the prefix of its variables. */
  readonly component: string;
  /** TOML file; none means environment and flags only. */
  readonly file?: string | undefined;
  readonly env: Readonly<Record<string, string>>;
  /** Command line: `--a.b=value`, `--a.b value`, or `--a.b` for a boolean. */
  readonly args: readonly string[];
}

export interface LoadedConfig<T> {
  /** Frozen, all the way down. */
  readonly value: T;
  /** By dotted path: the file, variable or flag that set it; "default" otherwise. */
  readonly sources: Readonly<Record<string, string>>;
}

type Tree = Record<string, unknown>;

/**
 * The configuration of a component: TOML file, overridden by `UC_<NAME>_A__B` variables (a double underscore nests),
 * overridden by flags.
 *
 * @throws {Fault} `config_unreadable`, `config_unknown_key` (with the nearest known key), `config_invalid`.
 */
export function loadConfig<T>(schema: z.ZodType<T>, options: LoadOptions): LoadedConfig<T> {
  const json = jsonSchemaOf(schema);
  const tree: Tree = {};
  const sources: Record<string, string> = {};
  if (options.file !== undefined) merge(tree, readFile(options.file), json, [], options.file, sources);
  const prefix = envPrefix(options.component);
  for (const name of Object.keys(options.env).filter((n) => n.startsWith(prefix)).sort()) {
    set(tree, envPath(json, name, prefix), options.env[name]!, json, name, sources);
  }
  for (const [flag, path, text] of flags(options.args, json)) set(tree, path, text, json, flag, sources);

  const result = schema.safeParse(tree);
  if (!result.success) {
    const field = result.error.issues[0]?.path.join(".") ?? "";
    const from = sources[field] ?? options.file;
    throw fault(
      "invalid_argument",
      "config_invalid",
      `Cannot use the configuration of ${options.component}${from === undefined ? "" : ` (${from})`}: ${
        z.prettifyError(result.error)
      }`,
      { field },
    );
  }
  markDefaults(result.data, [], sources);
  return { value: deepFreeze(result.data), sources };
}

/** Every variable the component reads. A process with scoped permissions can ask for these one by one only. */
export function envNames(schema: z.ZodType, component: string): string[] {
  return leafPaths(jsonSchemaOf(schema)).map((path) => envPrefix(component) + envSuffix(path));
}

/** The effective configuration as JSON with where each value came from; `--print-config` shows it. */
export function describeConfig(config: LoadedConfig<unknown>): string {
  return JSON.stringify({ config: config.value, sources: config.sources }, null, 2);
}

function readFile(path: string): Tree {
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (cause) {
    throw fault("invalid_argument", "config_unreadable", `Cannot read configuration ${path}`, { cause });
  }
  try {
    return parseToml(text) as Tree;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
    throw fault("invalid_argument", "config_unreadable", `Cannot read configuration ${path} as TOML: ${why}`, {
      cause,
    });
  }
}

function isTree(value: unknown): value is Tree {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function merge(
  into: Tree,
  from: Tree,
  schema: JsonSchema,
  path: readonly string[],
  source: string,
  sources: Record<string, string>,
): void {
  for (const [key, value] of Object.entries(from)) {
    const child = childOf(schema, key);
    if (child === undefined) throw unknownKey([...path, key].join("."), key, schema, path, source);
    if (isTree(value)) {
      const existing = into[key];
      const target: Tree = isTree(existing) ? existing : {};
      own(into, key, target);
      merge(target, value, child, [...path, key], source, sources);
    } else {
      own(into, key, value);
      sources[[...path, key].join(".")] = source;
    }
  }
}

/** Sets an own property even for names like `__proto__`. */
function own(into: Tree, key: string, value: unknown): void {
  Object.defineProperty(into, key, { value, enumerable: true, writable: true, configurable: true });
}

function envPath(schema: JsonSchema, name: string, prefix: string): string[] {
  const path: string[] = [];
  let at = schema;
  for (const segment of name.slice(prefix.length).split("__")) {
    const wanted = segment.replaceAll("_", "").toLowerCase();
    const known = keysOf(at);
    const key = known.find((k) => k.replace(/[-_]/g, "").toLowerCase() === wanted) ??
      (known.length === 0 ? segment.toLowerCase() : undefined);
    const child = key === undefined ? undefined : childOf(at, key);
    if (key === undefined || child === undefined) {
      const names = leafPaths(schema).map((p) => prefix + envSuffix(p));
      const near = nearest(name, names);
      throw fault(
        "invalid_argument",
        "config_unknown_key",
        `Cannot use variable ${name}: no such key${near === undefined ? "" : `, nearest is ${near}`}`,
        { field: name },
      );
    }
    path.push(key);
    at = child;
  }
  return path;
}

function flags(args: readonly string[], schema: JsonSchema): [flag: string, path: string[], text: string][] {
  const out: [string, string[], string][] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (!arg.startsWith("--") || arg.length === 2) {
      throw fault("invalid_argument", "config_unknown_key", `Cannot use argument ${arg}: wanted --key=value`);
    }
    const equals = arg.indexOf("=");
    const flag = equals < 0 ? arg : arg.slice(0, equals);
    const path = flag.slice(2).split(".");
    const leaf = resolve(schema, path, flag);
    if (equals >= 0) out.push([flag, path, arg.slice(equals + 1)]);
    else if (allows(leaf, "boolean") && !["true", "false"].includes(args[i + 1] ?? "")) out.push([flag, path, "true"]);
    else if (args[i + 1] === undefined) {
      throw fault("invalid_argument", "config_invalid", `Cannot use flag ${flag} without a value`);
    } else out.push([flag, path, args[++i]!]);
  }
  return out;
}

function resolve(schema: JsonSchema, path: readonly string[], source: string): JsonSchema {
  let at = schema;
  path.forEach((key, i) => {
    const child = childOf(at, key);
    if (child === undefined) throw unknownKey(path.join("."), key, at, path.slice(0, i), source);
    at = child;
  });
  return at;
}

function set(
  tree: Tree,
  path: readonly string[],
  text: string,
  schema: JsonSchema,
  source: string,
  sources: Record<string, string>,
): void {
  const leaf = resolve(schema, path, source);
  let at = tree;
  for (const key of path.slice(0, -1)) {
    const next = Object.hasOwn(at, key) ? at[key] : undefined;
    const target: Tree = isTree(next) ? next : {};
    own(at, key, target);
    at = target;
  }
  const dotted = path.join(".");
  for (const known of Object.keys(sources)) if (known.startsWith(dotted + ".")) delete sources[known];
  own(at, path.at(-1)!, fromText(leaf, text, source));
  sources[dotted] = source;
}

/** Text of a variable or flag as what the schema wants there; zod judges the rest. */
function fromText(schema: JsonSchema, text: string, source: string): unknown {
  if (allows(schema, "boolean") && (text === "true" || text === "false")) return text === "true";
  if (allows(schema, "number") && /^-?\d+(\.\d+)?$/.test(text)) return Number(text);
  if ((allows(schema, "array") && text.trimStart().startsWith("[")) || (allows(schema, "object") && text !== "")) {
    try {
      return JSON.parse(text);
    } catch (cause) {
      throw fault("invalid_argument", "config_invalid", `Cannot read ${source} as JSON`, { cause });
    }
  }
  if (allows(schema, "array")) return text === "" ? [] : text.split(",").map((item) => item.trim());
  return text;
}

function unknownKey(dotted: string, key: string, schema: JsonSchema, path: readonly string[], source: string) {
  const near = nearest(key, keysOf(schema));
  const hint = near === undefined ? "" : `, nearest is ${[...path, near].join(".")}`;
  return fault(
    "invalid_argument",
    "config_unknown_key",
    `Cannot use key ${dotted} from ${source}: no such key${hint}`,
    { field: dotted },
  );
}

/** The candidate with the fewest edits to `word`; undefined when there is none. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestEdits = Infinity;
  for (const candidate of candidates) {
    const edits = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (edits < bestEdits) [best, bestEdits] = [candidate, edits];
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

function markDefaults(value: unknown, path: readonly string[], sources: Record<string, string>): void {
  if (isTree(value) && Object.getPrototypeOf(value) === Object.prototype) {
    const dotted = path.join(".");
    if (dotted !== "" && sources[dotted] !== undefined) return;
    for (const [key, inner] of Object.entries(value)) markDefaults(inner, [...path, key], sources);
  } else sources[path.join(".")] ??= "default";
}

function deepFreeze<T>(value: T): T {
  if (typeof value !== "object" || value === null || Object.isFrozen(value)) return value;
  if (Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype) {
    Object.freeze(value);
    for (const inner of Object.values(value)) deepFreeze(inner);
  }
  return value;
}
