import { buildRouteMap } from "@stricli/core";
import { fault, utf8 } from "@ultracloud/base";
import { KvService } from "@ultracloud/proto/chainfire/v1";
import { type Database, DatabaseSchema, DatabaseService, SqlService, type Value } from "@ultracloud/proto/flaredb/v1";
import { type Column, humanBytes } from "../frame/columns.ts";
import { command } from "../frame/command.ts";
import { alignColumns, printable } from "../frame/render.ts";

interface Pair {
  readonly key: string;
  readonly value: string;
  readonly version: string;
  readonly modRevision: string;
  readonly lease: string;
}
const pairColumns: readonly Column<Pair>[] = [
  { name: "key", get: (p) => p.key },
  { name: "value", get: (p) => p.value.length > 60 ? `${p.value.slice(0, 57)}...` : p.value },
  { name: "version", get: (p) => p.version },
  { name: "mod_revision", get: (p) => p.modRevision },
  { name: "lease", get: (p) => p.lease === "0" ? "" : p.lease, wide: true },
];
const keyArg = { brief: "Key", placeholder: "key" } as const;

/** End of the range of keys that begin with `prefix` (the whole keyspace when there is none above). */
function prefixEnd(prefix: Uint8Array): Uint8Array {
  const end = prefix.slice();
  for (let i = end.length - 1; i >= 0; i--) {
    if (end[i]! < 0xff) {
      end[i]!++;
      return end.subarray(0, i + 1);
    }
  }
  return new Uint8Array([0]);
}

export const kv = buildRouteMap({
  docs: { brief: "Keys of the coordination store, as the operator" },
  routes: {
    get: command<Record<never, never>, [string]>({
      brief: "Print the value of a key as it is",
      args: [keyArg],
      async run({ session, io }, _flags, key) {
        const { kvs } = await session.client(KvService, "chainfire").range({ key: utf8.encode(key) });
        if (kvs.length === 0) throw fault("not_found", "key_not_found", `Cannot find the key ${key}`);
        io.out(utf8.decode(kvs[0]!.value) + "\n");
      },
    }),
    list: command<Record<never, never>, [string?]>({
      brief: "List keys with a prefix",
      args: [{ brief: "Prefix", placeholder: "prefix", optional: true }],
      async run({ session, items }, _flags, prefix = "") {
        const key = prefix === "" ? new Uint8Array([0]) : utf8.encode(prefix);
        const { kvs } = await session.client(KvService, "chainfire").range({
          key,
          rangeEnd: prefixEnd(utf8.encode(prefix)),
          limit: 10_000n,
        });
        await items(
          kvs.map((kv) => {
            const value: Pair = {
              key: utf8.decode(kv.key),
              value: utf8.decode(kv.value),
              version: String(kv.version),
              modRevision: String(kv.modRevision),
              lease: String(kv.lease),
            };
            return { value, json: value, name: value.key };
          }),
          pairColumns,
        );
      },
    }),
    put: command<Record<never, never>, [string, string]>({
      brief: "Write a key",
      args: [keyArg, { brief: "Value", placeholder: "value" }],
      async run({ session, io }, _flags, key, value) {
        const { header } = await session.client(KvService, "chainfire").put({
          key: utf8.encode(key),
          value: utf8.encode(value),
        });
        io.err(`Wrote ${key} at revision ${header?.revision}\n`);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a key",
      args: [keyArg],
      async run({ session, io, confirm }, _flags, key) {
        confirm(`Delete the key ${key}?`);
        const { deleted } = await session.client(KvService, "chainfire").deleteRange({ key: utf8.encode(key) });
        if (deleted === 0n) throw fault("not_found", "key_not_found", `Cannot find the key ${key}`);
        io.err(`Deleted ${key}\n`);
      },
    }),
  },
});

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
