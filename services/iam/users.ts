import { create } from "@bufbuild/protobuf";
import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, maskedFields, type Tx } from "@ultracloud/platform";
import {
  CreateUserRequestSchema,
  DeleteUserRequestSchema,
  DeleteUserResponseSchema,
  SetUserDisabledRequestSchema,
  SetUserPasswordRequestSchema,
  UnlockUserRequestSchema,
  UnlockUserResponseSchema,
  UpdateUserRequestSchema,
  UserSchema,
  UserService,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { changePolicy, type Core, dropBindingsOf } from "./core.ts";
import { leaveGroups } from "./groups.ts";
import { orgOrRootScope } from "./domain/scope.ts";
import { orgKind, principalOf, rowKeys, userKind } from "./kinds.ts";
import { orgForChild } from "./orgs.ts";
import type { Logins } from "./logins.ts";
import { checkPassword, hashPassword } from "./passwords.ts";
import { toUser, views } from "./wire.ts";

const emailPattern = /^[^\s@]{1,64}@[^\s@]{1,190}$/;

function checkEmail(email: string, field: string): string {
  if (email === "" || emailPattern.test(email)) return email;
  throw invalidField(field, `Cannot use ${JSON.stringify(email.slice(0, 80))} as an e-mail address`);
}

export function userService(core: Core, by: Logins): BoundService {
  const { platform, access, tokens, sealer, rng } = core;
  /** As it is kept; empty: no password login. */
  const hashed = async (password: string) =>
    password === "" ? "" : await hashPassword(checkPassword(password, "password"), rng);
  /** The kept hash of a request must not serve for guessing the password in it. */
  const digested = (password: string) => password === "" ? "" : sealer.digest(password, "idempotency");
  /** Name of the organisation given by name or id; the root is its own. */
  const orgName = async (org: string, tx?: Tx) => org === "" ? "" : (await (tx ?? platform).get(orgKind, "", org)).name;
  return bind(UserService, {
    async createUser(request, context) {
      const name = checkName(request.name, "name");
      const email = checkEmail(request.email, "email");
      const password = await hashed(request.password);
      const masked = create(CreateUserRequestSchema, { ...request, password: digested(request.password) });
      return await platform.transact(async (tx) => {
        const project = request.org === "" ? "" : (await orgForChild(tx, request.org)).name;
        return toUser(await tx.create(userKind, { project, name, value: { email, password, disabled: false } }));
      }, { idempotency: idempotencyOf(context, CreateUserRequestSchema, masked, UserSchema) });
    },
    getUser: async (request) => toUser(await platform.get(userKind, await orgName(request.org), request.user)),
    async listUsers(request) {
      const project = await orgName(request.org);
      const page = await platform.page(userKind, { project, page: request.page, view: views.user });
      return { users: page.items.map(toUser), page: { nextPageToken: page.nextPageToken } };
    },
    updateUser(request, context) {
      maskedFields(request.updateMask, ["email"]);
      const email = checkEmail(request.value?.email ?? "", "value.email");
      return platform.transact(async (tx) => {
        const user = await tx.get(userKind, await orgName(request.org, tx), request.user);
        return toUser(tx.update(userKind, user, { etag: request.etag, value: { ...user.value, email } }));
      }, { idempotency: idempotencyOf(context, UpdateUserRequestSchema, request, UserSchema) });
    },
    async setUserPassword(request, context) {
      const { id } = await platform.get(userKind, await orgName(request.org), request.user);
      // Whoever knows the password is the user: it is as good as being bound to all its roles.
      await access.requireAllOf(context.principal, principalOf.user(id));
      const password = await hashed(request.password);
      const masked = create(SetUserPasswordRequestSchema, { ...request, password: digested(request.password) });
      return await changePolicy(core, async (tx) => {
        const user = await tx.get(userKind, await orgName(request.org, tx), id);
        tokens.revoke(tx, principalOf.user(id));
        for (const { key } of await tx.rows(rowKeys.devices(id))) tx.deleteRow(key);
        return toUser(tx.update(userKind, user, { value: { ...user.value, password } }));
      }, { idempotency: idempotencyOf(context, SetUserPasswordRequestSchema, masked, UserSchema) });
    },
    async changePassword({ password, newPassword }, { principal }) {
      checkPassword(newPassword, "newPassword");
      const user = principal.kind === "user"
        ? await platform.findById(userKind, principal.id.slice("user:".length))
        : undefined;
      if (!user) {
        throw fault(
          "failed_precondition",
          "no_password",
          `Cannot change the password of ${principal.id}: wanted a user`,
        );
      }
      return await by.changed({ user, password, newPassword });
    },
    setUserDisabled(request, context) {
      const { disabled } = request;
      return changePolicy(core, async (tx) => {
        const user = await tx.get(userKind, await orgName(request.org, tx), request.user);
        if (disabled) tokens.revoke(tx, principalOf.user(user.id));
        return toUser(tx.update(userKind, user, { value: { ...user.value, disabled } }));
      }, { idempotency: idempotencyOf(context, SetUserDisabledRequestSchema, request, UserSchema) });
    },
    deleteUser(request, context) {
      return changePolicy(core, async (tx) => {
        const user = await tx.get(userKind, await orgName(request.org, tx), request.user);
        const principal = principalOf.user(user.id);
        await tx.guard(user.id);
        tokens.revoke(tx, principal);
        await dropBindingsOf(tx, principal);
        await leaveGroups(tx, principal);
        tx.deleteRow(rowKeys.boundary(user.project, principal));
        for (const { key } of await tx.rows(rowKeys.devices(user.id))) tx.deleteRow(key);
        tx.remove(userKind, user);
        return {};
      }, { idempotency: idempotencyOf(context, DeleteUserRequestSchema, request, DeleteUserResponseSchema) });
    },
    unlockUser(request, context) {
      return platform.transact(async (tx) => {
        const org = await orgName(request.org, tx);
        const user = await tx.get(userKind, org, request.user);
        const row = rowKeys.failedLogins(org, user.name);
        tx.deleteRow(row);
        for (const { key } of await tx.rows(`${row}|`)) tx.deleteRow(key);
        return {};
      }, { idempotency: idempotencyOf(context, UnlockUserRequestSchema, request, UnlockUserResponseSchema) });
    },
  }, {
    createUser: { resource: "user", action: "create", scope: (r) => orgOrRootScope(r.org) },
    getUser: { resource: "user", action: "get", scope: (r) => orgOrRootScope(r.org) },
    listUsers: { resource: "user", action: "list", scope: (r) => orgOrRootScope(r.org) },
    updateUser: { resource: "user", action: "update", scope: (r) => orgOrRootScope(r.org) },
    setUserPassword: { resource: "user", action: "update", scope: (r) => orgOrRootScope(r.org) },
    changePassword: { authenticated: "changes only the password of the caller, who must know it" },
    setUserDisabled: { resource: "user", action: "update", scope: (r) => orgOrRootScope(r.org) },
    deleteUser: { resource: "user", action: "delete", scope: (r) => orgOrRootScope(r.org) },
    unlockUser: { resource: "user", action: "update", scope: (r) => orgOrRootScope(r.org) },
  });
}
