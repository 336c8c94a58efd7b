import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { assert, fault } from "@ultracloud/base";
import { type RowChange, RowChangeKind, RowChangeSchema } from "@ultracloud/proto/flaredb/v1";
import type { Database } from "@ultracloud/sqlite";
import { changesBytesMax, changesCountMax } from "../domain/bounds.ts";
import { type ChangedValue, type ChangesetRow, decodeChangeset } from "./changeset.ts";
import type { Meta } from "./schema.ts";
import type { Touched } from "./sql_runner.ts";
import { toValue } from "./sql_values.ts";

type RowChangeInit = MessageInitShape<typeof RowChangeSchema>;

export interface RowChangePage {
  /** Everything up to this index is in this page or an earlier one. */
  readonly index: number;
  readonly changes: RowChange[];
}

interface Session {
  changeset(): Uint8Array;
  close(): void;
}

const rowBytes = 64;
const chunkRows = 256;
/** Pruning goes this far below the bound, so that it happens once in a while and not with every entry. */
const pruneTo = 0.99;
const messageKinds = {
  insert: RowChangeKind.INSERT,
  update: RowChangeKind.UPDATE,
  delete: RowChangeKind.DELETE,
} as const;

/** The last changes of rows, in order, bounded by count and bytes; part of the replicated state. */
export class RowChanges {
  readonly #db: Database;
  readonly #meta: Meta;
  #capture = false;
  #count = 0;
  #bytes = 0;
  #cut = 0;

  constructor(db: Database, meta: Meta) {
    this.#db = db;
    this.#meta = meta;
  }

