import { buildRouteMap } from "@stricli/core";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { fault } from "@ultracloud/base";
import { readSecret } from "@ultracloud/config";
import { type Webhook, WebhookSchema, WebhookService, WebhookState } from "@ultracloud/proto/flaredb/v1";
import { type Column, enumName } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import type { Session } from "../frame/session.ts";
import { databaseArg } from "./_db_shared.ts";

const time = (at: Webhook["createTime"]) => at === undefined ? "" : new Date(timestampMs(at)).toISOString();
const columns: readonly Column<Webhook>[] = [
  { name: "name", get: (w) => w.name },
  { name: "state", get: (w) => enumName(WebhookState, w.state) },
  { name: "url", get: (w) => w.url },
  { name: "tables", get: (w) => w.tables.length === 0 ? "all" : w.tables.join(",") },
  { name: "failures", get: (w) => String(w.failures) },
  { name: "next_try", get: (w) => time(w.nextTryTime) },
  { name: "reason", get: (w) => w.reason },
  { name: "position", get: (w) => String(w.position), wide: true },
  { name: "delivered", get: (w) => time(w.deliveryTime), wide: true },
  { name: "failing_since", get: (w) => time(w.failingSince), wide: true },
];
const hookArgs = [databaseArg, { brief: "Webhook", placeholder: "webhook" }] as const;
const optional = (brief: string) => ({ kind: "parsed", parse: text, optional: true, brief }) as const;
const client = (session: Session) => session.client(WebhookService, "flaredb");

/** "a,b" as tables; "all" or nothing as every one. */
function tablesOf(list: string | undefined): string[] {
  if (list === undefined || list === "all") return [];
  const tables = list.split(",").map((name) => name.trim());
  if (tables.every((name) => name !== "")) return tables;
  throw fault("invalid_argument", "bad_tables", `Cannot read ${JSON.stringify(list)} as tables: wanted a,b or all`);
}

export const webhook = buildRouteMap({
  docs: { brief: "Webhooks of a database: row changes posted to an address on the internet" },
  routes: {
    list: command<Record<never, never>, [string]>({
      brief: "List the webhooks of a database",
      args: [databaseArg],
      async run({ session, list }, _flags, database) {
        await list(WebhookSchema, (await client(session).listWebhooks({ database })).webhooks, columns);
      },
    }),
    show: command<Record<never, never>, [string, string]>({
      brief: "Show how a webhook is: how far, how often it failed, when it is tried again, and why",
      args: hookArgs,
      async run({ session, one }, _flags, database, name) {
        await one(WebhookSchema, await client(session).getWebhook({ database, name }), columns);
      },
    }),
    create: command<{ url: string; tables?: string; secretFile?: string }, [string, string]>({
      brief: "Make a webhook; the secret that signs its requests is shown this once",
      details: "It begins with what changes from now on. The database needs the setting capture. A secret of the " +
        "receiver's own comes from a file, never from an argument, which other users could read; it is not shown.",
      args: hookArgs,
      flags: {
        url: { kind: "parsed", parse: text, brief: "Where changes are posted, like https://shop.example.com/changes" },
        tables: optional("Tables whose changes are posted, like a,b; all without"),
        secretFile: optional("File with a secret of 16 to 256 characters; one is made without"),
      },
      async run({ session, items, io }, { url, tables, secretFile }, database, name) {
        const given = secretFile === undefined ? "" : (await readSecret(secretFile)).expose();
        const request = { database, name, url, tables: tablesOf(tables), secret: given };
        const { webhook, secret } = await client(session).createWebhook(request);
        const value = { name, url, position: String(webhook?.position ?? 0n), ...(secret === "" ? {} : { secret }) };
        await items([{ value, json: value, name }], [
          { name: "name", get: (w) => w.name },
          { name: "url", get: (w) => w.url },
          ...(secret === "" ? [] : [{ name: "secret", get: (w: { secret?: string }) => w.secret ?? "" }]),
          { name: "position", get: (w) => w.position, wide: true },
        ], true);
        if (secret !== "") io.err("Keep the secret: it is not shown again\n");
      },
    }),
    set: command<{ url?: string; tables?: string }, [string, string]>({
      brief: "Change where a webhook posts, or which tables; it is tried again at once",
      args: hookArgs,
      flags: {
        url: optional("Where changes are posted"),
        tables: optional("Tables whose changes are posted, like a,b, or all"),
      },
      async run({ session, one }, { url, tables }, database, name) {
        const updated = await client(session).updateWebhook({
          database,
          name,
          ...(url === undefined ? {} : { url }),
          ...(tables === undefined ? {} : { tables: { names: tablesOf(tables) } }),
        });
        await one(WebhookSchema, updated, columns);
      },
    }),
    pause: command<Record<never, never>, [string, string]>({
      brief: "Stop posting; changes wait as long as the database holds them",
      args: hookArgs,
      async run({ session, one }, _flags, database, name) {
        await one(WebhookSchema, await client(session).updateWebhook({ database, name, paused: true }), columns);
      },
    }),
    resume: command<{ fromNow: boolean }, [string, string]>({
      brief: "Go on posting from where it is, and try again at once; --from-now leaves out what was not delivered",
      args: hookArgs,
      flags: {
        fromNow: {
          kind: "boolean",
          default: false,
          brief: "Leave out what was not delivered, as after a lost position",
        },
      },
      async run({ session, one }, { fromNow }, database, name) {
        const request = { database, name, paused: false, restart: fromNow };
        await one(WebhookSchema, await client(session).updateWebhook(request), columns);
      },
    }),
    delete: command<Record<never, never>, [string, string]>({
      brief: "Delete a webhook; what was not delivered is not",
      args: hookArgs,
      async run({ session, confirm, io }, _flags, database, name) {
        confirm(`Delete the webhook ${name} of ${database}?`);
        await client(session).deleteWebhook({ database, name });
        io.err(`Deleted webhook ${name}\n`);
      },
    }),
  },
});
