import { fault } from "@ultracloud/base";
import type { Column } from "./columns.ts";

export const outputFormats = ["table", "wide", "json", "yaml", "name"] as const;
export type OutputFormat = typeof outputFormats[number];

export interface RenderOptions {
  readonly output: OutputFormat;
  /** Comma-separated column names or dotted JSON paths. */
  readonly columns?: string | undefined;
  /** `path=value` or `path!=value` on the JSON form; all must match. */
  readonly filter?: readonly string[] | undefined;
  /** Column name or dotted JSON path; a leading minus reverses. */
  readonly sort?: string | undefined;
  readonly headers: boolean;
}

/** A resource in both its forms: the message for tables, its JSON for machines. */
export interface Item<T> {
  readonly value: T;
  readonly json: unknown;
  /** What `-o name` prints. */
  readonly name: string;
}

/** Reads `a.b.0.c` in JSON; undefined when absent. */
export function atPath(json: unknown, path: string): unknown {
  let at: unknown = json;
  for (const part of path.split(".")) {
    if (at === null || typeof at !== "object") return undefined;
    at = Object.hasOwn(at, part) ? (at as Record<string, unknown>)[part] : undefined;
  }
  return at;
}

function plain(value: unknown): string {
  if (value === undefined || value === null) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function matches(json: unknown, filter: string): boolean {
  const match = /^([^=!]+)(!?=)(.*)$/.exec(filter);
  if (!match) {
    throw fault(
      "invalid_argument",
      "bad_filter",
      `Cannot read the filter ${JSON.stringify(filter)}: wanted path=value or path!=value`,
    );
  }
  return (plain(atPath(json, match[1]!)) === match[3]) === (match[2] === "=");
}

/** The text for standard output, without a final newline; empty for an empty `name` list. */
export async function render<T>(
  items: readonly Item<T>[],
  columns: readonly Column<T>[],
  options: RenderOptions,
  single = false,
): Promise<string> {
  let list = items.filter((item) => (options.filter ?? []).every((filter) => matches(item.json, filter)));
  if (options.sort) {
    const reverse = options.sort.startsWith("-");
    const key = reverse ? options.sort.slice(1) : options.sort;
    const column = columns.find((c) => c.name === key);
    const of = (item: Item<T>) => column ? column.get(item.value) : plain(atPath(item.json, key));
    const order = column?.order;
    const compare = order
      ? (a: Item<T>, b: Item<T>) => order(a.value) - order(b.value)
      : (a: Item<T>, b: Item<T>) => of(a).localeCompare(of(b), "en", { numeric: true });
    list = [...list].sort((a, b) => compare(a, b) * (reverse ? -1 : 1));
  }
  // One thing that a filter left out is nothing in every form.
  if (single && list.length === 0) return "";
  const machine = single ? list[0]?.json : list.map((item) => item.json);
  switch (options.output) {
    case "json":
      return disarmed(JSON.stringify(machine, null, 2));
    case "yaml":
      return await yaml(machine);
    case "name":
      return list.map((item) => printable(item.name)).join("\n");
    case "table":
    case "wide":
      return table(list, chosen(columns, options), options.headers);
  }
}

function chosen<T>(
  columns: readonly Column<T>[],
  options: RenderOptions,
): { name: string; get: (item: Item<T>) => string }[] {
  if (options.columns) {
    return options.columns.split(",").map((name) => name.trim()).filter((name) => name !== "").map((name) => {
      const column = columns.find((c) => c.name === name);
      return { name, get: (item) => column ? column.get(item.value) : plain(atPath(item.json, name)) };
    });
  }
  return columns.filter((c) => options.output === "wide" || !c.wide).map((c) => ({
    name: c.name,
    get: (item) => c.get(item.value),
  }));
}

function table<T>(
  items: readonly Item<T>[],
  columns: { name: string; get: (item: Item<T>) => string }[],
  headers: boolean,
): string {
  const rows = items.map((item) => columns.map((column) => printable(column.get(item))));
  if (headers) rows.unshift(columns.map((column) => column.name.toUpperCase().replaceAll("_", " ")));
  return alignColumns(rows);
}

/** Left-aligned columns two spaces apart; no trailing blanks. */
export function alignColumns(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => widths[i] = Math.max(widths[i] ?? 0, cell.length));
  return rows.map((row) => row.map((cell, i) => cell.padEnd(widths[i]!)).join("  ").trimEnd()).join("\n");
}

// Terminals obey these, and JSON does not escape them.
const aboveAscii = /[\x7f-\x9f]/g;

/** The same value, with escapes for what a terminal would obey. */
function disarmed(json: string): string {
  return json.replace(aboveAscii, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

async function yaml(machine: unknown): Promise<string> {
  const { stringify } = await import("yaml");
  // Only a quoted scalar can hold an escape.
  const hostile = JSON.stringify(machine).search(aboveAscii) >= 0;
  const text = stringify(machine, hostile ? { defaultStringType: "QUOTE_DOUBLE" } : {}).trimEnd();
  return hostile ? disarmed(text) : text;
}

/** Text of others as it may go to a terminal: control characters are shown, never obeyed. */
export function printable(text: string): string {
  // deno-lint-ignore no-control-regex -- these are the characters to disarm
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}
