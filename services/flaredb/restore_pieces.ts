import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type LoggedImportSchema, type Row, RowSchema } from "@ultracloud/proto/flaredb/v1";
import type { Database, SqlValue } from "@ultracloud/sqlite";
import { positionOf } from "./backup.ts";
import { importedTables } from "./state/import.ts";
import { toValue } from "./state/sql_values.ts";

type Piece = NonNullable<MessageInitShape<typeof LoggedImportSchema>["part"]>;

/** Rows go in pieces of about this size: each is a log entry. */
const pieceBytes = 512 * 1024;
const pieceRows = 1_000;
const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

interface SchemaRow {
  readonly type: string;
  readonly name: string;
  readonly sql: string;
}

/** Callers' tables, indexes, triggers and views in the order they were made. */
function schemaOf(db: Database): SchemaRow[] {
  return db.all<SchemaRow>(
    String.raw`SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL
      AND name NOT LIKE '\_uc\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY rowid`,
  );
}

/** Rows of every table of callers, and the number of keys. */
export function countTables(db: Database): { tables: { table: string; rows: bigint }[]; keys: bigint } {
  const count = (name: string) => BigInt(db.get<{ n: number }>(`SELECT count(*) AS n FROM ${quoted(name)}`)!.n);
  const tables = schemaOf(db).filter(({ type }) => type === "table").map(({ name }) => ({
    table: name,
    rows: count(name),
  }));
  return { tables: tables.sort((a, b) => a.table < b.table ? -1 : 1), keys: count("_uc_kv") };
}

/** Everything of a copy that a new database is filled with: tables, then rows, then what looks at rows. */
export function* readPieces(db: Database): Generator<Piece> {
  const schema = schemaOf(db);
  const tables = schema.filter(({ type }) => type === "table");
  const timeMs = BigInt(positionOf(db).timeMs);
  yield { case: "schema", value: { statements: tables.map(({ sql }) => sql), timeMs } };
  const counted = db.get("SELECT 1 AS one FROM sqlite_schema WHERE name='sqlite_sequence'") !== undefined;
  for (const table of tables) yield* rowsOf(db, table.name);
  if (counted) yield* rowsOf(db, "sqlite_sequence");
  const rest = schema.filter(({ type }) => type !== "table").map(({ sql }) => sql);
  if (rest.length > 0) yield { case: "schema", value: { statements: rest } };
  // Versions of tables last: making them was a change too.
  for (const table of importedTables) yield* rowsOf(db, table);
}

function* rowsOf(db: Database, table: string): Generator<Piece> {
  const described = db.all<{ name: string; hidden: number; pk: number; type: string }>(
    "SELECT name, hidden, pk, type FROM pragma_table_xinfo(?)",
    table,
  );
  const columns = described.filter(({ hidden }) => hidden === 0).map(({ name }) => name);
  const rowid = hasRowid(db, table);
  const names = new Set(described.map(({ name }) => name.toLowerCase()));
  const key = described.filter(({ pk }) => pk > 0);
  const aliased = key.length === 1 && key[0]!.type.toUpperCase() === "INTEGER";
  // Where no column tells the row id, it goes along: it is what order and references by row id rest on.
  const hidden = rowid && !aliased && !names.has("_rowid_") && table !== "sqlite_sequence" ? ["_rowid_"] : [];
  const all = [...hidden, ...columns];
  const select = `SELECT ${all.map(quoted).join(",")} FROM ${quoted(table)}`;
  let rows: Row[] = [];
  let bytes = 0;
  const piece = (): Piece => ({ case: "rows", value: { table, columns: all, rows } });
  for (const row of chunks(db, table, select, rowid)) {
    const values = row.map(toRowValue);
    rows.push(create(RowSchema, { values }));
    bytes += row.reduce<number>(
      (sum, v) => sum + (typeof v === "string" || v instanceof Uint8Array ? v.length : 8),
      16,
    );
    if (rows.length < pieceRows && bytes < pieceBytes) continue;
    yield piece();
    rows = [];
    bytes = 0;
  }
  if (rows.length > 0) yield piece();
}

const toRowValue = (value: SqlValue) => toValue(value);

function hasRowid(db: Database, table: string): boolean {
  const row = db.get<{ wr: number }>("SELECT wr FROM pragma_table_list WHERE schema='main' AND name=?", table);
  return row?.wr === 0;
}

/** All rows, some at a time: by row id where there is one, else all at once. */
function* chunks(db: Database, table: string, select: string, rowid: boolean): Generator<SqlValue[]> {
  const read = (sql: string, ...params: (number | bigint)[]) => {
    const statement = db.raw.prepare(sql);
    statement.setReadBigInts(true);
    (statement as unknown as { setReturnArrays(on: boolean): void }).setReturnArrays(true);
    return statement.all(...params) as unknown as SqlValue[][];
  };
  if (!rowid || table === "sqlite_sequence") {
    yield* read(select);
    return;
  }
  const wanted = select.replace(/^SELECT /, "SELECT _rowid_, ");
  for (let after = -(2n ** 63n), first = true;; first = false) {
    const rows = read(`${wanted} WHERE _rowid_ ${first ? ">=" : ">"} ? ORDER BY _rowid_ LIMIT ${pieceRows}`, after);
    for (const row of rows) yield row.slice(1);
    if (rows.length < pieceRows) return;
    after = rows.at(-1)![0] as bigint;
  }
}
