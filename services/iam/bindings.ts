import { builtinPermissions, type Condition, scopeCovers } from "@ultracloud/authz";
import { fault, invalidField, isId } from "@ultracloud/base";
import { notFound, type PageInput, type StoredRecord, type Tx } from "@ultracloud/platform";
import type { Principal } from "@ultracloud/rpc";
import { type Core, dropBinding } from "./core.ts";
import { ownerOf, type Scope } from "./domain/scope.ts";
import {
  accountKind,
  type Binding,
  bindingKind,
  bindingName,
  groupKind,
  orgKind,
  projectKind,
  roleKind,
  rowKeys,
  userKind,
} from "./kinds.ts";
import { views } from "./wire.ts";

type Row = Pick<Binding, "principal" | "role" | "scope" | "deny" | "conditions"> & { readonly id: string };

const spiffePattern = /^spiffe:\/\/[a-z0-9-]{1,63}(\/[A-Za-z0-9._-]{1,63}){1,6}$/;

/** Checks that the caller may make the binding; answers how to make it. */
export async function createBinding(
  core: Core,
  caller: Principal,
  o: {
    readonly principal: string;
    readonly role: string;
    readonly scope: Scope;
    readonly deny: boolean;
    readonly conditions: readonly Condition[];
  },
): Promise<(tx: Tx) => Promise<Row>> {
  const { access, platform } = core;
  const { scope, principal, role, deny, conditions } = o;
  // A resource is called by name or by id, and a call is judged as it is written: a deny of one would miss the other.
  if (deny && scope.text !== ownerOf(scope)) {
    throw invalidField(
      "scope",
      `Cannot deny at the resource ${scope.text}: wanted its project, its organisation or the root`,
      "deny_too_narrow",
    );
  }
  const builtin = builtinPermissions(role);
  const custom = builtin ? undefined : await platform.get(roleKind, scope.org, role);
  const permissions = builtin ?? custom!.value.permissions;
  await access.requireHeld(caller, permissions, scope.text);
  // Nobody takes from a principal what was given to it above one's own reach.
  if (deny) {
    await access.requireAllOf(caller, principal, {
      near: (at) => at !== scope.text && scopeCovers(at, scope.text),
    });
  }
  return async (tx) => {
    if (scope.org !== "") tx.touch((await tx.get(orgKind, "", scope.org)).id);
    if (scope.project !== "") {
      const name = scope.project.slice(scope.org.length + 1);
      tx.touch((await tx.get(projectKind, scope.org, name)).id);
    }
    let roleId = "";
    if (custom) {
      // By id: a namesake made since the check may hold more.
      roleId = (await tx.get(roleKind, scope.org, custom.id)).id;
      tx.touch(roleId);
    }
    await requirePrincipal(tx, principal);
    const name = bindingName(scope.text, principal, role, deny, conditions);
    const some = conditions.length > 0 ? { conditions } : {};
    const value: Binding = { principal, role, roleId, scope: scope.text, deny, ...some };
    const binding = await tx.create(bindingKind, { project: ownerOf(scope), name, value });
    tx.putRow(rowKeys.bound(principal, binding.id), {});
    if (roleId !== "") tx.putRow(rowKeys.roleUse(roleId, binding.id), {});
    return rowOf(binding);
  };
}

/** Bindings at exactly this scope, those above and below left out. */
export async function listBindings(
  core: Core,
  scope: Scope,
  asked: PageInput | undefined,
): Promise<{ readonly rows: Row[]; readonly nextPageToken: string }> {
  const { items, nextPageToken } = await core.platform.page(bindingKind, {
    project: ownerOf(scope),
    page: asked,
    view: views.binding,
    where: (b) => b.value.scope === scope.text,
  });
  return { rows: items.map(rowOf), nextPageToken };
}

/** Checks that the caller may remove the binding; answers how. */
export async function deleteBinding(
  core: Core,
  caller: Principal,
  scope: Scope,
  id: string,
): Promise<(tx: Tx) => Promise<void>> {
  const find = (binding: StoredRecord<Binding> | undefined) => {
    if (binding?.value.scope === scope.text) return binding;
    throw notFound(bindingKind, scope.text, id);
  };
  const binding = find(await core.platform.find(bindingKind, ownerOf(scope), id));
  // Lifting a deny gives; so it takes what giving takes.
  if (binding.value.deny) {
    const { role } = binding.value;
    const permissions = builtinPermissions(role) ??
      (await core.platform.get(roleKind, scope.org, role)).value.permissions;
    await core.access.requireHeld(caller, permissions, scope.text);
  }
  return async (tx) => {
    find(await tx.find(bindingKind, ownerOf(scope), binding.id));
    await dropBinding(tx, binding.id);
  };
}

function rowOf(binding: StoredRecord<Binding>): Row {
  return { id: binding.id, ...binding.value };
}

/** Refuses what nobody could ever call as, so that a mistyped id is noticed. */
async function requirePrincipal(tx: Tx, principal: string): Promise<void> {
  const colon = principal.indexOf(":");
  const [kind, id] = [principal.slice(0, colon), principal.slice(colon + 1)];
  if (kind === "spiffe" && spiffePattern.test(principal)) return;
  let found: { readonly id: string } | undefined;
  if (kind === "user" && isId("usr", id)) found = await tx.findById(userKind, id);
  else if (kind === "service_account" && isId("sa", id)) found = await tx.findById(accountKind, id);
  else if (kind === "group" && isId("grp", id)) found = await tx.findById(groupKind, id);
  else {
    throw invalidField(
      "principal",
      `Cannot bind ${
        JSON.stringify(principal.slice(0, 80))
      }: wanted user:ID, service_account:ID, group:ID or a SPIFFE id`,
      "invalid_principal",
    );
  }
  if (found) {
    // Its removal drops its bindings: it must not miss this one.
    tx.touch(found.id);
    return;
  }
  throw fault("not_found", "principal_not_found", `Cannot bind ${principal} as there is no such principal`, {
    field: "principal",
  });
}
