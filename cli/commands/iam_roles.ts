import { buildRouteMap } from "@stricli/core";
import { type Binding, BindingSchema, type Role, RoleSchema, RoleService } from "@ultracloud/proto/iam/v1";
import type { Column } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { pages } from "./_shared.ts";
import { type ConditionText, conditionText, parseCondition } from "./_iam_conditions.ts";

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
  { name: "conditions", get: (b) => b.conditions.map(conditionText).join("; ") },
];

const orgFlag = { kind: "parsed", parse: text, brief: "Organisation" } as const;
/** What a role is made of, new or changed. */
const permissionFlags = {
  org: orgFlag,
  permission: { kind: "parsed", parse: text, variadic: true, brief: "service.resource.action, each may be *" },
} as const;

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
      details: "Each built-in role exists for one service alone, too: SERVICE.ROLE, as plasmavmc.viewer.",
      flags: { org: optionalOrg },
      async run({ session, list }, { org }) {
        const client = session.client(RoleService, "iam");
        await list(RoleSchema, await pages((page) => client.listRoles({ org, page }), (r) => r.roles), roleColumns);
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
      flags: permissionFlags,
      async run({ session, one }, flags, name) {
        const client = session.client(RoleService, "iam");
        await one(
          RoleSchema,
          await client.createRole({ org: flags.org, name, permissions: [...flags.permission] }),
          roleColumns,
        );
      },
    }),
    update: command<{ org: string; permission: readonly string[] }, [string]>({
      brief: "Replace a role's permissions, for everybody who is bound to it",
      args: [{ brief: "Role", placeholder: "role" }],
      flags: permissionFlags,
      async run({ session, one }, flags, name) {
        const client = session.client(RoleService, "iam");
        const { etag } = await client.getRole({ org: flags.org, name });
        const request = { org: flags.org, name, permissions: [...flags.permission], etag };
        await one(RoleSchema, await client.updateRole(request), roleColumns);
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
        const client = session.client(RoleService, "iam");
        const bindings = await pages((page) => client.listBindings({ scope, page }), (r) => r.bindings);
        await list(BindingSchema, bindings, bindingColumns);
      },
    }),
    create: command<{ scope: string; deny: boolean; condition?: readonly ConditionText[] }, [string, string]>({
      brief: "Give a principal a role at a scope",
      args: [{ brief: "user:ID, service_account:ID, group:ID or a SPIFFE id", placeholder: "principal" }, {
        brief: "Role",
        placeholder: "role",
      }],
      flags: {
        scope: scopeFlag,
        deny: { kind: "boolean", default: false, brief: "Refuse what the role allows; wins over every allow" },
        condition: {
          kind: "parsed",
          parse: parseCondition,
          optional: true,
          variadic: true,
          brief: "'KEY OPERATOR VALUE[,VALUE]', repeatable, all must hold: 'time before 2026-04-01T00:00:00Z'",
        },
      },
      async run({ session, one }, flags, principal, role) {
        const client = session.client(RoleService, "iam");
        await one(
          BindingSchema,
          await client.createBinding({
            scope: flags.scope,
            principal,
            role,
            deny: flags.deny,
            conditions: (flags.condition ?? []).map((condition) => ({ ...condition, values: [...condition.values] })),
          }),
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
