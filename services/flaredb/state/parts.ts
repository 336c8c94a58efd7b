import type { Database } from "@ultracloud/sqlite";
import { Archive } from "./archive.ts";
import { BackupRecords } from "./backup_records.ts";
import { ChangeLog } from "./changes.ts";
import { DedupeTable } from "./dedupe.ts";
import { FrozenInputs, installFrozenFunctions } from "./frozen_functions.ts";
import { Import } from "./import.ts";
import { KvTable } from "./kv_table.ts";
import { Migrations } from "./migrations.ts";
import { Quotas } from "./quotas.ts";
import { ReplicaCheck } from "./replica_check.ts";
import { RowChanges } from "./row_changes.ts";
import { createTables, limitConnection, Meta } from "./schema.ts";
import { SqlEffects } from "./sql_effects.ts";
import { SqlRunner } from "./sql_runner.ts";
import { TableVersions } from "./table_versions.ts";

/** What the state of a database is made of, on one connection. */
export interface Parts {
  readonly meta: Meta;
  readonly kv: KvTable;
  readonly quotas: Quotas;
  readonly changes: ChangeLog;
  readonly dedupe: DedupeTable;
  readonly versions: TableVersions;
  readonly sql: SqlRunner;
  readonly effects: SqlEffects;
  readonly rowChanges: RowChanges;
  readonly archive: Archive;
  readonly migrations: Migrations;
  readonly backups: BackupRecords;
  readonly importer: Import;
  readonly check: ReplicaCheck;
  /** Reads what is kept in memory from the tables; `index` is that of the newest entry. */
  load(index: number): void;
}

/** Makes the tables that are missing, and everything that works on them. */
export function openParts(db: Database): Parts {
  limitConnection(db);
  createTables(db);
  const inputs = new FrozenInputs();
  installFrozenFunctions(db, inputs);
  const meta = new Meta(db);
  const changes = new ChangeLog(db, meta);
  const quotas = new Quotas(db);
  const dedupe = new DedupeTable(db);
  const versions = new TableVersions(db);
  const sql = new SqlRunner(db, inputs);
  const rowChanges = new RowChanges(db, meta);
  const archive = new Archive(db, meta);
  const effects = new SqlEffects({ db, sql, inputs, versions, rowChanges });
  const check = new ReplicaCheck(db, meta);
  const importer = new Import(db, meta, effects, versions);
  return {
    meta,
    kv: new KvTable(db, changes, quotas),
    quotas,
    changes,
    dedupe,
    versions,
    sql,
    effects,
    rowChanges,
    archive,
    migrations: new Migrations(db, effects),
    backups: new BackupRecords(db),
    importer,
    check,
    load(index) {
      changes.load(index);
      for (const part of [dedupe, quotas, versions, rowChanges, archive, importer, check]) part.load();
    },
  };
}
