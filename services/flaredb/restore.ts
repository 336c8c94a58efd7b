import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { type Clock, fault } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import {
  CreateDatabaseRequestSchema,
  DeleteDatabaseRequestSchema,
  LoggedImportSchema,
  type RestoreResponseSchema,
  type RestoreTarget,
} from "@ultracloud/proto/flaredb/v1";
import type { CallContext } from "@ultracloud/rpc";
import { openDatabase } from "@ultracloud/sqlite";
import { positionOf } from "./backup.ts";
import { type Databases, type OpenDatabase, unkeyed } from "./databases.ts";
import { decodeEntry, entryKinds } from "./domain/log_entry.ts";
import type { ReceivedBackups } from "./restore_files.ts";
import { countTables, readPieces } from "./restore_pieces.ts";
import { readEntries } from "./restore_entries.ts";

export interface RestoreDeps {
  readonly databases: Databases;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * Fills a new database, piece by piece through its own log, so that every replica gets it. Before that everything is
 * checked that can be.
 */
export async function restoreInto(
  received: ReceivedBackups,
  deps: RestoreDeps,
  context: CallContext,
): Promise<MessageInitShape<typeof RestoreResponseSchema>> {
  const { target } = received;
  const reached = checkContent(received);
  if (target.verifyOnly) return reached;
  return await makeWhole(target.database, deps, context, (opened) => fill(received, deps, opened, context));
}

/** Makes a database and fills it; what fails half way leaves nothing: the database is deleted again. */
export async function makeWhole<T>(
  name: string,
  { databases, log }: RestoreDeps,
  context: CallContext,
  fillIt: (opened: OpenDatabase) => Promise<T>,
): Promise<T> {
  const proposer = unkeyed(context);
  const { createDatabase, deleteDatabase } = entryKinds;
  const wanted = create(CreateDatabaseRequestSchema, { name });
  await databases.changeCatalog(createDatabase, CreateDatabaseRequestSchema, wanted, proposer);
  try {
    await databases.waitForLeader(name, context.signal);
    return await fillIt(await databases.findAny(name));
  } catch (error) {
    log.warn("cannot restore", { database: name, error });
    const gone = create(DeleteDatabaseRequestSchema, { name });
    await databases.changeCatalog(deleteDatabase, DeleteDatabaseRequestSchema, gone, proposer).catch((failure) =>
      log.error("cannot delete what was restored half way", { database: name, error: failure })
    );
    throw error;
  }
}

/** Where the restore would end, with what; refuses a copy that SQLite finds fault with. */
function checkContent({ target, backups }: ReceivedBackups): MessageInitShape<typeof RestoreResponseSchema> {
  const [base, ...more] = backups;
  let db;
  try {
    db = openDatabase(base!.path, { readOnly: true });
  } catch (cause) {
    throw fault("data_loss", "backup_damaged", "Cannot use the backup: it is no database", { cause });
  }
  using copy = db;
  const problems = copy.integrityCheck();
  if (problems.length > 0) {
    throw fault("data_loss", "backup_damaged", `Cannot use the backup: ${problems.slice(0, 3).join("; ")}`);
  }
  let { index, timeMs } = positionOf(copy);
  if (BigInt(index) !== base!.header.index) {
    throw fault(
      "data_loss",
      "backup_damaged",
      `Cannot use the backup: it holds index ${index}, wanted ${base!.header.index}`,
    );
  }
  if (!within(target, index, timeMs)) {
    throw fault(
      "out_of_range",
      "backup_too_new",
      `Cannot restore to that point as the full backup is of index ${index}: wanted an older one`,
    );
  }
  for (const backup of more) {
    for (const entry of readEntries(backup.path)) {
      const at = Math.max(timeMs, decodeEntry(entry.data).timeMs);
      if (!within(target, Number(entry.index), at)) break;
      index = Number(entry.index);
      timeMs = at;
    }
  }
  const last = backups.at(-1)!.header;
  // Entries that are not archived count too, when all was taken.
  if (within(target, Number(last.index), timestampMs(last.time!))) index = Math.max(index, Number(last.index));
  return { index: BigInt(index), time: timestampFromMs(timeMs), ...countTables(copy) };
}

function within({ toIndex, toTime }: RestoreTarget, index: number, timeMs: number): boolean {
  return (toIndex === 0n || BigInt(index) <= toIndex) && (toTime === undefined || timeMs <= timestampMs(toTime));
}

async function fill(
  received: ReceivedBackups,
  { databases }: RestoreDeps,
  opened: OpenDatabase,
  context: CallContext,
): Promise<MessageInitShape<typeof RestoreResponseSchema>> {
  const { target, backups } = received;
  const [base, ...more] = backups;
  const propose = (part: MessageInitShape<typeof LoggedImportSchema>["part"]) =>
    databases.propose(
      opened,
      entryKinds.import,
      LoggedImportSchema,
      create(LoggedImportSchema, { part: part! }),
      unkeyed(context),
    );
  let { index, timeMs } = await (async () => {
    using copy = openDatabase(base!.path, { readOnly: true });
    for (const piece of readPieces(copy)) {
      context.signal.throwIfAborted();
      await propose(piece);
    }
    return positionOf(copy);
  })();
  for (const backup of more) {
    for (const entry of readEntries(backup.path)) {
      const at = Math.max(timeMs, decodeEntry(entry.data).timeMs);
      if (!within(target, Number(entry.index), at)) break;
      await propose({ case: "entry", value: entry });
      index = Number(entry.index);
      timeMs = at;
    }
  }
  const last = backups.at(-1)!.header;
  if (within(target, Number(last.index), timestampMs(last.time!))) index = Math.max(index, Number(last.index));
  await propose({ case: "finish", value: { index: BigInt(index), timeMs: BigInt(timeMs) } });
  return { index: BigInt(index), time: timestampFromMs(timeMs), ...countTables(opened.machine.db) };
}
