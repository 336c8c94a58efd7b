import { builtinPermissions, builtinRoles, checkPermission } from "@ultracloud/authz";
import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf } from "@ultracloud/platform";
import {
  BindingSchema,
  CreateBindingRequestSchema,
  CreateRoleRequestSchema,
  DeleteBindingRequestSchema,
  DeleteBindingResponseSchema,
  DeleteRoleRequestSchema,
  DeleteRoleResponseSchema,
  RoleSchema,
  RoleService,
  UpdateRoleRequestSchema,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { createBinding, deleteBinding, listBindings } from "./bindings.ts";
import { checkConditions } from "./conditions.ts";
import { changePolicy, type Core } from "./core.ts";
import { orgOrRootScope, orgScope, parseScope } from "./domain/scope.ts";
import { roleKind, rowKeys } from "./kinds.ts";
import { orgForChild } from "./orgs.ts";
import { toBinding, toRole, views } from "./wire.ts";

/** Every decision may look at all of them. */
const permissionsPerRoleMax = 256;

const builtin = (name: string) => ({
  name,
  org: "",
  permissions: [...builtinPermissions(name)!],
  builtIn: true,
  etag: "",
});

export function roleService(core: Core): BoundService {
  const { platform, access } = core;
  return bind(RoleService, {
    createRole(request, context) {
      const name = checkName(request.name, "name");
      if (builtinPermissions(name)) {
        throw invalidField("name", `Cannot use ${name} as the name of a role: every cluster has one`, "invalid_name");
      }
      const permissions = checkPermissions(request.permissions);
      return changePolicy(core, async (tx) => {
        const org = await orgForChild(tx, request.org);
        return toRole(await tx.create(roleKind, { project: org.name, name, value: { permissions } }));
      }, { idempotency: idempotencyOf(context, CreateRoleRequestSchema, request, RoleSchema) });
    },
    async getRole(request) {
      if (builtinPermissions(request.name)) return builtin(request.name);
      return toRole(await platform.get(roleKind, request.org, request.name));
    },
    async listRoles({ org, page: asked }) {
      const builtIn = (asked?.pageToken ?? "") === "" ? Object.keys(builtinRoles).map(builtin) : [];
      // The root has no roles of its own.
      if (org === "") return { roles: builtIn };
      const page = await platform.page(roleKind, { project: org, page: asked, view: views.role });
      return { roles: [...builtIn, ...page.items.map(toRole)], page: { nextPageToken: page.nextPageToken } };
    },
    async updateRole(request, context) {
      const permissions = checkPermissions(request.permissions);
      const before = await platform.get(roleKind, request.org, request.name);
      // It gives to whoever is bound to it; what it no longer has may lift a deny, which gives as well.
      const touched = [...new Set([...before.value.permissions, ...permissions])];
      await access.requireHeld(context.principal, touched, orgScope(request.org));
      return await changePolicy(core, async (tx) => {
        const role = await tx.get(roleKind, request.org, before.id);
        const etag = request.etag === "" ? before.etag : request.etag;
        return toRole(tx.update(roleKind, role, { etag, value: { permissions } }));
      }, { idempotency: idempotencyOf(context, UpdateRoleRequestSchema, request, RoleSchema) });
    },
    deleteRole(request, context) {
      return changePolicy(core, async (tx) => {
        const role = await tx.get(roleKind, request.org, request.name);
        await tx.guard(role.id);
        // A later role of the same name would be given to whoever is still bound to this one.
        if ((await tx.rows(rowKeys.roleUse(role.id))).length > 0) {
          throw fault(
            "failed_precondition",
            "role_in_use",
            `Cannot delete role ${role.name} as bindings use it: wanted none`,
          );
        }
        tx.remove(roleKind, role);
        return {};
      }, { idempotency: idempotencyOf(context, DeleteRoleRequestSchema, request, DeleteRoleResponseSchema) });
    },
    async createBinding(request, context) {
      const { principal, role, deny } = request;
      const scope = parseScope(request.scope);
      const idempotency = idempotencyOf(context, CreateBindingRequestSchema, request, BindingSchema);
      const conditions = checkConditions(request.conditions);
      const create = await createBinding(core, context.principal, { principal, role, scope, deny, conditions });
      return await changePolicy(core, async (tx) => toBinding(await create(tx)), { idempotency });
    },
    async listBindings(request) {
      const { rows, nextPageToken } = await listBindings(core, parseScope(request.scope), request.page);
      return { bindings: rows.map(toBinding), page: { nextPageToken } };
    },
    async deleteBinding(request, context) {
      const scope = parseScope(request.scope);
      const idempotency = idempotencyOf(context, DeleteBindingRequestSchema, request, DeleteBindingResponseSchema);
      const remove = await deleteBinding(core, context.principal, scope, request.id);
      return await changePolicy(core, async (tx) => {
        await remove(tx);
        return {};
      }, { idempotency });
    },
  }, {
    createRole: { resource: "role", action: "create", scope: (r) => orgScope(r.org) },
    getRole: { resource: "role", action: "get", scope: (r) => orgOrRootScope(r.org) },
    listRoles: { resource: "role", action: "list", scope: (r) => orgOrRootScope(r.org) },
    updateRole: { resource: "role", action: "update", scope: (r) => orgScope(r.org) },
    deleteRole: { resource: "role", action: "delete", scope: (r) => orgScope(r.org) },
    createBinding: { resource: "binding", action: "create", scope: (r) => parseScope(r.scope).text },
    listBindings: { resource: "binding", action: "list", scope: (r) => parseScope(r.scope).text },
    deleteBinding: { resource: "binding", action: "delete", scope: (r) => parseScope(r.scope).text },
  });
}

export function checkPermissions(permissions: readonly string[]): string[] {
  if (permissions.length === 0 || permissions.length > permissionsPerRoleMax) {
    throw invalidField(
      "permissions",
      `Cannot make a role of ${permissions.length} permissions: wanted 1 to ${permissionsPerRoleMax}`,
    );
  }
  return [...new Set(permissions.map((text, i) => checkPermission(text, `permissions.${i}`)))];
}
