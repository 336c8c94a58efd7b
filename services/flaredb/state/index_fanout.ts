import type { Database } from "@ultracloud/sqlite";
import type { Search } from "../domain/plan_cost.ts";

const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

/**
 * Most rows that one look-up finds, of a table of `rows`: counted, so it is for statements that seem to be too much.
 * The whole table where it cannot be told.
 */
export function foundBy(
  db: Database,
  { name, index, equal, range }: Search,
  tables: readonly string[],
  rows: number,
): number {
  if (range || equal.length === 0) return rows;
  const owner = index === undefined ? undefined : db.get<{ tbl_name: string }>(
    "SELECT tbl_name FROM sqlite_schema WHERE type='index' AND name=?",
    index,
  )?.tbl_name;
  // An alias of the statement's only table stands for it.
  const table = owner ?? (tables.includes(name) ? name : tables.length === 1 ? tables[0]! : undefined);
  if (table === undefined) return rows;
  try {
    const columns = equal.map(quoted).join(",");
    const most = db.get<{ n: number | null }>(
      `SELECT max(n) AS n FROM (SELECT count(*) AS n FROM ${quoted(table)} GROUP BY ${columns})`,
    );
    return Math.max(1, most?.n ?? 1);
  } catch {
    // Not the names of its columns: an expression.
    return rows;
  }
}
