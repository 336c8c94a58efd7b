import { fault } from "@ultracloud/base";
import type { Value } from "./values.ts";

/** What the client must know of a column: how differences apply to it, and what an absent one means. */
export interface ColumnType {
  readonly kind: "scalar" | "optional" | "set" | "map";
  readonly default: Value;
}

export interface TableSchema {
  readonly columns: Readonly<Record<string, ColumnType>>;
  /** Rows of other tables go when nothing refers to them. */
  readonly isRoot: boolean;
}

export interface Schema {
  readonly name: string;
  readonly version: string;
  readonly tables: Readonly<Record<string, TableSchema>>;
}

const zeroUuid = "00000000-0000-0000-0000-000000000000";
const atomDefaults: Readonly<Record<string, Value>> = {
  string: "",
  integer: 0,
  real: 0,
  boolean: false,
  uuid: ["uuid", zeroUuid],
};

function columnOf(type: unknown): ColumnType {
  const shape = (typeof type === "string" ? { key: type } : type) as {
    key?: string | { type?: string };
    value?: unknown;
    min?: number;
    max?: number | "unlimited";
  };
  if (shape.value !== undefined) return { kind: "map", default: ["map", []] };
  const max = shape.max ?? 1;
  if (max !== 1) return { kind: "set", default: ["set", []] };
  if ((shape.min ?? 1) === 0) return { kind: "optional", default: ["set", []] };
  const atom = typeof shape.key === "string" ? shape.key : shape.key?.type ?? "string";
  return { kind: "scalar", default: atomDefaults[atom] ?? "" };
}

/** The schema as `get_schema` answers it. */
export function parseSchema(json: unknown): Schema {
  const { name, version, tables } = (json ?? {}) as {
    name?: unknown;
    version?: unknown;
    tables?: Record<string, { columns?: Record<string, { type: unknown }>; isRoot?: boolean }>;
  };
  if (typeof name !== "string" || typeof tables !== "object" || tables === null) {
    throw fault("data_loss", "ovsdb_protocol", "Cannot read the database's schema: wanted a name and tables");
  }
  // A schema in which no table says so was written before the notion: all are roots then (RFC 7047, 3.2).
  const anyRoot = Object.values(tables).some((table) => table.isRoot === true);
  return {
    name,
    version: typeof version === "string" ? version : "",
    tables: Object.fromEntries(
      Object.entries(tables).map(([table, { columns, isRoot }]) => [table, {
        isRoot: anyRoot ? isRoot === true : true,
        columns: Object.fromEntries(
          Object.entries(columns ?? {}).map(([column, { type }]) => [column, columnOf(type)]),
        ),
      }]),
    ),
  };
}
