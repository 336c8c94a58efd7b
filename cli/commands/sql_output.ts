import type { ResultSet, Value } from "@ultracloud/proto/flaredb/v1";
import { alignColumns, printable } from "../frame/render.ts";

/** A value as people read it. */
export function valueText({ kind }: Value): string {
  switch (kind.case) {
    case undefined:
    case "null":
      return "NULL";
    case "blob":
      return `x'${kind.value.toHex()}'`;
    default:
      return String(kind.value);
  }
}

/** A value as machines read it; integers that JSON cannot hold are text. */
function jsonValue({ kind }: Value): unknown {
  switch (kind.case) {
    case undefined:
    case "null":
      return null;
    case "integer":
      return Number.isSafeInteger(Number(kind.value)) ? Number(kind.value) : String(kind.value);
    case "blob":
      return { blob: kind.value.toBase64() };
    default:
      return kind.value;
  }
}

/** Rows as objects by column. */
export function resultJson({ columns, rows }: ResultSet): unknown[] {
  return rows.map((row) => Object.fromEntries(row.values.map((value, i) => [columns[i]!, jsonValue(value)])));
}

/** A table with its columns' names; empty for a statement without any. */
export function resultTable({ columns, rows }: ResultSet): string {
  if (columns.length === 0) return "";
  const table = [columns.map(printable), ...rows.map((row) => row.values.map((v) => printable(valueText(v))))];
  return alignColumns(table) + "\n";
}
