import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { fault, invalidField } from "@ultracloud/base";
import {
  CreateWebhookRequestSchema,
  DeleteWebhookRequestSchema,
  type LoggedWebhook,
  ReportDeliveriesRequestSchema,
  UpdateWebhookRequestSchema,
  type WebhookSchema,
  WebhookService,
  WebhookState,
} from "@ultracloud/proto/flaredb/v1";
import { bind, type BoundService, type CallContext } from "@ultracloud/rpc";
import { databaseScope } from "./database_service.ts";
import type { Databases, OpenDatabase } from "./databases.ts";
import { unkeyed } from "./databases.ts";
import { entryKinds } from "./domain/log_entry.ts";
import {
  checkWebhookName,
  checkWebhookSecret,
  checkWebhookTables,
  checkWebhookUrl,
  webhookNotFound,
  type WebhookPolicy,
} from "./domain/webhook_requests.ts";
import type { WebhookRow } from "./state/webhooks.ts";

/** Fewer failures in a row are what receivers have when they restart. */
const failingFrom = 5;

/** Webhooks of a database, for whoever may have its rows. The fetcher delivers; this only keeps what is wanted. */
export function webhookService(policy: WebhookPolicy, { databases }: { readonly databases: Databases }): BoundService {
  /** Opened here, with the newest catalog and content: the state of a webhook is judged by both. */
  const current = async (database: string): Promise<OpenDatabase> => {
    const opened = await databases.find(database);
    await Promise.all([databases.system.readBarrier(), opened.group.readBarrier()]);
    return opened;
  };
  const found = ({ row }: OpenDatabase, name: string): WebhookRow => {
    const webhook = databases.catalog.webhooks.find(row.group, name);
    if (webhook === undefined) throw webhookNotFound(row.name, name);
    return webhook;
  };
  const mustCapture = ({ row, machine }: OpenDatabase) => {
    if (machine.parts.rowChanges.capturing) return;
    throw fault(
      "failed_precondition",
      "not_captured",
      `Cannot follow changes of rows in ${row.name}: wanted its setting capture`,
    );
  };
  /**
   * Says from where a new or restarted webhook goes, unless that is known: whatever is committed once the call has
   * answered is behind it. A step of its own, so that a repeated request is the same request; where it is missed by a
   * crash, the deliverer takes it.
   */
  const begun = async (opened: OpenDatabase, name: string, context: CallContext): Promise<WebhookRow> => {
    const row = found(opened, name);
    if (row.position !== 0) return row;
    await opened.group.readBarrier();
    const request = create(ReportDeliveriesRequestSchema, {
      reports: [{
        id: BigInt(row.id),
        revision: BigInt(row.revision),
        position: BigInt(opened.machine.index),
        begin: true,
      }],
    });
    const { reportDeliveries: kind } = entryKinds;
    await databases.changeCatalog(kind, ReportDeliveriesRequestSchema, request, unkeyed(context));
    await databases.system.readBarrier();
    return found(opened, name);
  };

  return bind(WebhookService, {
    async createWebhook(request, context) {
      checkWebhookName(request.name);
      checkWebhookUrl(request.url, policy);
      checkWebhookTables(request.tables);
      checkWebhookSecret(request.secret);
      const opened = await current(request.database);
      mustCapture(opened);
      const { createWebhook: kind } = entryKinds;
      const made = await databases.changeCatalog(kind, CreateWebhookRequestSchema, request, context) as LoggedWebhook;
      await databases.system.readBarrier();
      return { webhook: toMessage(await begun(opened, request.name, context), opened), secret: made.secret };
    },
    async getWebhook({ database, name }) {
      checkWebhookName(name);
      const opened = await current(database);
      return toMessage(found(opened, name), opened);
    },
    async listWebhooks({ database }) {
      const opened = await current(database);
      return { webhooks: databases.catalog.webhooks.list(opened.row.group).map((row) => toMessage(row, opened)) };
    },
    async updateWebhook(request, context) {
      const { name, url, tables, paused, restart } = request;
      checkWebhookName(name);
      if (url === undefined && tables === undefined && paused === undefined && !restart) {
        throw invalidField("name", `Cannot change nothing of webhook ${name}: wanted url, tables, paused or restart`);
      }
      if (url !== undefined) checkWebhookUrl(url, policy);
      checkWebhookTables(tables?.names ?? [], "tables.names");
      const opened = await current(request.database);
      if (restart) mustCapture(opened);
      await databases.changeCatalog(entryKinds.updateWebhook, UpdateWebhookRequestSchema, request, context);
      await databases.system.readBarrier();
      return toMessage(await begun(opened, name, context), opened);
    },
    async deleteWebhook(request, context) {
      checkWebhookName(request.name);
      await databases.changeCatalog(entryKinds.deleteWebhook, DeleteWebhookRequestSchema, request, context);
      return {};
    },
  }, {
    createWebhook: { resource: "webhook", action: "create", scope },
    getWebhook: { resource: "webhook", action: "get", scope },
    listWebhooks: { resource: "webhook", action: "list", scope },
    updateWebhook: { resource: "webhook", action: "update", scope },
    deleteWebhook: { resource: "webhook", action: "delete", scope },
  });
}

const scope = (request: { readonly database: string }) => databaseScope(request.database);

function toMessage(row: WebhookRow, { row: database, machine }: OpenDatabase): MessageInitShape<typeof WebhookSchema> {
  const time = (ms: number) => ms === 0 ? undefined : timestampFromMs(ms);
  const tried = row.failures === 0 || row.nextTryMs > 0;
  // Nobody follows it: what was pruned since, nobody has said yet. Of the others the deliverer knows better.
  const behind = (row.paused || !tried) && row.position !== 0 && row.position < machine.parts.rowChanges.heldAfter;
  const times = {
    createTime: time(row.createMs),
    updateTime: time(row.updateMs),
    failingSince: time(row.failingMs),
    nextTryTime: row.paused ? undefined : time(row.nextTryMs),
    deliveryTime: time(row.deliveredMs),
  };
  return {
    database: database.name,
    name: row.name,
    url: row.url,
    tables: [...row.tables],
    paused: row.paused,
    state: row.lost || behind
      ? WebhookState.LOST_POSITION
      : row.paused
      ? WebhookState.PAUSED
      : !tried || row.failures >= failingFrom
      ? WebhookState.FAILING
      : row.failures > 0
      ? WebhookState.RETRYING
      : WebhookState.ACTIVE,
    position: BigInt(row.position),
    failures: row.failures,
    reason: behind && !row.lost
      ? `Changes up to ${machine.parts.rowChanges.heldAfter} are not held any more: those behind ${row.position} were ` +
        "not delivered"
      : row.reason,
    ...Object.fromEntries(Object.entries(times).filter(([, value]) => value !== undefined)),
  };
}
