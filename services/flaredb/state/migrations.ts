import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Fault, fault, invalidField } from "@ultracloud/base";
import {
  type AppliedMigrationSchema,
  type LoggedMigrations,
  type Migration,
  type Statement,
  StatementSchema,
} from "@ultracloud/proto/flaredb/v1";
import type { Database } from "@ultracloud/sqlite";
import { createHash } from "node:crypto";
import { migrationsMax, statementsMax } from "../domain/bounds.ts";
import type { Frozen, SqlEffects } from "./sql_effects.ts";

export type AppliedInit = MessageInitShape<typeof AppliedMigrationSchema>;

interface StoredMigration {
  readonly version: number;
  readonly name: string;
  readonly sha256: string;
  readonly time_ms: number;
  readonly idx: number;
}

/** Digest of a migration: what its name and statements say, whatever stands between them. */
export function migrationSha256({ name, statements }: Migration): string {
  return createHash("sha256").update(JSON.stringify([name, ...statements])).digest("hex");
}

/** All statements of the migrations in order, and where each stands in the request. */
export function statementsOf(
  migrations: readonly Migration[],
): { readonly statements: Statement[]; readonly field: (i: number) => string } {
  const fields: string[] = [];
  const statements = migrations.flatMap(({ version, statements }) =>
    statements.map((sql, i) => {
      fields.push(`migrations[${version}].statements[${i}]`);
      return create(StatementSchema, { sql });
    })
  );
  return { statements, field: (i) => fields[i]! };
}

/** The migrations that were applied to a database. */
export class Migrations {
  readonly #db: Database;
  readonly #effects: SqlEffects;

  constructor(db: Database, effects: SqlEffects) {
    this.#db = db;
    this.#effects = effects;
  }

  list(): AppliedInit[] {
    return this.#db.all<StoredMigration>("SELECT * FROM _uc_migration ORDER BY version").map((row) => ({
      version: BigInt(row.version),
      name: row.name,
      sha256: row.sha256,
      applyTime: timestampFromMs(row.time_ms),
      index: BigInt(row.idx),
    }));
  }

  /** Version of the newest one; 0 when none was applied. */
  version(): number {
    return this.#db.get<{ v: number | null }>("SELECT max(version) AS v FROM _uc_migration")?.v ?? 0;
  }

  /** Those of `known` that are yet to be applied; refused when what was applied differs from what is known. */
  missing(known: readonly Migration[]): Migration[] {
    const applied = this.list();
    if (known.length > migrationsMax) {
      throw invalidField("migrations", `Cannot take ${known.length} migrations: wanted at most ${migrationsMax}`);
    }
    known.forEach(({ version, name, statements }, i) => {
      if (version !== BigInt(i + 1)) {
        throw invalidField(`migrations[${i}].version`, `Cannot take version ${version} here: wanted ${i + 1}`);
      }
      if (name === "" || name.length > 200) {
        throw invalidField(`migrations[${i}].name`, "Cannot take a migration of that name: wanted 1 to 200 characters");
      }
      if (statements.length === 0 || statements.length > statementsMax) {
        throw invalidField(
          `migrations[${i}].statements`,
          `Cannot take ${statements.length} statements: wanted 1 to ${statementsMax}`,
        );
      }
    });
    applied.forEach(({ version, name, sha256 }, i) => {
      const given = known[i];
      if (given === undefined) {
        throw fault(
          "failed_precondition",
          "migration_unknown",
          `Cannot migrate as version ${version} (${name}) was applied and is not among those given`,
        );
      }
      if (migrationSha256(given) !== sha256) {
        throw fault(
          "failed_precondition",
          "migration_changed",
          `Cannot migrate as version ${version} (${name}) is not what was applied: wanted SHA-256 ${sha256}`,
        );
      }
    });
    return known.slice(applied.length);
  }

  /** Runs them in the entry at `index` if `current` is still the newest, all or nothing. */
  apply(index: number, frozen: Frozen, { current, migrations }: LoggedMigrations): unknown {
    const version = this.version();
    if (BigInt(version) !== current) {
      return fault(
        "aborted",
        "migration_raced",
        `Cannot migrate from version ${current} as the database is at ${version}: somebody else migrated meanwhile`,
      );
    }
    const { statements, field } = statementsOf(migrations);
    const results = this.#effects.apply(index, frozen, statements, {}, field);
    if (results instanceof Fault) return results;
    for (const migration of migrations) {
      this.#db.run(
        "INSERT INTO _uc_migration VALUES(?,?,?,?,?)",
        Number(migration.version),
        migration.name,
        migrationSha256(migration),
        frozen.timeMs,
        index,
      );
    }
    return { applied: this.list().slice(version), version: BigInt(this.version()) };
  }
}
