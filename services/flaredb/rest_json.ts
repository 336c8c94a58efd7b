import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { invalidField } from "@ultracloud/base";
import {
  type ItemSchema,
  Level,
  type ResultSetSchema,
  type StatementSchema,
  type Value,
} from "@ultracloud/proto/flaredb/v1";
import { z } from "zod";
import { readStatement } from "./domain/sql_text.ts";

/**
 * SQL values in JSON: null, text and safe integers as they are; a fraction is REAL; true and false are 1 and 0. What
 * JSON cannot tell is an object: {"integer": "9007199254740993"}, {"real": 1}, {"blob": "<base64>"}.
 */
const valueSchema = z.union([
  z.null(),
  z.boolean(),
  z.number(),
  z.string(),
  z.strictObject({ integer: z.string().regex(/^-?\d{1,19}$/) }),
  z.strictObject({ real: z.union([z.number(), z.enum(["Infinity", "-Infinity"])]) }),
  z.strictObject({ blob: z.base64() }),
]);
type JsonValue = z.infer<typeof valueSchema>;

const paramsSchema = z.union([z.array(valueSchema), z.record(z.string(), valueSchema)]);
const levels = {
  linearizable: Level.LINEARIZABLE,
  stale: Level.STALE,
  at_index: Level.AT_INDEX,
  strong: Level.STRONG,
} as const;
type LevelName = keyof typeof levels;
const levelNames = Object.keys(levels) as [LevelName, ...LevelName[]];

const sqlBodySchema = z.strictObject({
  database: z.string(),
  sql: z.string().optional(),
  params: paramsSchema.optional(),
  statements: z.array(z.union([z.string(), z.strictObject({ sql: z.string(), params: paramsSchema.optional() })]))
    .optional(),
  level: z.enum(levelNames).optional(),
  maxAgeMs: z.number().int().nonnegative().optional(),
  atIndex: z.number().int().nonnegative().optional(),
  rowLimit: z.number().int().nonnegative().optional(),
  transaction: z.string().max(64).optional(),
  expected: z.array(z.strictObject({ table: z.string(), index: z.number().int().nonnegative() })).optional(),
  digest: z.boolean().optional(),
  expectedResults: z.array(z.strictObject({ sql: z.string(), params: paramsSchema.optional(), digest: z.base64() }))
    .optional(),
}).refine((body) => (body.sql === undefined) !== (body.statements === undefined), {
  error: "wanted either sql or statements",
});

type StatementInit = MessageInitShape<typeof StatementSchema>;
interface ReadInit {
  level: Level;
  maxAgeMs: bigint;
  atIndex: bigint;
}

export interface SqlBody {
  readonly database: string;
  readonly statements: StatementInit[];
  /** Asked for as a list: all or nothing, even when there is one. */
  readonly asBatch: boolean;
  /** The one statement only reads, by its first word. */
  readonly reads: boolean;
  readonly read: ReadInit | undefined;
  readonly rowLimit: number;
  readonly transaction: string;
  /** Table versions that a batch rests on. */
  readonly expected: { table: string; index: bigint }[];
  /** Queries that a batch rests on, with the digests of their answers. */
  readonly expectedResults: { statement: StatementInit; digest: Uint8Array<ArrayBuffer> }[];
  /** Answer a digest of a query's rows. */
  readonly digest: boolean;
}

/** The body of POST /api/v1/sql, or invalid_argument with the path of what is wrong. */
export function readSqlBody(text: string): SqlBody {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw invalidField("", "Cannot read the body: wanted JSON", "invalid_json");
  }
  const parsed = sqlBodySchema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw invalidField(issue.path.join("."), `Cannot use the body: ${issue.message}`, "invalid_json");
  }
  const { database, sql, params, statements, level, maxAgeMs, atIndex, rowLimit = 0, transaction = "" } = parsed.data;
  const expected = (parsed.data.expected ?? []).map(({ table, index }) => ({ table, index: BigInt(index) }));
  const expectedResults = (parsed.data.expectedResults ?? []).map((each) => ({
    statement: { sql: each.sql, ...bound(each.params) },
    digest: Uint8Array.fromBase64(each.digest),
  }));
  const listed = statements?.map((s) => typeof s === "string" ? { sql: s } : { sql: s.sql, ...bound(s.params) });
  const all = listed ?? [{ sql: sql!, ...bound(params) }];
  const first = listed === undefined ? readStatement(sql!, "statement") : undefined;
  const reads = first !== undefined &&
    (first.class === "explain" || first.class === "pragma" || (first.class === "read" && !first.writes));
  const read = level === undefined
    ? undefined
    : { level: levels[level], maxAgeMs: BigInt(maxAgeMs ?? 0), atIndex: BigInt(atIndex ?? 0) };
  // What a batch rests on, and only a batch.
  const asBatch = listed !== undefined || expected.length > 0 || expectedResults.length > 0;
  if (asBatch && transaction !== "") {
    throw invalidField("transaction", "Cannot run a batch in a transaction: wanted one statement at a time");
  }
  const { digest = false } = parsed.data;
  return { database, statements: all, asBatch, reads, read, rowLimit, transaction, expected, expectedResults, digest };
}

