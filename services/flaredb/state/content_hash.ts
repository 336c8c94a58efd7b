import type { Database } from "@ultracloud/sqlite";
import { createHash } from "node:crypto";

/**
 * Positions move with entries that have no effect; archived entries are covered by what they did; each replica has its
 * own finding about itself.
 */
const leftOut: ReadonlySet<string> = new Set(["_uc_meta", "_uc_archive", "_uc_check"]);

/** Digest over the schema and every row of every table. */
export function contentHash(db: Database): string {
  const hash = createHash("sha256");
  const tables = db.all<{ name: string }>(
    "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_stat%' ORDER BY name",
  );
  const sorted = db.all<{ sql: string }>("SELECT coalesce(sql, '') AS sql FROM sqlite_schema ORDER BY type, name");
  hash.update(JSON.stringify(sorted.map((row) => row.sql)));
  for (const { name } of tables) {
    if (leftOut.has(name)) continue;
    const columns = db.all<{ name: string }>("SELECT name FROM pragma_table_xinfo(?)", name);
    const quoted = columns.map((column) => `quote("${column.name.replaceAll('"', '""')}")`);
    const order = quoted.map((_, i) => i + 1).join(",");
    for (
      const row of db.iterate(`SELECT ${quoted.join(",")} FROM "${name.replaceAll('"', '""')}" ORDER BY ${order}`)
    ) hash.update(JSON.stringify(Object.values(row)));
  }
  return hash.digest("hex");
}
