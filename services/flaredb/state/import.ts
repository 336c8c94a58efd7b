import { create } from "@bufbuild/protobuf";
import { type Fault, fault } from "@ultracloud/base";
import { type ImportRows, type ImportSchema, StatementSchema, type Value } from "@ultracloud/proto/flaredb/v1";
import type { Database, SqlParameter } from "@ultracloud/sqlite";
import type { Meta } from "./schema.ts";
import type { SqlEffects } from "./sql_effects.ts";
import { isStatementError } from "./sqlite_errors.ts";
import type { TableVersions } from "./table_versions.ts";

/** The store's own tables that a backup brings along; the others describe the log of the database they were in. */
export const importedTables: readonly string[] = ["_uc_kv", "_uc_quota", "_uc_table", "_uc_migration", "_uc_dedupe"];

const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

/** Fills a new database piece by piece; until it is finished nobody else may use it. */
export class Import {
  readonly #db: Database;
  readonly #meta: Meta;
  readonly #effects: SqlEffects;
  readonly #versions: TableVersions;
  #restoring = false;

  constructor(db: Database, meta: Meta, effects: SqlEffects, versions: TableVersions) {
    this.#db = db;
    this.#meta = meta;
    this.#effects = effects;
    this.#versions = versions;
  }

  load(): void {
    this.#restoring = this.#meta.get("restoring") !== 0;
  }

  /** Begun and not finished. */
  get restoring(): boolean {
    return this.#restoring;
  }

  /** Before every piece: the first one needs a database that nobody has used. */
  begin(): Fault | undefined {
    if (this.#restoring) return undefined;
    const { n } = this.#db.get<{ n: number }>(
      String.raw`SELECT (SELECT count(*) FROM _uc_kv) + (SELECT count(*) FROM _uc_table) + (SELECT count(*) FROM
        sqlite_schema WHERE name NOT LIKE '\_uc\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\') AS n`,
    )!;
    if (n > 0) {
      return fault("failed_precondition", "database_used", "Cannot restore into a database that holds something");
    }
    this.#restoring = true;
    this.#meta.set("restoring", 1);
    return undefined;
  }

  /** Makes tables and whatever else the statements say; they are checked as any caller's. */
  schema({ statements }: ImportSchema, index: number): Fault | undefined {
    const frozen = { timeMs: 0, seed: new Uint8Array(16) };
    const asked = statements.map((sql) => create(StatementSchema, { sql }));
    const results = this.#effects.apply(index, frozen, asked, {}, (i) => `schema[${i}]`);
    return Array.isArray(results) ? undefined : results;
  }

  rows({ table, columns, rows }: ImportRows): Fault | undefined {
    if (/^_uc_/i.test(table) && !importedTables.includes(table)) {
      return fault("invalid_argument", "backup_damaged", `Cannot restore rows of ${table}`);
    }
    if (table === "_uc_table") {
      for (const { values: [name, index] } of rows) {
        this.#versions.put(String(name?.kind.value), Number(index?.kind.value));
      }
      return undefined;
    }
    const insert = `INSERT INTO ${quoted(table)}(${columns.map(quoted).join(",")}) VALUES(${columns.map(() => "?")})`;
    try {
      this.#db.transaction(() => {
        for (const { values } of rows) {
          const bound = values.map(toParameter);
          // Rows of tables that count have made their own; what was stored is right.
          if (table === "sqlite_sequence") this.#db.run("DELETE FROM sqlite_sequence WHERE name = ?", bound[0]!);
          this.#db.run(insert, ...bound);
        }
      });
    } catch (error) {
      if (!isStatementError(error)) throw error;
      const why = error instanceof Error ? error.message : String(error);
      return fault("data_loss", "backup_damaged", `Cannot use the backup: rows of ${table} do not fit: ${why}`);
    }
    return undefined;
  }

  /** What was restored counts on from `index`, whose replicas are at `raftIndex`. Answers by how much they differ. */
  finish(index: number, raftIndex: number): number {
    const offset = Math.max(0, index - raftIndex);
    this.#restoring = false;
    this.#meta.set("restoring", 0);
    this.#meta.set("index_offset", offset);
    const newest = raftIndex + offset;
    // Watches and incremental backups cannot look behind it.
    this.#db.run("DELETE FROM _uc_change");
    for (const cut of ["changes_cut", "row_changes_cut", "archive_cut"]) this.#meta.set(cut, newest);
    return offset;
  }
}

function toParameter({ kind }: Value): SqlParameter {
  return kind.case === undefined || kind.case === "null" ? null : kind.value;
}
