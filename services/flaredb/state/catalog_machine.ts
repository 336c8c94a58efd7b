import { create, type DescMessage, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { assert, Fault, fault } from "@ultracloud/base";
import {
  CreateDatabaseRequestSchema,
  CreateWebhookRequestSchema,
  type Database as DatabaseMessage,
  DatabaseSchema,
  DeleteDatabaseRequestSchema,
  DeleteWebhookRequestSchema,
  LoggedPlacedSchema,
  LoggedWebhookSchema,
  PlaceDatabaseRequestSchema,
  UpdateWebhookRequestSchema,
} from "@ultracloud/proto/flaredb/v1";
import type { AppliedEntry, GroupStateMachine } from "@ultracloud/replica";
import { type Database, openDatabase } from "@ultracloud/sqlite";
import { decodeEntry, type Entry, entryKinds } from "../domain/log_entry.ts";
import { DedupeTable } from "./dedupe.ts";
import { createBaseTables, Meta } from "./schema.ts";
import { contentOf, replaceContent } from "./store.ts";
import { WebhookTable } from "./webhooks.ts";

/** Group of the catalog; its voters come from configuration. */
export const systemGroup = 1;
/** Each database holds a connection and a Raft group in every process. */
export const databasesMax = 1_000;

/** What entries answer that answer something. */
const answerSchemas: ReadonlyMap<number, DescMessage> = new Map<number, DescMessage>([
  [entryKinds.createDatabase, DatabaseSchema],
  [entryKinds.placeDatabase, DatabaseSchema],
  [entryKinds.createWebhook, LoggedWebhookSchema],
]);
/** Entries that leave the databases as they are. */
const aboutWebhooks: ReadonlySet<number> = new Set([
  entryKinds.createWebhook,
  entryKinds.updateWebhook,
  entryKinds.deleteWebhook,
  entryKinds.reportDeliveries,
]);

/** A database as the catalog knows it. */
export interface CatalogRow {
  readonly name: string;
  /** Raft group; never used again after the database is deleted. */
  readonly group: number;
  readonly createMs: number;
  /** Members that hold it or are to hold it. */
  readonly replicas: readonly number[];
  /** Members that hold a copy for reading, or are to: they learn and never vote. */
  readonly learners: readonly number[];
  /** Its group has exactly these members. */
  readonly placed: boolean;
  /** It was placed anew since it was made: replicas that are new here join, they found nothing. */
  readonly moved: boolean;
}

interface StoredRow {
  readonly name: string;
  readonly group: number;
  readonly createMs: number;
  readonly replicas: string | null;
  readonly learners: string | null;
  readonly placed: number | null;
  readonly moved: number | null;
}

const selectRows = `SELECT name, d.grp AS "group", create_ms AS createMs, replicas, learners, placed, moved
  FROM databases d LEFT JOIN placement p ON p.grp = d.grp`;

/** Which databases there are: the replicated state of the system group. */
export class CatalogMachine implements GroupStateMachine, Disposable {
  readonly #path: string;
  readonly #members: readonly number[];
  readonly #onChange: () => void;
  #db!: Database;
  #meta!: Meta;
  #dedupe!: DedupeTable;
  #webhooks!: WebhookTable;
  #applied = 0;
  #timeMs = 0;

  constructor(
    options: {
      readonly path: string;
      /** All members. */
      readonly members: readonly number[];
      /** Told after every applied batch that was about databases. */ readonly onChange: () => void;
    },
  ) {
    this.#path = options.path;
    this.#members = options.members;
    this.#onChange = options.onChange;
    this.#open(openDatabase(options.path));
  }

  #open(db: Database): void {
    this.#db = db;
    createBaseTables(db);
    db.exec(`
      CREATE TABLE IF NOT EXISTS databases(name TEXT PRIMARY KEY, grp INTEGER NOT NULL UNIQUE, create_ms INTEGER NOT NULL)
        WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS placement(
        grp INTEGER PRIMARY KEY, replicas TEXT NOT NULL, placed INTEGER NOT NULL, moved INTEGER NOT NULL,
        learners TEXT NOT NULL DEFAULT '[]');
      CREATE TABLE IF NOT EXISTS deleted(grp INTEGER PRIMARY KEY, name TEXT NOT NULL);
    `);
    // Made before there were lasting learners.
    if (db.get("SELECT 1 AS one FROM pragma_table_info('placement') WHERE name='learners'") === undefined) {
      db.exec("ALTER TABLE placement ADD COLUMN learners TEXT NOT NULL DEFAULT '[]'");
    }
    this.#meta = new Meta(db);
    this.#webhooks = new WebhookTable(db, this.#meta);
    this.#dedupe = new DedupeTable(db);
    this.#dedupe.load();
    this.#applied = this.#meta.get("applied_index");
    this.#timeMs = this.#meta.get("time_ms");
  }

  /** All databases by name. */
  list(): CatalogRow[] {
    return this.#db.all<StoredRow>(`${selectRows} ORDER BY name`).map((row) => this.#row(row));
  }

  find(name: string): CatalogRow | undefined {
    const row = this.#db.get<StoredRow>(`${selectRows} WHERE name=?`, name);
    return row === undefined ? undefined : this.#row(row);
  }

  /** One made before placements were stored is everywhere. */
  #row({ name, group, createMs, replicas, learners, placed, moved }: StoredRow): CatalogRow {
    const held = replicas === null ? this.#members : JSON.parse(replicas) as number[];
    const learning = learners === null ? [] : JSON.parse(learners) as number[];
    return { name, group, createMs, replicas: held, learners: learning, placed: placed !== 0, moved: moved === 1 };
  }

  /** Databases that were deleted: what is left of them may be removed. */
  deleted(): { readonly name: string; readonly group: number }[] {
    return this.#db.all(`SELECT name, grp AS "group" FROM deleted ORDER BY grp`);
  }

  /** For reading. */
  get webhooks(): WebhookTable {
    return this.#webhooks;
  }

  appliedIndex(): number {
    return this.#applied;
  }

  applyBatch(entries: readonly AppliedEntry[]): unknown[] {
    let changed = false;
    const results = this.#db.transaction(() => {
      const results = entries.map((raw) => {
        assert(raw.index > this.#applied, "Entries are applied once and in order");
        const entry = decodeEntry(raw.data);
        changed ||= !aboutWebhooks.has(entry.kind);
        const result = this.#apply(entry);
        this.#applied = raw.index;
        return result;
      });
      this.#storePosition();
      return results;
    });
    if (changed) this.#onChange();
    return results;
  }

  #apply(entry: Entry): unknown {
    this.#timeMs = Math.max(this.#timeMs, entry.timeMs);
    const { dedupe } = entry;
    const schema = answerSchemas.get(entry.kind);
    if (dedupe !== undefined) {
      const verdict = this.#dedupe.check(dedupe, this.#timeMs);
      if (verdict.kind === "refused") return verdict.fault;
      if (verdict.kind === "known") return schema && fromBinary(schema, verdict.answer);
    }
    const result = this.#effect(entry);
    if (dedupe !== undefined && !(result instanceof Fault)) {
      const answer = result === undefined || schema === undefined ? new Uint8Array() : toBinary(schema, result);
      this.#dedupe.store(dedupe, answer, this.#timeMs);
    }
    return result;
  }

  #effect({ kind, payload, seed }: Entry): Message | Fault | undefined {
    switch (kind) {
      case entryKinds.createWebhook: {
        const made = this.#ofDatabase(
          fromBinary(CreateWebhookRequestSchema, payload).database,
          (group) => this.#webhooks.create(payload, group, seed, this.#timeMs),
        );
        return made instanceof Fault ? made : create(LoggedWebhookSchema, made);
      }
      case entryKinds.updateWebhook:
        return this.#ofDatabase(
          fromBinary(UpdateWebhookRequestSchema, payload).database,
          (group) => this.#webhooks.update(payload, group, this.#timeMs),
        );
      case entryKinds.deleteWebhook:
        return this.#ofDatabase(
          fromBinary(DeleteWebhookRequestSchema, payload).database,
          (group) => this.#webhooks.delete(payload, group),
        );
      case entryKinds.reportDeliveries:
        this.#webhooks.report(payload, this.#timeMs);
        return undefined;
      case entryKinds.createDatabase:
        return this.#create(payload);
      case entryKinds.placeDatabase:
        return this.#place(payload);
      case entryKinds.placed:
        return this.#placed(payload);
      case entryKinds.deleteDatabase:
        return this.#delete(payload);
      default:
        throw fault("data_loss", "entry_misplaced", `Cannot apply an entry of kind ${kind} to the catalog`);
    }
  }

  #ofDatabase<T>(name: string, effect: (group: number) => T): T | Fault {
    const row = this.find(name);
    if (row === undefined) return fault("not_found", "database_not_found", `Cannot find database ${name}`);
    return effect(row.group);
  }

  #place(payload: Uint8Array): DatabaseMessage | Fault {
    const { name, replicas, learners } = fromBinary(PlaceDatabaseRequestSchema, payload);
    const present = this.find(name);
    if (present === undefined) return fault("not_found", "database_not_found", `Cannot find database ${name}`);
    this.#db.run(
      "INSERT OR REPLACE INTO placement VALUES(?,?,0,1,?)",
      present.group,
      listOf(replicas),
      listOf(learners),
    );
    return toDatabase(this.find(name)!);
  }

  /** Counts only for what is still asked for. */
  #placed(payload: Uint8Array): undefined {
    const { group, replicas, learners } = fromBinary(LoggedPlacedSchema, payload);
    this.#db.run(
      "UPDATE placement SET placed=1 WHERE grp=? AND replicas=? AND learners=?",
      Number(group),
      listOf(replicas),
      listOf(learners),
    );
    return undefined;
  }

  #create(payload: Uint8Array): DatabaseMessage | Fault {
    const { name, ifNotExists, replicas, learners } = fromBinary(CreateDatabaseRequestSchema, payload);
    const present = this.find(name);
    if (present !== undefined) {
      if (ifNotExists) return toDatabase(present);
      return fault("already_exists", "database_exists", `Cannot create database ${name} as it exists`);
    }
    const { n } = this.#db.get<{ n: number }>("SELECT count(*) AS n FROM databases")!;
    if (n >= databasesMax) {
      return fault("resource_exhausted", "databases_full", `Cannot create database ${name} beside ${n} others`);
    }
    const group = Math.max(this.#meta.get("last_group"), systemGroup) + 1;
    this.#meta.set("last_group", group);
    this.#db.run("INSERT INTO databases VALUES(?,?,?)", name, group, this.#timeMs);
    if (replicas.length > 0) {
      // Learners are not founders: the leader adds them.
      const placed = learners.length === 0 ? 1 : 0;
      this.#db.run(
        "INSERT INTO placement VALUES(?,?,?,0,?)",
        group,
        listOf(replicas),
        placed,
        listOf(learners),
      );
    }
    return toDatabase(this.find(name)!);
  }

  #delete(payload: Uint8Array): Fault | undefined {
    const { name } = fromBinary(DeleteDatabaseRequestSchema, payload);
    const present = this.find(name);
    if (present === undefined) return fault("not_found", "database_not_found", `Cannot find database ${name}`);
    this.#db.run("DELETE FROM databases WHERE name=?", name);
    this.#db.run("DELETE FROM placement WHERE grp=?", present.group);
    this.#webhooks.deleteAll(present.group);
    this.#db.run("INSERT INTO deleted VALUES(?,?)", present.group, name);
    return undefined;
  }

  skipTo(index: number): void {
    this.#applied = Math.max(this.#applied, index);
  }

  checkpoint(): number {
    this.#storePosition();
    this.#db.checkpoint();
    return this.#applied;
  }

  snapshot(): Uint8Array {
    this.#storePosition();
    return contentOf(this.#db);
  }

  restore(index: number, bytes: Uint8Array): void {
    this.#db.close();
    this.#open(replaceContent(this.#path, bytes));
    this.#applied = index;
    this.#onChange();
  }

  #storePosition(): void {
    this.#meta.set("applied_index", this.#applied);
    this.#meta.set("time_ms", this.#timeMs);
  }

  close(): void {
    this.#db.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function toDatabase(row: CatalogRow): DatabaseMessage {
  return create(DatabaseSchema, {
    name: row.name,
    createTime: timestampFromMs(row.createMs),
    replicas: row.replicas.map(BigInt),
    learners: row.learners.map(BigInt),
    placed: row.placed,
  });
}

/** True for members that hold the database, or are to. */
export function holds({ replicas, learners }: CatalogRow, member: number): boolean {
  return replicas.includes(member) || learners.includes(member);
}

function listOf(members: readonly bigint[]): string {
  return JSON.stringify(members.map(Number));
}
