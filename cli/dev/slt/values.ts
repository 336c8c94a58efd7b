import { fault } from "@ultracloud/base";
import { createHash } from "node:crypto";
import type { SortMode } from "./parse.ts";

/** A value as the REST API answers it. */
export type JsonValue =
  | null
  | number
  | string
  | { readonly integer: string }
  | { readonly real: number | string }
  | { readonly blob: string };

/** Control characters and what is no ASCII are shown as @, one for each byte, as the original runner does. */
export function disarm(text: string): string {
  if (!/[^\x20-\x7e]/.test(text)) return text;
  return [...new TextEncoder().encode(text)].map((b) => b < 0x20 || b > 0x7e ? "@" : String.fromCharCode(b)).join("");
}

/** REAL as SQLite writes it where text is asked for: 15 digits, and always a point. */
function realText(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NULL" : value > 0 ? "Inf" : "-Inf";
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude < 1e-4 || magnitude >= 1e15)) {
    const [digits = "0", exponent = "+0"] = value.toExponential(14).split("e");
    const trimmed = digits.replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, ".0");
    return `${trimmed}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
  }
  const text = String(Number(value.toPrecision(15)));
  return text.includes(".") ? text : `${text}.0`;
}

/** Three digits behind the point, and at most 16 that mean something. */
function fixedText(value: number): string {
  if (Math.abs(value) < 1e16 || !Number.isFinite(value)) return value.toFixed(3);
  const [digits = "", exponent = "0"] = value.toExponential(15).split("e");
  const sign = digits.startsWith("-") ? "-" : "";
  return `${sign}${digits.replace(/[-.]/g, "").padEnd(Number(exponent) + 1, "0")}.000`;
}

/** The value as a number, as SQLite casts it. */
function numberOf(value: Exclude<JsonValue, null>): number {
  if (typeof value === "number") return value;
  if (typeof value === "object" && "integer" in value) return Number(value.integer);
  if (typeof value === "object" && "real" in value) return Number(value.real);
  const text = typeof value === "string" ? value : atob(value.blob);
  return Number(/^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)/.exec(text)?.[1] ?? 0);
}

function integerText(value: Exclude<JsonValue, null>): string {
  if (typeof value === "object" && "integer" in value) return value.integer;
  if (typeof value === "string") return String(BigInt.asIntN(64, BigInt(/^\s*([+-]?\d+)/.exec(value)?.[1] ?? 0)));
  const number = numberOf(value);
  if (number >= 2 ** 63) return "9223372036854775807";
  if (number <= -(2 ** 63)) return "-9223372036854775808";
  return String(BigInt(Math.trunc(number)));
}

/** A value in the form of a result line, by the type the record gives its column. */
export function formatValue(value: JsonValue, type: string): string {
  if (value === null) return "NULL";
  if (type === "I") return integerText(value);
  if (type === "R") return fixedText(numberOf(value));
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : realText(value);
  if (typeof value === "string") return value === "" ? "(empty)" : disarm(value);
  if ("integer" in value) return value.integer;
  if ("real" in value) return realText(Number(value.real));
  const bytes = Uint8Array.fromBase64(value.blob);
  return bytes.length === 0
    ? "(empty)"
    : [...bytes].map((b) => b < 0x20 || b > 0x7e ? "@" : String.fromCharCode(b)).join("");
}

/** All values of a result, row after row, in the order the record asks for. */
export function formatRows(rows: readonly (readonly JsonValue[])[], types: string, sort: SortMode): string[] {
  const formatted = rows.map((row) => {
    if (row.length !== types.length) {
      throw fault("failed_precondition", "slt_columns", `Cannot compare ${row.length} columns: wanted ${types.length}`);
    }
    return row.map((value, i) => formatValue(value, types[i]!));
  });
  const order = (a: string, b: string) => a < b ? -1 : a > b ? 1 : 0;
  if (sort === "rowsort") {
    formatted.sort((a, b) => {
      const i = a.findIndex((value, column) => value !== b[column]);
      return i < 0 ? 0 : order(a[i]!, b[i]!);
    });
  }
  const values = formatted.flat();
  return sort === "valuesort" ? values.sort(order) : values;
}

/** `N values hashing to <md5>`: the short form of a long result. */
export function hashLine(values: readonly string[]): string {
  const hash = createHash("md5");
  for (const value of values) hash.update(value + "\n");
  return `${values.length} values hashing to ${hash.digest("hex")}`;
}

/** Why `values` are not what the file expects; undefined when they are. */
export function difference(
  values: readonly string[],
  expected: readonly string[],
  columns: number,
): string | undefined {
  const [only = ""] = expected;
  if (expected.length === 1 && /^\d+ values hashing to [0-9a-f]{32}$/.test(only)) {
    const actual = hashLine(values);
    return actual === only ? undefined : `got ${actual}, wanted ${only}`;
  }
  let actual = [...values], wanted = [...expected];
  if (columns > 1 && expected.length * columns === values.length) {
    // The other dialect: a row on each line, its values apart by blanks.
    actual = Array.from({ length: expected.length }, (_, i) => values.slice(i * columns, (i + 1) * columns).join(" "));
    const blanks = (line: string) => line.trim().replace(/\s+/g, " ");
    actual = actual.map(blanks);
    wanted = wanted.map(blanks);
  }
  wanted = wanted.map(disarm);
  const at = wanted.findIndex((line, i) => line !== actual[i]);
  if (at >= 0) return `result ${at + 1} is ${JSON.stringify(actual[at] ?? null)}, wanted ${JSON.stringify(wanted[at])}`;
  return actual.length === wanted.length ? undefined : `got ${actual.length} results, wanted ${wanted.length}`;
}
