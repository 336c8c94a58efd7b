import { buildRouteMap } from "@stricli/core";
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { fault } from "@ultracloud/base";
import { BackupKind, BackupService, DatabaseSchema, DatabaseService, SqlService } from "@ultracloud/proto/flaredb/v1";
import { humanBytes } from "../frame/columns.ts";
import { command } from "../frame/command.ts";
import { databaseColumns } from "./_db_columns.ts";
import { databaseArg, flag, indexFlag, optionalText } from "./_db_shared.ts";
import { readBackupFiles, writeBackupFile } from "./db_backup_files.ts";
import { readDumpFile, writeDumpFile } from "./db_dump_file.ts";
import { kv } from "./db_kv.ts";
import { check, lead, maybeMembers, place, status } from "./db_members.ts";
import { readMigrations } from "./db_migrations.ts";
import { webhook } from "./db_webhook.ts";

function onOff(value: string, name: string): boolean {
  if (value === "on" || value === "off") return value === "on";
  throw fault("invalid_argument", "bad_setting", `Cannot set ${name} to ${JSON.stringify(value)}: wanted on or off`);
}

export const db = buildRouteMap({
  docs: { brief: "Databases of flaredb, as the operator" },
  routes: {
    list: command({
      brief: "List databases",
      async run({ session, list }) {
        const { databases } = await session.client(DatabaseService, "flaredb").listDatabases({});
        await list(DatabaseSchema, databases, databaseColumns);
      },
    }),
    create: command<{ replicas?: string; learners?: string }, [string]>({
      brief: "Create a database",
      args: [databaseArg],
      flags: {
        replicas: optionalText("Members that hold it, like 1,2,3"),
        learners: optionalText("Members that hold a copy for reading beside them, like 4,5"),
      },
      async run({ session, one }, { replicas, learners }, name) {
        const request = { name, replicas: maybeMembers(replicas), learners: maybeMembers(learners) };
        const made = await session.client(DatabaseService, "flaredb").createDatabase(request);
        await one(DatabaseSchema, made, databaseColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a database with everything in it",
      args: [databaseArg],
      async run({ session, confirm, io }, _flags, name) {
        confirm(`Delete the database ${name} and everything in it?`);
        await session.client(DatabaseService, "flaredb").deleteDatabase({ name });
        io.err(`Deleted database ${name}\n`);
      },
    }),
    set: command<{ capture?: string; archive?: string }, [string]>({
      brief: "Switch what a database keeps beside its content",
      args: [databaseArg],
      flags: {
        capture: optionalText("on or off: row changes, for `uc db changes`"),
        archive: optionalText("on or off: log entries, for incremental backups"),
      },
      async run({ session, one }, { capture, archive }, name) {
        const client = session.client(DatabaseService, "flaredb");
        const { settings } = await client.getDatabase({ name });
        const wanted = {
          capture: capture === undefined ? settings?.capture ?? false : onOff(capture, "capture"),
          archive: archive === undefined ? settings?.archive ?? false : onOff(archive, "archive"),
        };
        await one(DatabaseSchema, await client.updateDatabase({ name, settings: wanted }), databaseColumns);
      },
    }),
    place,
    check,
    status,
    lead,
    backup: command<{ after?: bigint }, [string, string]>({
      brief: "Write a backup to a file while the database goes on",
      args: [databaseArg, { brief: "File to write", placeholder: "file" }],
      flags: { after: indexFlag("Incremental: what came after this index, that of the backup before") },
      async run({ session, io }, { after }, database, file) {
        const parts = session.client(BackupService, "flaredb").backup({ database, afterIndex: after ?? 0n });
        const { bytes, index } = await writeBackupFile(file, parts);
        io.err(`Wrote ${file}: ${humanBytes(bytes)} up to index ${index}\n`);
      },
    }),
    backups: command<Record<never, never>, [string]>({
      brief: "List the backups that were taken of a database",
      args: [databaseArg],
      async run({ session, items }, _flags, database) {
        const { backups } = await session.client(BackupService, "flaredb").listBackups({ database });
        const rows = backups.map(({ kind, index, bytes, time }) => ({
          kind: BackupKind[kind].toLowerCase(),
          index: String(index),
          size: humanBytes(bytes),
          time: time === undefined ? "" : timestampDate(time).toISOString(),
        }));
        await items(rows.map((value) => ({ value, json: value, name: value.index })), [
          { name: "time", get: (b) => b.time },
          { name: "kind", get: (b) => b.kind },
          { name: "index", get: (b) => b.index },
          { name: "size", get: (b) => b.size },
        ]);
      },
    }),
    restore: command<{ toIndex?: bigint; toTime?: string; verify: boolean }, [string, ...string[]]>({
      brief: "Fill a new database from a full backup and incremental ones behind it",
      args: [{ brief: "New database", placeholder: "database" }],
      variadic: { brief: "Backup files in order", placeholder: "file", minimum: 1 },
      flags: {
        toIndex: indexFlag("Leave out what came after this index"),
        toTime: optionalText("Leave out what came after this time, like 2026-01-31T10:20:30Z"),
        verify: flag("Check everything, make nothing"),
      },
      async run({ session, io }, { toIndex, toTime, verify }, database, ...files) {
        const time = toTime === undefined ? undefined : new Date(toTime);
        if (time !== undefined && Number.isNaN(time.getTime())) {
          throw fault("invalid_argument", "bad_time", `Cannot read ${JSON.stringify(toTime)} as a time`);
        }
        const answer = await session.client(BackupService, "flaredb").restore(readBackupFiles({
          database,
          toIndex: toIndex ?? 0n,
          ...(time === undefined ? {} : { toTime: timestampFromDate(time) }),
          verifyOnly: verify,
        }, files));
        for (const { table, rows } of answer.tables) io.out(`${table}  ${rows} rows\n`);
        io.err(`${verify ? "Checked" : `Restored ${database}`} up to index ${answer.index}: ${answer.keys} keys\n`);
      },
    }),
    dump: command<Record<never, never>, [string, string]>({
      brief: "Write tables and keys to a text of SQL statements while the database goes on",
      details:
        "The text can be read, changed and loaded elsewhere. Stored answers, recent changes and the archive stay " +
        "behind; a row of more than 750 000 characters is for `uc db backup`.",
      args: [databaseArg, { brief: "File to write", placeholder: "file" }],
      async run({ session, io }, _flags, database, file) {
        const { summary } = await writeDumpFile(file, session.client(BackupService, "flaredb").dump({ database }));
        io.err(`Wrote ${file}: ${summary}\n`);
      },
    }),
    load: command<Record<never, never>, [string, string]>({
      brief: "Fill a new database from a dump, whole or not at all",
      args: [{ brief: "New database", placeholder: "database" }, { brief: "File of a dump", placeholder: "file" }],
      async run({ session, io }, _flags, database, file) {
        const answer = await session.client(BackupService, "flaredb").load(readDumpFile(database, file));
        for (const { table, rows } of answer.tables) io.out(`${table}  ${rows} rows\n`);
        io.err(`Loaded ${database}: ${answer.keys} keys\n`);
      },
    }),
    migrate: command<{ allowDestructive: boolean }, [string, string]>({
      brief: "Apply the migrations of a folder that are missing; --dry-run rehearses them",
      details: "Files are named 0001_what_it_does.sql, in order and without gaps. What was applied must not change.",
      args: [databaseArg, { brief: "Folder", placeholder: "folder" }],
      flags: { allowDestructive: flag("Let statements run that lose data; a young backup is needed") },
      dryRunOnServer: true,
      async run({ session, io, flags: common }, { allowDestructive }, database, folder) {
        const migrations = await readMigrations(folder);
        const request = { database, migrations, dryRun: common.dryRun, allowDestructive };
        const answer = await session.client(SqlService, "flaredb").migrate(request);
        for (const { version, name } of answer.applied) {
          io.out(`${common.dryRun ? "would apply" : "applied"} ${version} ${name}\n`);
        }
        for (const sql of answer.destructive) io.err(`loses data or names: ${sql}\n`);
        io.err(`${database} is at version ${answer.version}\n`);
      },
    }),
    changes: command<{ after?: bigint }, [string, ...string[]]>({
      brief: "Print row changes as they happen, one JSON object to a line; `index` resumes",
      args: [databaseArg],
      variadic: { brief: "Tables; all without", placeholder: "table" },
      flags: { after: indexFlag("Changes after this index") },
      async run({ session, io }, { after }, database, ...tables) {
        const request = { database, tables, afterIndex: after ?? 0n };
        for await (const { changes } of session.client(SqlService, "flaredb").changes(request)) {
          for (const change of changes) {
            io.out(
              JSON.stringify(
                change,
                (key, v) => key.startsWith("$") ? undefined : typeof v === "bigint" ? String(v) : v,
              ) + "\n",
            );
          }
        }
      },
    }),
    kv,
    webhook,
    tables: command<Record<never, never>, [string]>({
      brief: "List the tables of a database",
      args: [databaseArg],
      async run({ session, items }, _flags, database) {
        const { tables } = await session.client(SqlService, "flaredb").listTables({ database });
        const rows = tables.map((t) => ({
          name: t.name,
          rows: String(t.rowCount),
          columns: t.columns.map((c) => `${c.name} ${c.type}`.trim()).join(", "),
          indexes: t.indexDetails.map((index) => `${index.name}(${index.columns})`).join(", "),
        }));
        await items(rows.map((value) => ({ value, json: value, name: value.name })), [
          { name: "name", get: (t) => t.name },
          { name: "rows", get: (t) => t.rows },
          { name: "columns", get: (t) => t.columns },
          { name: "indexes", get: (t) => t.indexes, wide: true },
        ]);
      },
    }),
  },
});
