import { type Fault, fault } from "@ultracloud/base";
import type { TableVersion } from "@ultracloud/proto/flaredb/v1";
import type { Database } from "@ultracloud/sqlite";
import type { Touched } from "./sql_runner.ts";

export interface TableVersionInit {
  readonly table: string;
  readonly index: bigint;
}

/** Stands for the schema, which no table is named as. */
const schemaName = "";

/**
 * The log index at which each table was last changed, and the schema: what optimistic transactions rest on. Part of the
 * replicated state, so that every replica refuses the same batches.
 */
export class TableVersions {
  readonly #db: Database;
  readonly #versions = new Map<string, number>();
  readonly #dirty = new Set<string>();

  constructor(db: Database) {
    this.#db = db;
  }

  /** Reads the versions; call it when the tables were opened or replaced. */
  load(): void {
    this.#versions.clear();
    this.#dirty.clear();
    for (const row of this.#db.all<{ name: string; idx: number }>("SELECT name, idx FROM _uc_table")) {
      this.#versions.set(row.name, row.idx);
    }
  }

  of(tables: ReadonlySet<string>): TableVersionInit[] {
    return [schemaName, ...tables].map((table) => ({ table, index: BigInt(this.#versions.get(table) ?? 0) }));
  }

  mark({ writes, schema }: Touched, index: number): void {
    for (const table of schema ? [schemaName, ...writes] : writes) {
      this.#versions.set(table, index);
      this.#dirty.add(table);
    }
  }

  /** Takes over what a backup says. */
  put(table: string, index: number): void {
    this.#versions.set(table, index);
    this.#dirty.add(table);
  }

  /** The refusal when one of the tables has changed since; undefined when none has. */
  firstChanged(expected: readonly TableVersion[]): Fault | undefined {
    const changed = expected.find(({ table, index }) => BigInt(this.#versions.get(table) ?? 0) !== index);
    if (changed === undefined) return undefined;
    const what = changed.table === schemaName ? "the schema" : `table ${changed.table.slice(0, 80)}`;
    const now = this.#versions.get(changed.table) ?? 0;
    return fault(
      "aborted",
      "read_changed",
      `Cannot run the batch as ${what} was changed at index ${now}: wanted ${changed.index}; read again`,
      { metadata: { table: changed.table, index: String(now) } },
    );
  }

  /** The schema was changed since the last `flush`. */
  get schemaChanged(): boolean {
    return this.#dirty.has(schemaName);
  }

  /** Writes what was marked, within the transaction of the entries that did it. */
  flush(): void {
    for (const table of this.#dirty) {
      this.#db.run(
        "INSERT INTO _uc_table VALUES(?,?) ON CONFLICT(name) DO UPDATE SET idx=excluded.idx",
        table,
        this.#versions.get(table)!,
      );
    }
    this.#dirty.clear();
  }
}
