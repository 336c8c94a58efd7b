import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { buildRouteMap } from "@stricli/core";
import {
  type AuditEvent,
  AuditEventSchema,
  AuditService,
  type Authority,
  AuthoritySchema,
  AuthorizeResponseSchema,
  AuthorizeService,
  type Boundary,
  BoundarySchema,
  BoundaryService,
  CertificateService,
  type Group,
  GroupSchema,
  GroupService,
  MasterKeyService,
  type MasterKeyStatus,
  MasterKeyStatusSchema,
  type OAuthClient,
  OAuthClientSchema,
  OAuthClientService,
  type SigningKey,
  SigningKeySchema,
  SigningKeyService,
  TokenService,
  UserService,
} from "@ultracloud/proto/iam/v1";
import type { Column } from "../frame/columns.ts";
import { command, parseDuration, text } from "../frame/command.ts";
import { metaColumns, pages } from "./_shared.ts";

type Time = { readonly seconds: bigint } | undefined;
const at = (time: Time) => time === undefined ? "" : new Date(Number(time.seconds) * 1_000).toISOString();
const orgFlag = { kind: "parsed", parse: text, default: "", brief: "Organisation; empty for the root" } as const;
const one = (brief: string, placeholder: string) => [{ brief, placeholder }] as const;
const two = (first: string, second: string) =>
  [{ brief: first, placeholder: first }, { brief: second, placeholder: second }] as const;

const keyColumns: readonly Column<SigningKey>[] = [
  { name: "id", get: (k) => k.id },
  { name: "phase", get: (k) => k.phase },
  { name: "signs_from", get: (k) => at(k.signTime) },
  { name: "trusted_until", get: (k) => k.retireTime ? at(k.retireTime) : "(newest)" },
];

const keys = buildRouteMap({
  docs: { brief: "Keys that user tokens are signed with" },
  routes: {
    list: command({
      brief: "List signing keys and the phase each is in",
      async run({ session, list }) {
        await list(
          SigningKeySchema,
          (await session.client(SigningKeyService, "iam").listSigningKeys({})).keys,
          keyColumns,
        );
      },
    }),
    rotate: command<{ emergency: boolean }, []>({
      brief: "Publish a new key; it signs after one cache life, the old one is trusted for one token life more",
      flags: {
        emergency: { kind: "boolean", default: false, brief: "Trust no other key from now on: all tokens end" },
      },
      async run({ session, list, confirm }, { emergency }) {
        if (emergency) confirm("End the tokens of everybody and sign with a new key at once?");
        const client = session.client(SigningKeyService, "iam");
        const signingKey = (await client.listSigningKeys({})).keys.find((key) => key.phase === "signing")?.id ?? "";
        await list(SigningKeySchema, (await client.rotateSigningKey({ emergency, signingKey })).keys, keyColumns);
      },
    }),
  },
});

const masterColumns: readonly Column<MasterKeyStatus>[] = [
  { name: "current", get: (s) => s.current },
  { name: "next", get: (s) => s.next || "(none)" },
  {
    name: "sealed",
    get: (s) => Object.entries(s.sealed).map(([key, count]) => `${key || "unnamed"}=${count}`).join(" "),
  },
];

const masterKey = buildRouteMap({
  docs: { brief: "The key that secrets are sealed with at rest" },
  routes: {
    status: command({
      brief: "Show which master keys are known and what is sealed with each",
      async run({ session, one }) {
        await one(
          MasterKeyStatusSchema,
          await session.client(MasterKeyService, "iam").getMasterKeyStatus({}),
          masterColumns,
        );
      },
    }),
    reseal: command({
      brief: "Seal everything with the next master key, which every replica must have",
      async run({ session, one }) {
        const client = session.client(MasterKeyService, "iam");
        const { next, current } = await client.getMasterKeyStatus({});
        await one(MasterKeyStatusSchema, await client.reseal({ masterKey: next || current }), masterColumns);
      },
    }),
  },
});

