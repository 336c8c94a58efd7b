import { create } from "@bufbuild/protobuf";
import type { Clock } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { BackupKind, BackupRecordSchema, BackupService } from "@ultracloud/proto/flaredb/v1";
import { type AuthzTable, bind, type BoundService } from "@ultracloud/rpc";
import { databaseScope } from "./database_service.ts";
import { fullBackup, incrementalBackup } from "./backup.ts";
import { type Databases, unkeyed } from "./databases.ts";
import { dumpDatabase } from "./dump.ts";
import { entryKinds } from "./domain/log_entry.ts";
import { checkIndex } from "./domain/names.ts";
import { loadInto } from "./load.ts";
import { restoreInto } from "./restore.ts";
import { receiveBackups } from "./restore_files.ts";

export interface BackupDeps {
  readonly databases: Databases;
  readonly clock: Clock;
  readonly log: Logger;
  /** Directory for copies under way; what an earlier process left there is of no use. */
  readonly stateDir: string;
}

/** Takes backups of databases while they go on, and fills new ones from them. */
export function backupService({ databases, clock, log, stateDir }: BackupDeps): BoundService {
  const dir = `${stateDir}/backups`;
  try {
    Deno.removeSync(dir, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  Deno.mkdirSync(dir, { recursive: true, mode: 0o700 });
  let copies = 0;
  const scope = (request: { readonly database: string }) => databaseScope(request.database);

  return bind(
    BackupService,
    {
      async *backup({ database, afterIndex }, context) {
        const after = checkIndex(afterIndex, "after_index");
        const opened = await databases.find(database);
        await opened.group.readBarrier();
        const path = `${dir}/${++copies}.db`;
        const parts = after === 0
          ? fullBackup({ database, path }, opened.machine, context.signal)
          : incrementalBackup({ database, after }, opened.machine, context.signal);
        for await (const part of parts) {
          yield part;
          if (part.part.case !== "footer") continue;
          const { sha256, bytes } = part.part.value;
          const kind = after === 0 ? BackupKind.FULL : BackupKind.INCREMENTAL;
          const record = create(BackupRecordSchema, { kind, index: BigInt(opened.machine.index), bytes, sha256 });
          // A migration that loses data rests on this record, so only a leader's word counts.
          await databases.propose(opened, entryKinds.recordBackup, BackupRecordSchema, record, unkeyed(context));
        }
      },
      async listBackups({ database }) {
        const opened = await databases.find(database);
        await opened.group.readBarrier();
        return { backups: opened.machine.parts.backups.list() };
      },
      async restore(requests, context) {
        await using received = await receiveBackups({ dir, id: ++copies }, requests);
        return await restoreInto(received, { databases, clock, log }, context);
      },
      async *dump({ database }, context) {
        const opened = await databases.find(database);
        await opened.group.readBarrier();
        yield* dumpDatabase({ database, path: `${dir}/${++copies}.db` }, opened.machine, context.signal);
      },
      load: (requests, context) => loadInto(requests, { databases, clock, log }, context),
    },
    {
      backup: { resource: "backup", action: "create", scope },
      listBackups: { resource: "backup", action: "list", scope },
      // The target is not known before the first message has come.
      restore: { resource: "backup", action: "restore", scope: () => "" },
      dump: { resource: "backup", action: "create", scope },
      load: { resource: "backup", action: "restore", scope: () => "" },
    } satisfies AuthzTable<typeof BackupService>,
  );
}
