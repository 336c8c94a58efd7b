import { create } from "@bufbuild/protobuf";
import { checkName, invalidField } from "@ultracloud/base";
import { idempotencyOf, type Tx } from "@ultracloud/platform";
import {
  CreateUserRequestSchema,
  DeleteUserRequestSchema,
  DeleteUserResponseSchema,
  SetUserDisabledRequestSchema,
  UnlockUserRequestSchema,
  UnlockUserResponseSchema,
  UserSchema,
  UserService,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { changePolicy, type Core, dropBindingsOf } from "./core.ts";
import { leaveGroups } from "./groups.ts";
import { orgOrRootScope } from "./domain/scope.ts";
import { orgKind, principalOf, rowKeys, userKind } from "./kinds.ts";
import { orgForChild } from "./orgs.ts";
import { checkPassword, hashPassword } from "./passwords.ts";
import { toUser, views } from "./wire.ts";

const emailPattern = /^[^\s@]{1,64}@[^\s@]{1,190}$/;

export function userService(core: Core): BoundService {
  const { platform, tokens, sealer, rng } = core;
  /** Name of the organisation given by name or id; the root is its own. */
  const orgName = async (org: string, tx?: Tx) => org === "" ? "" : (await (tx ?? platform).get(orgKind, "", org)).name;
  return bind(UserService, {
    async createUser(request, context) {
      const name = checkName(request.name, "name");
      const { email } = request;
      if (email !== "" && !emailPattern.test(email)) {
        throw invalidField("email", `Cannot use ${JSON.stringify(email.slice(0, 80))} as an e-mail address`);
      }
      const password = request.password === ""
        ? ""
        : await hashPassword(checkPassword(request.password, "password"), rng);
      // The kept hash of the request must not serve for guessing the password.
      const masked = create(CreateUserRequestSchema, {
        ...request,
        password: request.password === "" ? "" : sealer.digest(request.password, "idempotency"),
      });
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
    setUserDisabled: { resource: "user", action: "update", scope: (r) => orgOrRootScope(r.org) },
    deleteUser: { resource: "user", action: "delete", scope: (r) => orgOrRootScope(r.org) },
    unlockUser: { resource: "user", action: "update", scope: (r) => orgOrRootScope(r.org) },
  });
}