function bound(params: JsonValue[] | Record<string, JsonValue> | undefined): StatementInit {
  if (params === undefined) return {};
  if (Array.isArray(params)) return { positional: params.map(fromJson) };
  return { named: Object.fromEntries(Object.entries(params).map(([name, value]) => [name, fromJson(value)])) };
}

type ValueInit = { kind: Value["kind"] };

function fromJson(value: JsonValue): ValueInit {
  const of = (kind: Value["kind"]): ValueInit => ({ kind });
  if (value === null) return of({ case: undefined });
  switch (typeof value) {
    case "boolean":
      return of({ case: "integer", value: value ? 1n : 0n });
    case "string":
      return of({ case: "text", value });
    case "number":
      return Number.isSafeInteger(value) ? of({ case: "integer", value: BigInt(value) }) : of({ case: "real", value });
    default:
      if ("integer" in value) return of({ case: "integer", value: BigInt(value.integer) });
      if ("real" in value) return of({ case: "real", value: Number(value.real) });
      return of({ case: "blob", value: Uint8Array.fromBase64(value.blob) });
  }
}

type ValueLike = MessageInitShape<typeof ResultSetSchema>["rows"] extends (infer R)[] | undefined
  ? R extends { values?: (infer V)[] } ? V : never
  : never;

function toJson(value: ValueLike): unknown {
  const kind = (value as Value).kind;
  switch (kind.case) {
    case "text":
      return kind.value;
    case "integer": {
      const number = Number(kind.value);
      return Number.isSafeInteger(number) ? number : { integer: String(kind.value) };
    }
    case "real":
      // An integral REAL would read as an INTEGER.
      if (!Number.isFinite(kind.value)) return { real: String(kind.value) };
      return Number.isInteger(kind.value) ? { real: kind.value } : kind.value;
    case "blob":
      return { blob: kind.value.toBase64() };
    default:
      return null;
  }
}

/** A result as JSON: rows as arrays in the order of the columns. */
export function resultJson(result: MessageInitShape<typeof ResultSetSchema>): Record<string, unknown> {
  return {
    columns: result.columns ?? [],
    types: result.types ?? [],
    rows: (result.rows ?? []).map((row) => (row.values ?? []).map(toJson)),
    rowsAffected: Number(result.rowsAffected ?? 0n),
    lastInsertId: toJson({ kind: { case: "integer", value: result.lastInsertId ?? 0n } } as Value),
    elapsedMs: result.elapsedMs ?? 0,
  };
}

/** A key as JSON, its value in base64. */
export function itemJson(item: MessageInitShape<typeof ItemSchema>, keysOnly: boolean): Record<string, unknown> {
  return {
    key: item.key,
    ...(keysOnly ? {} : { value: (item.value ?? new Uint8Array()).toBase64() }),
    version: Number(item.version ?? 0n),
    ...(item.expireTime ? { expireTime: new Date(timestampMs(item.expireTime as never)).toISOString() } : {}),
  };
}

/** A whole number of the query string; 0 when absent. */
export function queryNumber(text: string | undefined, field: string): number {
  if (text === undefined || text === "") return 0;
  if (/^\d{1,16}$/.test(text)) return Number(text);
  throw invalidField(field, `Cannot read ${field} ${JSON.stringify(text.slice(0, 40))}: wanted a whole number`);
}

/** The consistency that the query string asks for. */
export function readOf(query: Readonly<Record<string, string>>): { read?: ReadInit } {
  const { level } = query;
  if (level === undefined) return {};
  if (!Object.hasOwn(levels, level)) {
    throw invalidField("level", `Cannot read at level ${level.slice(0, 40)}: wanted one of ${levelNames.join(", ")}`);
  }
  return {
    read: {
      level: levels[level as LevelName],
      maxAgeMs: BigInt(queryNumber(query.max_age_ms, "max_age_ms")),
      atIndex: BigInt(queryNumber(query.at_index, "at_index")),
    },
  };
}
