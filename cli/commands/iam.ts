import { buildRouteMap } from "@stricli/core";
import {
  type Binding,
  BindingSchema,
  type Org,
  OrgSchema,
  OrgService,
  type Project,
  ProjectSchema,
  ProjectService,
  type Role,
  RoleSchema,
  RoleService,
  type ServiceAccount,
  ServiceAccountSchema,
  ServiceAccountService,
  type User,
  UserSchema,
  UserService,
} from "@ultracloud/proto/iam/v1";
import { fault } from "@ultracloud/base";
import type { Column } from "../frame/columns.ts";
import { command, parseDuration, text } from "../frame/command.ts";
import { labelFlag, labelsOf, metaColumns, pages } from "./_shared.ts";

const orgColumns: readonly Column<Org>[] = [...metaColumns<Org>(), { name: "display_name", get: (o) => o.displayName }];
const projectColumns: readonly Column<Project>[] = [
  { name: "project", get: (p) => `${p.meta?.project}/${p.meta?.name}` },
  ...metaColumns<Project>().slice(1),
  { name: "display_name", get: (p) => p.displayName, wide: true },
];
const userColumns: readonly Column<User>[] = [
  ...metaColumns<User>(),
  { name: "email", get: (u) => u.email },
  { name: "state", get: (u) => u.disabled ? "disabled" : "active" },
];
const accountColumns: readonly Column<ServiceAccount>[] = [
  ...metaColumns<ServiceAccount>(),
  { name: "state", get: (a) => a.disabled ? "disabled" : "active" },
];
const roleColumns: readonly Column<Role>[] = [
  { name: "name", get: (r) => r.name },
  { name: "org", get: (r) => r.org || "(built in)" },
  { name: "permissions", get: (r) => r.permissions.join(" ") },
];
const bindingColumns: readonly Column<Binding>[] = [
  { name: "id", get: (b) => b.id },
  { name: "principal", get: (b) => b.principal },
  { name: "role", get: (b) => b.role },
  { name: "scope", get: (b) => b.scope || "(root)" },
  { name: "effect", get: (b) => b.deny ? "deny" : "allow" },
];

const orgArg = [{ brief: "Organisation, name or id", placeholder: "org" }] as const;

