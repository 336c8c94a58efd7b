import { fault } from "@ultracloud/base";
import type { Schema } from "./schema.ts";
import { applyDifference, type Value } from "./values.ts";

/** Columns of a row; those asked for and no others, defaults filled in. */
export type Row = Readonly<Record<string, Value>>;
/** Rows by uuid. */
export type TableRows = ReadonlyMap<string, Row>;

interface RowUpdate {
  readonly initial?: Row;
  readonly insert?: Row;
  readonly modify?: Row | null;
  readonly delete?: null;
}

/** A copy of the monitored columns, kept by the updates of `monitor_cond_since`. */
export class Replica {
  readonly #tables = new Map<string, Map<string, Row>>();
  readonly #columns: Readonly<Record<string, readonly string[]>>;

  constructor(columns: Readonly<Record<string, readonly string[]>>) {
    this.#columns = columns;
    this.clear();
  }

  rows(table: string): TableRows {
    const rows = this.#tables.get(table);
    if (!rows) throw new TypeError(`Cannot read ${table}: it is not monitored`);
    return rows;
  }

  get(table: string, uuid: string): Row | undefined {
    return this.rows(table).get(uuid);
  }

  /** Forgets everything, before a copy that is no continuation. */
  clear(): void {
    for (const table of Object.keys(this.#columns)) this.#tables.set(table, new Map());
  }

  /** Applies one update of the update2 notation. What does not fit what is held is data_loss: copy anew then. */
  apply(updates: unknown, schema: Schema): void {
    for (const [table, rows] of Object.entries((updates ?? {}) as Record<string, Record<string, RowUpdate>>)) {
      const held = this.#tables.get(table);
      if (!held) continue;
      for (const [uuid, update] of Object.entries(rows)) this.#applyRow(table, held, uuid, update, schema);
    }
  }

  #applyRow(table: string, held: Map<string, Row>, uuid: string, update: RowUpdate, schema: Schema): void {
    const fresh = update.initial ?? update.insert;
    if (fresh) {
      held.set(uuid, this.#filled(table, fresh, schema));
    } else if ("delete" in update) {
      if (!held.delete(uuid)) throw misfit(table, uuid);
    } else if (update.modify) {
      const old = held.get(uuid);
      if (!old) throw misfit(table, uuid);
      const next: Record<string, Value> = { ...old };
      for (const [column, value] of Object.entries(update.modify)) {
        const kind = schema.tables[table]?.columns[column]?.kind;
        next[column] = kind === "set" || kind === "map" ? applyDifference(old[column] ?? ["set", []], value) : value;
      }
      held.set(uuid, next);
    }
  }

  /** Absent columns hold their default. */
  #filled(table: string, row: Row, schema: Schema): Row {
    const filled: Record<string, Value> = {};
    for (const column of this.#columns[table] ?? []) {
      filled[column] = row[column] ?? schema.tables[table]!.columns[column]!.default;
    }
    return filled;
  }
}

function misfit(table: string, uuid: string) {
  return fault(
    "data_loss",
    "ovsdb_replica_diverged",
    `Cannot apply an update to row ${uuid} of ${table} as it is absent`,
  );
}
