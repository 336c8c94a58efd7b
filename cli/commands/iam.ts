import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { buildRouteMap } from "@stricli/core";
import {
  type AuditEvent,
  AuditEventSchema,
  AuditService,
  AuthorizeResponseSchema,
  AuthorizeService,
  TokenService,
  UserService,
} from "@ultracloud/proto/iam/v1";
import type { Column } from "../frame/columns.ts";
import { command, parseDuration, text } from "../frame/command.ts";
import { parseAttribute } from "./_iam_conditions.ts";
import { accessKey } from "./_iam_access_keys.ts";
import { federation } from "./_iam_federations.ts";
import { boundary, client, group } from "./_iam_groups.ts";
import { ca, keys, masterKey } from "./_iam_keys.ts";
import { at, one, orgFlag, two } from "./_iam_shared.ts";
import { pages } from "./_shared.ts";

const auditColumns: readonly Column<AuditEvent>[] = [
  { name: "time", get: (e) => at(e.time) },
  { name: "principal", get: (e) => e.principal },
  { name: "method", get: (e) => e.method.split("/").slice(-2).join("/") },
  { name: "scope", get: (e) => e.scope || "(root)" },
  { name: "outcome", get: (e) => e.outcome },
  { name: "request", get: (e) => e.requestId, wide: true },
];

const audit = command<{ since: number; principal: string }, []>({
  brief: "Export who changed what in iam; -o json for other programs",
  flags: {
    since: { kind: "parsed", parse: parseDuration, default: "1d", brief: "How far back" },
    principal: { kind: "parsed", parse: text, default: "", brief: "Only of this principal" },
  },
  async run({ session, list }, { since, principal }) {
    const client = session.client(AuditService, "iam");
    const from = timestampFromMs(Date.now() - since);
    const events = await pages((page) => client.listAuditEvents({ since: from, principal, page }), (r) => r.events);
    await list(AuditEventSchema, events, auditColumns);
  },
});

const explain = command<{ scope: string; attribute?: readonly (readonly [string, string])[] }, [string, string]>({
  brief: "Tell whether a principal may do something, and which binding decides",
  args: two("principal", "permission"),
  flags: {
    scope: { kind: "parsed", parse: text, default: "", brief: "org, org/project or a resource; empty for the root" },
    attribute: {
      kind: "parsed",
      parse: parseAttribute,
      optional: true,
      variadic: true,
      brief: "name=value that conditions on context.name see, repeatable",
    },
  },
  async run({ session, one }, { scope, attribute }, principal, action) {
    const context = Object.fromEntries(attribute ?? []);
    const answer = await session.client(AuthorizeService, "iam").authorize({ principal, action, scope, context });
    await one(AuthorizeResponseSchema, answer, [
      { name: "allowed", get: (a) => a.allowed ? "yes" : "no" },
      { name: "binding", get: (a) => a.bindingId || "(none)" },
      { name: "reason", get: (a) => a.reason },
    ]);
  },
});

const revoke = command<{ org: string }, [string]>({
  brief: "Refuse every token a principal has now, in every service within two seconds",
  args: one("user:ID or service_account:ID", "principal"),
  flags: { org: orgFlag },
  async run({ session, confirm, io }, { org }, principal) {
    confirm(`Revoke every token of ${principal}?`);
    const { policyVersion } = await session.client(TokenService, "iam").revokeTokens({ org, principal });
    io.err(`Revoked the tokens of ${principal} as of policy ${policyVersion}\n`);
  },
});

const unlock = command<{ org: string }, [string]>({
  brief: "Forget a user's failed logins",
  args: one("User, name or id", "user"),
  flags: { org: orgFlag },
  async run({ session, io }, { org }, user) {
    await session.client(UserService, "iam").unlockUser({ org, user });
    io.err(`Unlocked ${user}\n`);
  },
});

export const iam = buildRouteMap({
  docs: { brief: "Keys, certificates, groups, boundaries, programs, federations and the audit trail of iam" },
  routes: { keys, masterKey, ca, audit, explain, group, boundary, client, accessKey, federation, revoke, unlock },
});