  /** Reads totals and whether changes are captured; call it when the tables were opened or replaced. */
  load(): void {
    const row = this.#db.get<{ n: number; b: number }>(
      `SELECT count(*) AS n, coalesce(sum(${rowBytes} + length(data)), 0) AS b FROM _uc_row_change`,
    )!;
    this.#count = row.n;
    this.#bytes = row.b;
    this.#cut = this.#meta.get("row_changes_cut");
    this.#capture = this.#meta.get("capture") !== 0;
  }

  get capturing(): boolean {
    return this.#capture;
  }

  /** Changes up to this index are not held. */
  get heldAfter(): number {
    return this.#cut;
  }

  /** Starts or ends capturing with the entry at `index`; changes before that were not seen. */
  setCapture(on: boolean, index: number): void {
    if (on === this.#capture) return;
    this.#capture = on;
    this.#meta.set("capture", on ? 1 : 0);
    this.#db.run("DELETE FROM _uc_row_change");
    this.#count = this.#bytes = 0;
    this.#cutAt(index);
  }

  #cutAt(index: number): void {
    this.#cut = index;
    this.#meta.set("row_changes_cut", index);
  }

  /** Notes what the statements change from here on; undefined while nothing is captured. */
  begin(): Session | undefined {
    if (!this.#capture) return undefined;
    return (this.#db.raw as unknown as { createSession(): Session }).createSession();
  }

  /** Keeps what the entry at `index` did, by its session and the tables that its statements wrote. */
  keep(session: Session, touched: Touched, index: number): void {
    const changes: RowChangeInit[] = [];
    if (touched.schema) changes.push({ kind: RowChangeKind.SCHEMA });
    const told = new Set<string>();
    // Rows of a table whose columns changed under way have no one shape.
    if (!touched.schema) {
      for (const row of decodeChangeset(session.changeset())) {
        told.add(row.table);
        changes.push(this.#rowChange(row));
      }
    }
    for (const table of [...touched.writes].sort()) {
      if (!told.has(table) && (touched.schema || !this.#hasKey(table)) && !table.startsWith("sqlite_")) {
        changes.push({ kind: RowChangeKind.TABLE, table });
      }
    }
    changes.forEach((change, seq) => {
      const data = toBinary(RowChangeSchema, create(RowChangeSchema, { ...change, index: BigInt(index) }));
      this.#db.run("INSERT INTO _uc_row_change VALUES(?,?,?,?)", index, seq, change.table ?? "", data);
      this.#count++;
      this.#bytes += rowBytes + data.length;
    });
    this.#prune();
  }

  #hasKey(table: string): boolean {
    return this.#db.get("SELECT 1 AS one FROM pragma_table_info(?) WHERE pk > 0", table) !== undefined;
  }

  #rowChange({ table, kind, keys, before, after }: ChangesetRow): RowChangeInit {
    const columns = this.#db.all<{ name: string }>("SELECT name FROM pragma_table_info(?) ORDER BY cid", table)
      .map((column) => column.name);
    const named = (values: readonly ChangedValue[]) =>
      values.flatMap((value, i) =>
        value === undefined ? [] : [{ column: columns[i] ?? `column ${i + 1}`, value: toValue(value) }]
      );
    // An update tells its key once; who applies it wants the key on both sides.
    const completed = kind === "update" ? after.map((value, i) => value ?? (keys[i] ? before[i] : undefined)) : after;
    return { kind: messageKinds[kind], table, columns, before: named(before), after: named(completed) };
  }

  /** The oldest first, a chunk at a time: what is held is never read as a whole. */
  #prune(): void {
    if (this.#count <= changesCountMax && this.#bytes <= changesBytesMax) return;
    const within = () => this.#count <= changesCountMax * pruneTo && this.#bytes <= changesBytesMax * pruneTo;
    let cut = this.#cut;
    while (!within()) {
      const rows = this.#db.all<{ idx: number; n: number; b: number }>(
        `SELECT idx, count(*) AS n, sum(${rowBytes} + length(data)) AS b FROM _uc_row_change
          WHERE idx > ? GROUP BY idx ORDER BY idx LIMIT ${chunkRows}`,
        cut,
      );
      assert(rows.length > 0, "Changes that are counted are held");
      for (const { idx, n, b } of rows) {
        if (within()) break;
        this.#count -= n;
        this.#bytes -= b;
        cut = idx;
      }
    }
    this.#db.run("DELETE FROM _uc_row_change WHERE idx <= ?", cut);
    this.#cutAt(cut);
  }

  /**
   * Changes of the tables (none: all) after index `after`, whole entries, about `bytesMax` at most.
   *
   * @throws {Fault} `not_captured` while nothing is captured, `compacted` when changes after `after` are not held.
   */
  read(tables: ReadonlySet<string>, after: number, newest: number, bytesMax: number): RowChangePage {
    if (!this.#capture) {
      throw fault("failed_precondition", "not_captured", "Cannot tell changes of rows: wanted the setting capture");
    }
    if (after < this.#cut) {
      throw fault(
        "out_of_range",
        "compacted",
        `Cannot tell changes after index ${after} as those up to ${this.#cut} are not held: read the tables and go on from there`,
        { metadata: { compacted_index: String(this.#cut) } },
      );
    }
    const changes: RowChange[] = [];
    let bytes = 0;
    for (let at = after, seq = Number.MAX_SAFE_INTEGER;;) {
      const rows = this.#db.all<{ idx: number; seq: number; tbl: string; data: Uint8Array }>(
        `SELECT idx, seq, tbl, data FROM _uc_row_change WHERE (idx, seq) > (?, ?) ORDER BY idx, seq LIMIT ${chunkRows}`,
        at,
        seq,
      );
      for (const row of rows) {
        if (tables.size > 0 && row.tbl !== "" && !tables.has(row.tbl)) continue;
        const last = Number(changes.at(-1)?.index ?? 0n);
        if (bytes >= bytesMax && row.idx !== last) return { index: last, changes };
        changes.push(fromBinary(RowChangeSchema, row.data));
        bytes += rowBytes + row.data.length;
      }
      if (rows.length < chunkRows) return { index: newest, changes };
      ({ idx: at, seq } = rows.at(-1)!);
    }
  }
}