const authorityColumns: readonly Column<Authority>[] = [
  { name: "id", get: (a) => a.id },
  { name: "phase", get: (a) => a.phase },
  { name: "signs_from", get: (a) => at(a.signTime) },
  { name: "trusted_until", get: (a) => a.retireTime ? at(a.retireTime) : "(newest)" },
];

const ca = buildRouteMap({
  docs: { brief: "The authority that certificates of nodes and services are signed by" },
  routes: {
    list: command({
      brief: "List authorities and the phase each is in",
      async run({ session, list }) {
        const { authorities } = await session.client(CertificateService, "iam").listAuthorities({});
        await list(AuthoritySchema, authorities, authorityColumns);
      },
    }),
    rotate: command({
      brief: "Publish a new authority; it signs once every component has had time to trust it",
      async run({ session, list }) {
        const client = session.client(CertificateService, "iam");
        const authority = (await client.listAuthorities({})).authorities.find((a) => a.phase === "signing")?.id ?? "";
        await list(AuthoritySchema, (await client.rotateAuthority({ authority })).authorities, authorityColumns);
      },
    }),
    names: command<{ name: readonly string[] }, [string]>({
      brief: "Set the names an identity may have in its certificate, beside localhost",
      args: one("spiffe://CLUSTER/svc/NAME or /node/NAME", "identity"),
      flags: { name: { kind: "parsed", parse: text, variadic: true, brief: "DNS name or IP address, repeatable" } },
      async run({ session, io }, { name }, spiffeId) {
        await session.client(CertificateService, "iam").setCertificateNames({ spiffeId, names: [...name] });
        io.err(`${spiffeId} may be called ${name.join(", ")}\n`);
      },
    }),
  },
});

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

const explain = command<{ scope: string }, [string, string]>({
  brief: "Tell whether a principal may do something, and which binding decides",
  args: two("principal", "permission"),
  flags: {
    scope: { kind: "parsed", parse: text, default: "", brief: "org, org/project or a resource; empty for the root" },
  },
  async run({ session, one }, { scope }, principal, action) {
    const answer = await session.client(AuthorizeService, "iam").authorize({ principal, action, scope });
    await one(AuthorizeResponseSchema, answer, [
      { name: "allowed", get: (a) => a.allowed ? "yes" : "no" },
      { name: "binding", get: (a) => a.bindingId || "(none)" },
      { name: "reason", get: (a) => a.reason },
    ]);
  },
});

const groupColumns: readonly Column<Group>[] = [...metaColumns<Group>(), {
  name: "members",
  get: (g) => g.members.join(" "),
}];

const group = buildRouteMap({
  docs: { brief: "Groups of principals; bind them as group:ID" },
  routes: {
    list: command<{ org: string }, []>({
      brief: "List groups",
      flags: { org: orgFlag },
      async run({ session, list }, { org }) {
        await list(GroupSchema, (await session.client(GroupService, "iam").listGroups({ org })).groups, groupColumns);
      },
    }),
    create: command<{ org: string }, [string]>({
      brief: "Create an empty group",
      args: one("Group", "group"),
      flags: { org: orgFlag },
      async run({ session, one }, { org }, name) {
        await one(GroupSchema, await session.client(GroupService, "iam").createGroup({ org, name }), groupColumns);
      },
    }),
    add: command<{ org: string }, [string, string]>({
      brief: "Put a principal into a group",
      args: two("group", "principal"),
      flags: { org: orgFlag },
      async run({ session, one }, { org }, group, principal) {
        const client = session.client(GroupService, "iam");
        await one(GroupSchema, await client.addGroupMember({ org, group, principal }), groupColumns);
      },
    }),
    remove: command<{ org: string }, [string, string]>({
      brief: "Take a principal out of a group",
      args: two("group", "principal"),
      flags: { org: orgFlag },
      async run({ session, one }, { org }, group, principal) {
        const client = session.client(GroupService, "iam");
        await one(GroupSchema, await client.removeGroupMember({ org, group, principal }), groupColumns);
      },
    }),
    delete: command<{ org: string }, [string]>({
      brief: "Delete a group and its bindings",
      args: one("Group", "group"),
      flags: { org: orgFlag },
      async run({ session, confirm, io }, { org }, group) {
        confirm(`Delete the group ${group} and its bindings?`);
        await session.client(GroupService, "iam").deleteGroup({ org, group });
        io.err(`Deleted group ${group}\n`);
      },
    }),
  },
});

