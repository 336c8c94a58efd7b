import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Clock, fault, type Rng } from "@ultracloud/base";
import {
  LoggedMigrationsSchema,
  type MigrateRequest,
  type MigrateResponse,
  type MigrateResponseSchema,
} from "@ultracloud/proto/flaredb/v1";
import type { CallContext } from "@ultracloud/rpc";
import type { Databases } from "./databases.ts";
import { destruction } from "./domain/destructive.ts";
import { entryKinds } from "./domain/log_entry.ts";
import type { SqlOptions } from "./sql_service.ts";
import { migrationSha256, statementsOf } from "./state/migrations.ts";

/**
 * Brings the schema of a database to the newest migration given, or says what that would do. What was applied must be
 * among those given, unchanged; what loses data needs leave and a young backup.
 */
export async function migrate(
  options: SqlOptions,
  deps: { readonly databases: Databases; readonly clock: Clock; readonly rng: Rng },
  { database, migrations, dryRun, allowDestructive }: MigrateRequest,
  context: CallContext,
): Promise<MessageInitShape<typeof MigrateResponseSchema>> {
  const { databases, clock, rng } = deps;
  const opened = await databases.find(database);
  await opened.group.readBarrier();
  const { machine } = opened;
  const { sql, migrations: applied, backups } = machine.parts;
  const missing = applied.missing(migrations);
  const current = applied.version();
  if (missing.length === 0) return { applied: [], version: BigInt(current), destructive: [] };
  const { statements, field } = statementsOf(missing);
  statements.forEach((statement, i) => sql.check(statement, "write", field(i)));
  const destructive = statements.filter((statement) => destruction(statement.sql) !== undefined).map((s) => s.sql);
  // A rehearsal tells what would fail or take too long, before anything is in the log.
  const frozen = { timeMs: clock.nowMs(), seed: rng.fill(new Uint8Array(16)) };
  machine.rehearse(statements, frozen, () => {}, { field, costRowsMax: options.costRowsMax });
  const would = missing.map((m) => ({ version: m.version, name: m.name, sha256: migrationSha256(m) }));
  if (dryRun) return { applied: would, version: BigInt(current), destructive };
  if (destructive.length > 0) {
    const loses = `it runs ${destruction(destructive[0]!)}`;
    if (!allowDestructive) {
      throw fault(
        "failed_precondition",
        "migration_destructive",
        `Cannot migrate as ${loses}: wanted allow_destructive`,
      );
    }
    const ageMs = clock.nowMs() - (backups.newestFullMs() ?? -Infinity);
    if (ageMs > options.backupAgeMsMax) {
      throw fault(
        "failed_precondition",
        "backup_needed",
        `Cannot migrate as ${loses} and the newest full backup is ${
          ageMs === Infinity ? "missing" : `${Math.round(ageMs / 1000)} s old`
        }: wanted one at most ${Math.round(options.backupAgeMsMax / 1000)} s old`,
      );
    }
  }
  const request = create(LoggedMigrationsSchema, { current: BigInt(current), migrations: missing });
  const { migrate: kind } = entryKinds;
  const answer = await databases.propose(opened, kind, LoggedMigrationsSchema, request, context);
  return { ...answer as MigrateResponse, destructive };
}
