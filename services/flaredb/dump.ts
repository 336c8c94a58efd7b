import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { fault } from "@ultracloud/base";
import {
  type DumpPart,
  DumpPartSchema,
  type ImportKey,
  ImportKeySchema,
  type ImportRows,
  ImportRowsSchema,
  type Row,
} from "@ultracloud/proto/flaredb/v1";
import { openDatabase } from "@ultracloud/sqlite";
import { positionOf } from "./backup.ts";
import { sqlCharsMax } from "./domain/bounds.ts";
import { sqlLiteral } from "./domain/sql_literal.ts";
import { readPieces } from "./restore_pieces.ts";
import type { DatabaseMachine } from "./state/database_machine.ts";

/** Format of the parts that follow a header. */
export const dumpFormat = 1;
/** The store's own tables that mean something in another database. */
export const dumpedTables: ReadonlySet<string> = new Set(["sqlite_sequence", "_uc_quota", "_uc_migration"]);

/** An INSERT takes rows until it is about this long. */
const insertChars = 256 * 1024;
const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

/** The content as statements and keys, as of one moment: copied aside by a worker, then read from there. */
export async function* dumpDatabase(
  options: { readonly database: string; readonly path: string },
  machine: DatabaseMachine,
  signal: AbortSignal,
): AsyncGenerator<DumpPart> {
  const { database, path } = options;
  await machine.copyTo(path);
  try {
    using copy = openDatabase(path, { readOnly: true });
    const { index, timeMs } = positionOf(copy);
    let statements = 0, keys = 0;
    const part = (value: DumpPart["part"]) => create(DumpPartSchema, { part: value });
    const statement = (sql: string) => {
      statements++;
      return part({ case: "statement", value: sql });
    };
    yield create(DumpPartSchema, {
      part: {
        case: "header",
        value: { format: dumpFormat, database, index: BigInt(index), time: timestampFromMs(timeMs) },
      },
    });
    for (const piece of readPieces(copy)) {
      signal.throwIfAborted();
      if (piece.case === "schema") { for (const sql of piece.value.statements ?? []) yield statement(sql); }
      if (piece.case !== "rows") continue;
      const rows = create(ImportRowsSchema, piece.value);
      if (rows.table === "_uc_kv") {
        for (const key of keysOf(rows)) {
          keys++;
          yield part({ case: "key", value: key });
        }
      } else if (dumpedTables.has(rows.table)) yield part({ case: "rows", value: rows });
      else if (!rows.table.startsWith("_uc_")) { for (const sql of inserts(rows)) yield statement(sql); }
    }
    yield create(DumpPartSchema, {
      part: { case: "footer", value: { statements: BigInt(statements), keys: BigInt(keys) } },
    });
  } finally {
    await Deno.remove(path);
  }
}

function* inserts({ table, columns, rows }: ImportRows): Generator<string> {
  const head = `INSERT INTO ${quoted(table)}(${columns.map(quoted)}) VALUES`;
  let text = "";
  for (const row of rows) {
    const tuple = tupleOf(table, row);
    if (text !== "" && text.length + tuple.length > insertChars) {
      yield text;
      text = "";
    }
    text += text === "" ? `${head}\n${tuple}` : `,\n${tuple}`;
  }
  if (text !== "") yield text;
}

function tupleOf(table: string, { values }: Row): string {
  const tuple = `(${values.map(sqlLiteral).join(",")})`;
  if (tuple.length < sqlCharsMax - insertChars) return tuple;
  throw fault(
    "failed_precondition",
    "dump_row_too_large",
    `Cannot write a row of ${table} as a statement of ${tuple.length} characters: wanted at most ${
      sqlCharsMax - insertChars
    }; a backup takes rows of any size`,
  );
}

function* keysOf({ columns, rows }: ImportRows): Generator<ImportKey> {
  const at = (name: string) => columns.indexOf(name);
  const [bucket, key, value, expire] = [at("bucket"), at("key"), at("value"), at("expire_ms")];
  for (const { values } of rows) {
    const due = values[expire!]!.kind;
    yield create(ImportKeySchema, {
      bucket: String(values[bucket!]!.kind.value),
      key: String(values[key!]!.kind.value),
      value: values[value!]!.kind.value as Uint8Array<ArrayBuffer>,
      expireMs: due.case === "integer" ? due.value : 0n,
    });
  }
}
