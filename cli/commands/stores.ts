import { buildRouteMap } from "@stricli/core";
import { type Database, DatabaseSchema, DatabaseService, SqlService, type Value } from "@ultracloud/proto/flaredb/v1";
import { type Column, humanBytes } from "../frame/columns.ts";
import { command } from "../frame/command.ts";
import { alignColumns, printable } from "../frame/render.ts";

const databaseColumns: readonly Column<Database>[] = [
  { name: "name", get: (d) => d.name },
  { name: "size", get: (d) => humanBytes(d.bytes) },
  { name: "applied", get: (d) => String(d.appliedIndex) },
];
const databaseArg = { brief: "Database", placeholder: "database" } as const;

export const db = buildRouteMap({
  docs: { brief: "Databases of flaredb, as the operator" },
  routes: {
    list: command({
      brief: "List databases",
      async run({ session, list }) {
        await list(
          DatabaseSchema,
          (await session.client(DatabaseService, "flaredb").listDatabases({})).databases,
          databaseColumns,
        );
      },
    }),
    create: command<Record<never, never>, [string]>({
      brief: "Create a database",
      args: [databaseArg],
      async run({ session, one }, _flags, name) {
        await one(
          DatabaseSchema,
          await session.client(DatabaseService, "flaredb").createDatabase({ name }),
          databaseColumns,
        );
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a database with everything in it",
      args: [databaseArg],
      async run({ session, confirm, io }, _flags, name) {
        confirm(`Delete the database ${name} and everything in it?`);
        await session.client(DatabaseService, "flaredb").deleteDatabase({ name });
        io.err(`Deleted database ${name}\n`);
      },
    }),
    tables: command<Record<never, never>, [string]>({
      brief: "List the tables of a database",
      args: [databaseArg],
      async run({ session, items }, _flags, database) {
        const { tables } = await session.client(SqlService, "flaredb").listTables({ database });
        await items(
          tables.map((t) => {
            const value = {
              name: t.name,
              columns: t.columns.map((c) => `${c.name} ${c.type}`.trim()).join(", "),
              rows: String(t.rowCount),
            };
            return { value, json: value, name: t.name };
          }),
          [{ name: "name", get: (t) => t.name }, { name: "rows", get: (t) => t.rows }, {
            name: "columns",
            get: (t) => t.columns,
          }],
        );
      },
    }),
  },
});

function valueText(value: Value): string {
  const { kind } = value;
  switch (kind.case) {
    case undefined:
    case "null":
      return "NULL";
    case "blob":
      return `x'${[...kind.value].map((b) => b.toString(16).padStart(2, "0")).join("")}'`;
    default:
      return String(kind.value);
  }
}

export const sql = command<{ write: boolean }, [string, string]>({
  brief: "Run one SQL statement on a database, as the operator",
  args: [databaseArg, { brief: "Statement", placeholder: "sql" }],
  flags: { write: { kind: "boolean", default: false, brief: "The statement changes something" } },
  async run({ session, io, flags: common }, flags, database, text) {
    const client = session.client(SqlService, "flaredb");
    const request = { database, statement: { sql: text } };
    const { result } = flags.write ? await client.execute(request) : await client.query(request);
    if (!result) return;
    if (common.output === "json") {
      const rows = result.rows.map((row) =>
        Object.fromEntries(row.values.map((v, i) => [result.columns[i]!, valueText(v)]))
      );
      return io.out(JSON.stringify(rows, null, 2) + "\n");
    }
    if (result.columns.length > 0) {
      const rows = [
        result.columns.map(printable),
        ...result.rows.map((row) => row.values.map((v) => printable(valueText(v)))),
      ];
      io.out(alignColumns(rows) + "\n");
    }
    if (flags.write) io.err(`${result.rowsAffected} rows changed\n`);
  },
});
