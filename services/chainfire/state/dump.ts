import { assert } from "@ultracloud/base";
import type { Database, Row, SqlParameter } from "@ultracloud/sqlite";
import { Reader, Writer } from "./bytes.ts";

/** First byte of a dump. A later number has more tables; those of earlier releases are read too. */
const dumpVersion = 3;

const rowsAtOnce = 64;
/** A piece of a dump, but for a row that is larger: a few milliseconds of reading, after which others have their turn. */
const pieceBytes = 1 << 16;

type ColumnType = "uint" | "uint64" | "bytes" | "bytes?" | "text";

/** Every table, in a fixed order, with the order of its rows: equal states have equal dumps. */
const tables: readonly {
  name: string;
  columns: Readonly<Record<string, ColumnType>>;
  order: readonly string[];
  /** The first version of a dump that has it; 1 when absent. */
  since?: number;
}[] = [
  { name: "meta", columns: { name: "text", value: "uint" }, order: ["name"] },
  {
    name: "history",
    columns: {
      id: "uint",
      revision: "uint",
      key: "bytes",
      value: "bytes?",
      create_revision: "uint",
      version: "uint",
      lease: "uint64",
    },
    order: ["id"],
  },
  { name: "live", columns: { key: "bytes", id: "uint", lease: "uint64" }, order: ["key"] },
  { name: "lease", columns: { id: "uint64", ttl_ms: "uint", deadline_ms: "uint" }, order: ["id"] },
  {
    name: "call",
    columns: { caller: "text", key: "text", body_hash: "text", answer: "bytes", clock_ms: "uint" },
    order: ["caller", "key"],
  },
  {
    name: "session",
    columns: { id: "uint64", caller: "text", answered_below: "uint", used: "uint" },
    order: ["id"],
    since: 2,
  },
  {
    name: "session_answer",
    columns: { session: "uint64", sequence: "uint", body_hash: "uint", answer: "bytes" },
    order: ["session", "sequence"],
    since: 2,
  },
  {
    name: "quota",
    columns: {
      namespace: "bytes",
      bytes_max: "uint",
      keys_max: "uint",
      leases_max: "uint",
      watches_max: "uint",
      writes_max: "uint",
    },
    order: ["namespace"],
    since: 2,
  },
  { name: "alarm", columns: { member: "uint", type: "text" }, order: ["member", "type"], since: 2 },
  {
    name: "member",
    columns: { id: "uint", name: "text", peer_url: "text", client_url: "text" },
    order: ["id"],
    since: 2,
  },
  { name: "hash_report", columns: { member: "uint", hash: "uint" }, order: ["member"], since: 2 },
  { name: "promotion", columns: { member: "uint" }, order: ["member"], since: 3 },
];

/** The whole state, independent of how SQLite lays it out, in pieces that end between two rows. */
export function* dumpPieces(db: Database): Generator<Uint8Array> {
  let w = new Writer(pieceBytes);
  w.byte(dumpVersion);
  for (const { name, columns, order } of tables) {
    const names = Object.keys(columns);
    const types = Object.values(columns);
    w.uint(db.get<{ n: number }>(`SELECT COUNT(*) AS n FROM ${name}`)!.n);
    // Some rows at a time, behind the last one before: a table need not fit into memory.
    const behind = (after: Row | undefined) => after ? `WHERE (${order}) > (${order.map(() => "?").join(", ")})` : "";
    let after: Row | undefined;
    for (let full = true; full;) {
      const last = after;
      const keys = last ? order.map((column) => last[column]!) : [];
      const sql = `SELECT ${names.join(", ")} FROM ${name} ${behind(after)} ORDER BY ${order} LIMIT ${rowsAtOnce}`;
      const rows = db.all<Row>(sql, ...keys);
      for (const row of rows) {
        names.forEach((column, i) => writeValue(w, types[i]!, row[column]!));
        if (w.length < pieceBytes) continue;
        yield w.finish();
        w = new Writer(pieceBytes);
      }
      full = rows.length === rowsAtOnce;
      after = rows.at(-1);
    }
  }
  yield w.finish();
}

/** Replaces the whole state, inside the caller's transaction. */
export function decodeDump(db: Database, pieces: Iterable<Uint8Array>): void {
  const source = pieces[Symbol.iterator]();
  let r = new Reader(new Uint8Array(0));
  /** The reader of what comes next; a value never spans two pieces. */
  const reader = (): Reader => {
    while (r.done) {
      const { value, done } = source.next();
      if (done) return r;
      r = new Reader(value);
    }
    return r;
  };
  const version = reader().byte();
  assert(
    version >= 1 && version <= dumpVersion,
    `A dump must have version 1 to ${dumpVersion}, this one has ${version}`,
  );
  for (const { name, columns, since = 1 } of tables) {
    const names = Object.keys(columns);
    const types = Object.values(columns);
    const insert = `INSERT INTO ${name}(${names.join(", ")}) VALUES(${names.map(() => "?").join(", ")})`;
    db.run(`DELETE FROM ${name}`);
    if (version < since) continue;
    for (let rows = reader().uint(); rows > 0; rows--) {
      const row = reader();
      db.run(insert, ...types.map((type) => readValue(row, type)));
    }
  }
  assert(reader().done, "A dump must end after its last table");
}

function writeValue(w: Writer, type: ColumnType, value: unknown): void {
  switch (type) {
    case "uint":
      return void w.uint(value as number);
    case "uint64":
      return void w.uint64(BigInt(value as number | bigint));
    case "text":
      return void w.text(value as string);
    case "bytes":
      return void w.bytes(value as Uint8Array);
    case "bytes?":
      w.flag(value !== null);
      if (value !== null) w.bytes(value as Uint8Array);
  }
}

function readValue(r: Reader, type: ColumnType): SqlParameter {
  switch (type) {
    case "uint":
      return r.uint();
    case "uint64":
      return r.uint64();
    case "text":
      return r.text();
    case "bytes":
      return r.bytes();
    case "bytes?":
      return r.flag() ? r.bytes() : null;
  }
}
