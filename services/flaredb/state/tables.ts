import type { MessageInitShape } from "@bufbuild/protobuf";
import type { TableSchema } from "@ultracloud/proto/flaredb/v1";
import type { Database } from "@ultracloud/sqlite";

interface ColumnRow {
  readonly name: string;
  readonly type: string;
  readonly notnull: number;
  readonly pk: number;
}

/** Callers' tables by name, with columns in order, named indexes and row counts. */
export function listTables(db: Database): MessageInitShape<typeof TableSchema>[] {
  const tables = db.all<{ name: string }>(
    String.raw`SELECT name FROM sqlite_schema
      WHERE type='table' AND name NOT LIKE '\_uc\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name`,
  );
  return tables.map(({ name }) => {
    const columns = db.all<ColumnRow>(`SELECT name, type, "notnull", pk FROM pragma_table_info(?)`, name);
    const indexes = db.all<{ name: string }>(
      "SELECT name FROM sqlite_schema WHERE type='index' AND tbl_name=? AND sql IS NOT NULL ORDER BY name",
      name,
    );
    const { n } = db.get<{ n: number }>(`SELECT count(*) AS n FROM "${name.replaceAll('"', '""')}"`)!;
    return {
      name,
      columns: columns.map((column) => ({
        name: column.name,
        type: column.type,
        notNull: column.notnull !== 0,
        primaryKey: column.pk !== 0,
      })),
      indexes: indexes.map((index) => index.name),
      indexDetails: db.all<{ name: string; unique: number }>(
        `SELECT name, "unique" FROM pragma_index_list(?) ORDER BY name`,
        name,
      ).map((index) => ({
        name: index.name,
        unique: index.unique !== 0,
        columns: db.all<{ name: string | null }>("SELECT name FROM pragma_index_info(?) ORDER BY seqno", index.name)
          .map((column) => column.name ?? ""),
      })),
      rowCount: BigInt(n),
    };
  });
}