const boundaryColumns: readonly Column<Boundary>[] = [
  { name: "principal", get: (b) => b.principal },
  { name: "permissions", get: (b) => b.permissions.join(" ") },
];

const boundary = buildRouteMap({
  docs: { brief: "The most a principal may do, whatever it is bound to" },
  routes: {
    list: command<{ org: string }, []>({
      brief: "List permission boundaries",
      flags: { org: orgFlag },
      async run({ session, list }, { org }) {
        const client = session.client(BoundaryService, "iam");
        await list(BoundarySchema, (await client.listBoundaries({ org })).boundaries, boundaryColumns);
      },
    }),
    set: command<{ org: string; permission: readonly string[] }, [string]>({
      brief: "Bound a principal",
      args: one("user:ID or service_account:ID", "principal"),
      flags: {
        org: orgFlag,
        permission: { kind: "parsed", parse: text, variadic: true, brief: "service.resource.action, each may be *" },
      },
      async run({ session, one }, { org, permission }, principal) {
        const client = session.client(BoundaryService, "iam");
        await one(
          BoundarySchema,
          await client.setBoundary({ org, principal, permissions: [...permission] }),
          boundaryColumns,
        );
      },
    }),
    delete: command<{ org: string }, [string]>({
      brief: "Remove the boundary of a principal",
      args: one("user:ID or service_account:ID", "principal"),
      flags: { org: orgFlag },
      async run({ session, confirm, io }, { org }, principal) {
        confirm(`Remove the boundary of ${principal}?`);
        await session.client(BoundaryService, "iam").deleteBoundary({ org, principal });
        io.err(`Removed the boundary of ${principal}\n`);
      },
    }),
  },
});

const clientColumns: readonly Column<OAuthClient>[] = [
  ...metaColumns<OAuthClient>(),
  { name: "public", get: (c) => c.public ? "yes" : "no" },
  { name: "redirect_uris", get: (c) => c.redirectUris.join(" ") },
];

const client = buildRouteMap({
  docs: { brief: "Programs that people log in to through iam" },
  routes: {
    list: command<{ org: string }, []>({
      brief: "List OAuth clients",
      flags: { org: orgFlag },
      async run({ session, list }, { org }) {
        const client = session.client(OAuthClientService, "iam");
        await list(OAuthClientSchema, (await client.listOAuthClients({ org })).clients, clientColumns);
      },
    }),
    create: command<{ org: string; public: boolean; redirectUri: readonly string[] }, [string]>({
      brief: "Register a program; its secret is shown this once",
      args: one("Client", "client"),
      flags: {
        org: orgFlag,
        public: { kind: "boolean", default: false, brief: "It can keep no secret" },
        redirectUri: { kind: "parsed", parse: text, variadic: true, brief: "Where logins return to, repeatable" },
      },
      async run({ session, items }, flags, name) {
        const answer = await session.client(OAuthClientService, "iam").createOAuthClient({
          org: flags.org,
          name,
          public: flags.public,
          redirectUris: [...flags.redirectUri],
        });
        const value = { id: answer.client?.meta?.id ?? "", secret: answer.secret };
        await items([{ value, json: value, name: value.id }], [
          { name: "client_id", get: (c) => c.id },
          { name: "secret", get: (c) => c.secret || "(public)" },
        ], true);
      },
    }),
    delete: command<{ org: string }, [string]>({
      brief: "Delete an OAuth client",
      args: one("Client", "client"),
      flags: { org: orgFlag },
      async run({ session, confirm, io }, { org }, name) {
        confirm(`Delete the OAuth client ${name}?`);
        await session.client(OAuthClientService, "iam").deleteOAuthClient({ org, client: name });
        io.err(`Deleted OAuth client ${name}\n`);
      },
    }),
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
  docs: { brief: "Keys, groups, boundaries, programs and the audit trail of iam" },
  routes: { keys, masterKey, ca, audit, explain, group, boundary, client, revoke, unlock },
});
