import { fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type Fault, fault } from "@ultracloud/base";
import {
  CreateWebhookRequestSchema,
  DeleteWebhookRequestSchema,
  type DeliveryReport,
  type LoggedWebhookSchema,
  ReportDeliveriesRequestSchema,
  UpdateWebhookRequestSchema,
} from "@ultracloud/proto/flaredb/v1";
import type { Database } from "@ultracloud/sqlite";
import { createHmac } from "node:crypto";
import { webhooksMax, webhooksPerDatabaseMax } from "../domain/bounds.ts";
import type { Meta } from "./schema.ts";

/** A webhook as the catalog has it; times are 0 and texts empty where there are none. */
export interface WebhookRow {
  /** Never used again. */
  readonly id: number;
  /** Of its database: one of the same name that is made later has none of its webhooks. */
  readonly group: number;
  readonly name: string;
  readonly url: string;
  readonly tables: readonly string[];
  readonly secret: string;
  readonly paused: boolean;
  readonly revision: number;
  readonly createMs: number;
  readonly updateMs: number;
  /** 0: where it begins is not known yet. */
  readonly position: number;
  readonly pending: number;
  readonly failures: number;
  readonly failingMs: number;
  /** 0 with failures: given up. */
  readonly nextTryMs: number;
  readonly lost: boolean;
  readonly reason: string;
  readonly deliveredMs: number;
}

type StoredRow = Omit<WebhookRow, "tables" | "paused" | "lost"> & {
  readonly tables: string;
  readonly paused: number;
  readonly lost: number;
};

const columns = `id, grp AS "group", name, url, tables, secret, paused, revision, create_ms AS createMs,
  update_ms AS updateMs, position, pending, failures, failing_ms AS failingMs, next_try_ms AS nextTryMs, lost, reason,
  delivered_ms AS deliveredMs`;
/** What failed before is over: the next try is now. */
const anew = "pending=0, failures=0, failing_ms=0, next_try_ms=0, lost=0, reason=''";
const reasonCharsMax = 500;

/** Webhooks of all databases, in the catalog: they are found in one place, and are in no backup of a database. */
export class WebhookTable {
  readonly #db: Database;
  readonly #meta: Meta;

  constructor(db: Database, meta: Meta) {
    this.#db = db;
    this.#meta = meta;
    db.exec(`
      CREATE TABLE IF NOT EXISTS webhooks(
        id INTEGER PRIMARY KEY, grp INTEGER NOT NULL, name TEXT NOT NULL, url TEXT NOT NULL, tables TEXT NOT NULL,
        secret TEXT NOT NULL, paused INTEGER NOT NULL DEFAULT 0, revision INTEGER NOT NULL, create_ms INTEGER NOT NULL,
        update_ms INTEGER NOT NULL, position INTEGER NOT NULL DEFAULT 0, pending INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0, failing_ms INTEGER NOT NULL DEFAULT 0,
        next_try_ms INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
        delivered_ms INTEGER NOT NULL DEFAULT 0, UNIQUE(grp, name));
    `);
  }

  /** Changes with whatever a deliverer has to follow. */
  get revision(): number {
    return this.#meta.get("webhooks_revision");
  }

  find(group: number, name: string): WebhookRow | undefined {
    const row = this.#db.get<StoredRow>(`SELECT ${columns} FROM webhooks WHERE grp=? AND name=?`, group, name);
    return row === undefined ? undefined : toRow(row);
  }

  list(group: number): WebhookRow[] {
    return this.#db.all<StoredRow>(`SELECT ${columns} FROM webhooks WHERE grp=? ORDER BY name`, group).map(toRow);
  }