export const org = buildRouteMap({
  docs: { brief: "Organisations" },
  routes: {
    list: command({
      brief: "List organisations",
      async run({ session, list }) {
        const client = session.client(OrgService, "iam");
        await list(OrgSchema, await pages((page) => client.listOrgs({ page }), (r) => r.orgs), orgColumns);
      },
    }),
    create: command<{ displayName?: string; label?: readonly string[] }, [string]>({
      brief: "Create an organisation",
      args: orgArg,
      flags: {
        displayName: { kind: "parsed", parse: text, optional: true, brief: "Name for people" },
        label: labelFlag,
      },
      async run({ session, one }, flags, name) {
        const client = session.client(OrgService, "iam");
        await one(
          OrgSchema,
          await client.createOrg({ name, displayName: flags.displayName ?? "", labels: labelsOf(flags.label) }),
          orgColumns,
        );
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show an organisation",
      args: orgArg,
      async run({ session, one }, _flags, name) {
        await one(OrgSchema, await session.client(OrgService, "iam").getOrg({ org: name }), orgColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete an empty organisation",
      args: orgArg,
      async run({ session, confirm, io }, _flags, name) {
        confirm(`Delete the organisation ${name}?`);
        await session.client(OrgService, "iam").deleteOrg({ org: name });
        io.err(`Deleted organisation ${name}\n`);
      },
    }),
  },
});

const projectArg = [{ brief: "org/name", placeholder: "project" }] as const;

function splitProject(full: string): { org: string; name: string } {
  const [org, name, more] = full.split("/");
  if (!org || !name || more !== undefined) {
    throw fault(
      "invalid_argument",
      "invalid_project",
      `Cannot use ${JSON.stringify(full)} as a project: wanted org/name`,
    );
  }
  return { org, name };
}

export const project = buildRouteMap({
  docs: { brief: "Projects" },
  routes: {
    list: command<{ org?: string }, []>({
      brief: "List projects, of every organisation you see unless --org is given",
      flags: { org: { kind: "parsed", parse: text, optional: true, brief: "Only of this organisation" } },
      async run({ session, list }, flags) {
        const projects = session.client(ProjectService, "iam");
        const orgs = flags.org
          ? [flags.org]
          : (await pages((page) => session.client(OrgService, "iam").listOrgs({ page }), (r) => r.orgs)).map((o) =>
            o.meta!.name
          );
        const all: Project[] = [];
        for (const org of orgs) {
          all.push(...await pages((page) => projects.listProjects({ org, page }), (r) => r.projects));
        }
        await list(ProjectSchema, all, projectColumns);
      },
    }),
    create: command<{ displayName?: string; label?: readonly string[] }, [string]>({
      brief: "Create a project",
      args: projectArg,
      flags: {
        displayName: { kind: "parsed", parse: text, optional: true, brief: "Name for people" },
        label: labelFlag,
      },
      async run({ session, one }, flags, full) {
        const value = await session.client(ProjectService, "iam").createProject({
          ...splitProject(full),
          displayName: flags.displayName ?? "",
          labels: labelsOf(flags.label),
        });
        await one(ProjectSchema, value, projectColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a project",
      args: projectArg,
      async run({ session, one }, _flags, full) {
        await one(
          ProjectSchema,
          await session.client(ProjectService, "iam").getProject({ project: full }),
          projectColumns,
        );
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete an empty project",
      args: projectArg,
      async run({ session, confirm, io }, _flags, full) {
        confirm(`Delete the project ${full}?`);
        await session.client(ProjectService, "iam").deleteProject({ project: full });
        io.err(`Deleted project ${full}\n`);
      },
    }),
  },
});

const orgFlag = { kind: "parsed", parse: text, brief: "Organisation" } as const;
const userArg = [{ brief: "User, name or id", placeholder: "user" }] as const;

export const user = buildRouteMap({
  docs: { brief: "Users" },
  routes: {
    list: command<{ org: string }, []>({
      brief: "List users of an organisation",
      flags: { org: orgFlag },
      async run({ session, list }, { org }) {
        const client = session.client(UserService, "iam");
        await list(UserSchema, await pages((page) => client.listUsers({ org, page }), (r) => r.users), userColumns);
      },
    }),
    create: command<{ org: string; email?: string; passwordFile?: string }, [string]>({
      brief: "Create a user",
      args: userArg,
      flags: {
        org: orgFlag,
        email: { kind: "parsed", parse: text, optional: true, brief: "Address" },
        passwordFile: { kind: "parsed", parse: text, optional: true, brief: "File with the first password" },
      },
      async run({ session, one }, flags, name) {
        const password = flags.passwordFile ? (await Deno.readTextFile(flags.passwordFile)).trimEnd() : "";
        const client = session.client(UserService, "iam");
        await one(
          UserSchema,
          await client.createUser({ org: flags.org, name, email: flags.email ?? "", password }),
          userColumns,
        );
      },
    }),
    show: command<{ org: string }, [string]>({
      brief: "Show a user",
      args: userArg,
      flags: { org: orgFlag },
      async run({ session, one }, { org }, user) {
        await one(UserSchema, await session.client(UserService, "iam").getUser({ org, user }), userColumns);
      },
    }),
    disable: command<{ org: string }, [string]>({
      brief: "Disable a user and revoke their tokens",
      args: userArg,
      flags: { org: orgFlag },
      async run({ session, one, confirm }, { org }, user) {
        confirm(`Disable ${user} and revoke every token?`);
        await one(
          UserSchema,
          await session.client(UserService, "iam").setUserDisabled({ org, user, disabled: true }),
          userColumns,
        );
      },
    }),
    enable: command<{ org: string }, [string]>({
      brief: "Enable a user",
      args: userArg,
      flags: { org: orgFlag },
      async run({ session, one }, { org }, user) {
        await one(
          UserSchema,
          await session.client(UserService, "iam").setUserDisabled({ org, user, disabled: false }),
          userColumns,
        );
      },
    }),
    delete: command<{ org: string }, [string]>({
      brief: "Delete a user",
      args: userArg,
      flags: { org: orgFlag },
      async run({ session, confirm, io }, { org }, user) {
        confirm(`Delete the user ${user}?`);
        await session.client(UserService, "iam").deleteUser({ org, user });
        io.err(`Deleted user ${user}\n`);
      },
    }),
  },
});

const accountArg = [{ brief: "Service account, name or id", placeholder: "account" }] as const;

export const serviceAccount = buildRouteMap({
  docs: { brief: "Service accounts and their keys" },
  routes: {
    list: command({
      brief: "List service accounts of the project",
      async run({ session, list }) {
        const client = session.client(ServiceAccountService, "iam");
        const { project } = session;
        await list(
          ServiceAccountSchema,
          await pages((page) => client.listServiceAccounts({ project, page }), (r) => r.serviceAccounts),
          accountColumns,
        );
      },
    }),
    create: command<{ label?: readonly string[] }, [string]>({
      brief: "Create a service account",
      args: accountArg,
      flags: { label: labelFlag },
      async run({ session, one }, flags, name) {
        const client = session.client(ServiceAccountService, "iam");
        await one(
          ServiceAccountSchema,
          await client.createServiceAccount({ project: session.project, name, labels: labelsOf(flags.label) }),
          accountColumns,
        );
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a service account and its keys",
      args: accountArg,
      async run({ session, confirm, io }, _flags, name) {
        confirm(`Delete the service account ${name} and its keys?`);
        await session.client(ServiceAccountService, "iam").deleteServiceAccount({
          project: session.project,
          serviceAccount: name,
        });
        io.err(`Deleted service account ${name}\n`);
      },
    }),
    key: buildRouteMap({
      docs: { brief: "Keys of a service account" },
      routes: {
        create: command<{ ttl?: number }, [string]>({
          brief: "Make a key; the secret is shown this once",
          args: accountArg,
          flags: {
            ttl: {
              kind: "parsed",
              parse: parseDuration,
              optional: true,
              brief: "Life of the key; 90 days unless given",
            },
          },
          async run({ session, items }, flags, name) {
            const answer = await session.client(ServiceAccountService, "iam").createApiKey({
              project: session.project,
              serviceAccount: name,
              ttlMs: BigInt(flags.ttl ?? 0),
            });
            const value = { id: answer.key?.id ?? "", secret: answer.secret };
            await items([{ value, json: value, name: value.id }], [
              { name: "id", get: (k) => k.id },
              { name: "secret", get: (k) => k.secret },
            ], true);
          },
        }),
        list: command<Record<never, never>, [string]>({
          brief: "List the keys of a service account",
          args: accountArg,
          async run({ session, items }, _flags, name) {
            const { keys } = await session.client(ServiceAccountService, "iam").listApiKeys({
              project: session.project,
              serviceAccount: name,
            });
            await items(
              keys.map((key) => {
                const value = {
                  id: key.id,
                  expires: key.expireTime ? new Date(Number(key.expireTime.seconds) * 1000).toISOString() : "",
                };
                return { value, json: value, name: key.id };
              }),
              [{ name: "id", get: (k) => k.id }, { name: "expires", get: (k) => k.expires }],
            );
          },
        }),
        rotate: command<{ ttl?: number; overlap?: number }, [string, string]>({
          brief: "Make a new key beside an old one, which ends after the overlap; the secret is shown this once",
          args: [...accountArg, { brief: "Key id", placeholder: "key" }],
          flags: {
            ttl: {
              kind: "parsed",
              parse: parseDuration,
              optional: true,
              brief: "Life of the new key; 90 days unless given",
            },
            overlap: {
              kind: "parsed",
              parse: parseDuration,
              optional: true,
              brief: "Life left to the old key; a day unless given",
            },
          },
          async run({ session, items }, flags, name, keyId) {
            const answer = await session.client(ServiceAccountService, "iam").rotateApiKey({
              project: session.project,
              serviceAccount: name,
              keyId,
              ttlMs: BigInt(flags.ttl ?? 0),
              overlapMs: BigInt(flags.overlap ?? 0),
            });
            const value = { id: answer.key?.id ?? "", secret: answer.secret };
            await items([{ value, json: value, name: value.id }], [
              { name: "id", get: (k) => k.id },
              { name: "secret", get: (k) => k.secret },
            ], true);
          },
        }),
        delete: command<Record<never, never>, [string, string]>({
          brief: "Delete a key; tokens made with it are refused",
          args: [...accountArg, { brief: "Key id", placeholder: "key" }],
          async run({ session, confirm, io }, _flags, name, keyId) {
            confirm(`Delete the key ${keyId}?`);
            await session.client(ServiceAccountService, "iam").deleteApiKey({
              project: session.project,
              serviceAccount: name,
              keyId,
            });
            io.err(`Deleted key ${keyId}\n`);
          },
        }),
      },
    }),
  },
});

const optionalOrg = {
  kind: "parsed",
  parse: text,
  default: "",
  brief: "Organisation; empty for built-in roles only",
} as const;

export const role = buildRouteMap({
  docs: { brief: "Roles" },
  routes: {
    list: command<{ org: string }, []>({
      brief: "List built-in roles and those of an organisation",
      flags: { org: optionalOrg },
      async run({ session, list }, { org }) {
        await list(RoleSchema, (await session.client(RoleService, "iam").listRoles({ org })).roles, roleColumns);
      },
    }),
    show: command<{ org: string }, [string]>({
      brief: "Show a role",
      args: [{ brief: "Role", placeholder: "role" }],
      flags: { org: optionalOrg },
      async run({ session, one }, { org }, name) {
        await one(RoleSchema, await session.client(RoleService, "iam").getRole({ org, name }), roleColumns);
      },
    }),
    create: command<{ org: string; permission: readonly string[] }, [string]>({
      brief: "Create a role from permissions",
      args: [{ brief: "Role", placeholder: "role" }],
      flags: {
        org: orgFlag,
        permission: { kind: "parsed", parse: text, variadic: true, brief: "service.resource.action, each may be *" },
      },
      async run({ session, one }, flags, name) {
        const client = session.client(RoleService, "iam");
        await one(
          RoleSchema,
          await client.createRole({ org: flags.org, name, permissions: [...flags.permission] }),
          roleColumns,
        );
      },
    }),
    delete: command<{ org: string }, [string]>({
      brief: "Delete a role",
      args: [{ brief: "Role", placeholder: "role" }],
      flags: { org: orgFlag },
      async run({ session, confirm, io }, { org }, name) {
        confirm(`Delete the role ${name}?`);
        await session.client(RoleService, "iam").deleteRole({ org, name });
        io.err(`Deleted role ${name}\n`);
      },
    }),
  },
});

const scopeFlag = {
  kind: "parsed",
  parse: text,
  default: "",
  brief: "org, org/project, or empty for the root",
} as const;

export const binding = buildRouteMap({
  docs: { brief: "Who has which role where" },
  routes: {
    list: command<{ scope: string }, []>({
      brief: "List the bindings at a scope",
      flags: { scope: scopeFlag },
      async run({ session, list }, { scope }) {
        await list(
          BindingSchema,
          (await session.client(RoleService, "iam").listBindings({ scope })).bindings,
          bindingColumns,
        );
      },
    }),
    create: command<{ scope: string; deny: boolean }, [string, string]>({
      brief: "Give a principal a role at a scope",
      args: [{ brief: "user:ID or service_account:ID", placeholder: "principal" }, {
        brief: "Role",
        placeholder: "role",
      }],
      flags: {
        scope: scopeFlag,
        deny: { kind: "boolean", default: false, brief: "Refuse what the role allows; wins over every allow" },
      },
      async run({ session, one }, flags, principal, role) {
        const client = session.client(RoleService, "iam");
        await one(
          BindingSchema,
          await client.createBinding({ scope: flags.scope, principal, role, deny: flags.deny }),
          bindingColumns,
        );
      },
    }),
    delete: command<{ scope: string }, [string]>({
      brief: "Delete a binding",
      args: [{ brief: "Binding id", placeholder: "id" }],
      flags: { scope: scopeFlag },
      async run({ session, confirm, io }, { scope }, id) {
        confirm(`Delete the binding ${id}?`);
        await session.client(RoleService, "iam").deleteBinding({ scope, id });
        io.err(`Deleted binding ${id}\n`);
      },
    }),
  },
});