  /** Those that are to be tried, with the names of their databases. */
  due(): (WebhookRow & { readonly database: string })[] {
    return this.#db.all<StoredRow & { database: string }>(
      `SELECT ${columns}, (SELECT d.name FROM databases d WHERE d.grp = webhooks.grp) AS database
        FROM webhooks WHERE NOT paused AND NOT lost AND (failures = 0 OR next_try_ms > 0) ORDER BY id`,
    ).map((row) => ({ ...toRow(row), database: row.database }));
  }

  /** A secret comes from the entry's random bytes when the caller brought none. */
  create(
    payload: Uint8Array,
    group: number,
    seed: Uint8Array,
    timeMs: number,
  ): MessageInitShape<typeof LoggedWebhookSchema> | Fault {
    const { database, name, url, tables, secret: given } = fromBinary(CreateWebhookRequestSchema, payload);
    if (this.find(group, name) !== undefined) {
      return fault("already_exists", "webhook_exists", `Cannot create webhook ${name} of ${database} as it exists`);
    }
    const own = this.#count("WHERE grp=?", group), all = this.#count("");
    if (own >= webhooksPerDatabaseMax || all >= webhooksMax) {
      const where = own >= webhooksPerDatabaseMax ? `${own} others of ${database}` : `${all} others in all databases`;
      return fault("resource_exhausted", "webhooks_full", `Cannot create webhook ${name} beside ${where}`);
    }
    const id = this.#meta.get("last_webhook") + 1;
    this.#meta.set("last_webhook", id);
    const made = given === "" ? createHmac("sha256", seed).update(`webhook ${id}`).digest("base64url") : "";
    this.#db.run(
      "INSERT INTO webhooks(id, grp, name, url, tables, secret, revision, create_ms, update_ms) VALUES(?,?,?,?,?,?,?,?,?)",
      id,
      group,
      name,
      url,
      JSON.stringify(tables),
      given === "" ? made : given,
      this.#changed(),
      timeMs,
      timeMs,
    );
    return { id: BigInt(id), secret: made };
  }

  update(payload: Uint8Array, group: number, timeMs: number): Fault | undefined {
    const { database, name, url, tables, paused, restart } = fromBinary(UpdateWebhookRequestSchema, payload);
    const present = this.find(group, name);
    if (present === undefined) return notFound(database, name);
    this.#db.run(
      `UPDATE webhooks SET url=?, tables=?, paused=?, position=?, revision=?, update_ms=?, ${anew} WHERE id=?`,
      url ?? present.url,
      JSON.stringify(tables?.names ?? present.tables),
      Number(paused ?? present.paused),
      restart ? 0 : present.position,
      this.#changed(),
      timeMs,
      present.id,
    );
    return undefined;
  }

  delete(payload: Uint8Array, group: number): Fault | undefined {
    const { database, name } = fromBinary(DeleteWebhookRequestSchema, payload);
    const present = this.find(group, name);
    if (present === undefined) return notFound(database, name);
    this.#db.run("DELETE FROM webhooks WHERE id=?", present.id);
    this.#changed();
    return undefined;
  }

  /** All of a database that is deleted. */
  deleteAll(group: number): void {
    if (this.#count("WHERE grp=?", group) === 0) return;
    this.#db.run("DELETE FROM webhooks WHERE grp=?", group);
    this.#changed();
  }

  /** What became of tries; a report about what has changed or gone meanwhile does nothing. */
  report(payload: Uint8Array, timeMs: number): void {
    for (const report of fromBinary(ReportDeliveriesRequestSchema, payload).reports) this.#report(report, timeMs);
  }

  #report({ id, revision, position, accepted, begin, failure }: DeliveryReport, timeMs: number): void {
    const stored = this.#db.get<StoredRow>(
      `SELECT ${columns} FROM webhooks WHERE id=? AND revision=?`,
      Number(id),
      Number(revision),
    );
    if (stored === undefined) return;
    if (begin) {
      if (stored.position !== 0) return;
      this.#db.run(
        "UPDATE webhooks SET position=?, revision=? WHERE id=?",
        Number(position),
        this.#changed(),
        stored.id,
      );
      return;
    }
    const at = Math.max(stored.position, Number(position));
    if (failure === undefined) {
      const set = accepted ? `, delivered_ms=${timeMs}, ${anew}` : "";
      this.#db.run(`UPDATE webhooks SET position=?${set} WHERE id=?`, at, stored.id);
      return;
    }
    const nextTryMs = failure.nextTryTime === undefined ? 0 : timestampMs(failure.nextTryTime);
    this.#db.run(
      `UPDATE webhooks SET position=?, pending=?, failures=failures+1, failing_ms=?, next_try_ms=?, lost=?, reason=?
        WHERE id=?`,
      at,
      Number(failure.pendingIndex),
      stored.failures === 0 ? timeMs : stored.failingMs,
      nextTryMs,
      Number(failure.lost),
      failure.reason.slice(0, reasonCharsMax),
      stored.id,
    );
  }

  #count(where: string, ...values: number[]): number {
    return this.#db.get<{ n: number }>(`SELECT count(*) AS n FROM webhooks ${where}`, ...values)!.n;
  }

  /** The next revision, of the table and of what changed. */
  #changed(): number {
    const next = this.revision + 1;
    this.#meta.set("webhooks_revision", next);
    return next;
  }
}

function toRow(row: StoredRow): WebhookRow {
  return { ...row, tables: JSON.parse(row.tables) as string[], paused: row.paused !== 0, lost: row.lost !== 0 };
}

function notFound(database: string, name: string): Fault {
  return fault("not_found", "webhook_not_found", `Cannot find webhook ${name} of database ${database}`);
}
