import { checkName, checkProject, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, notFound, projectScope, resourceScope, type Tx } from "@ultracloud/platform";
import {
  CreateApiKeyRequestSchema,
  CreateApiKeyResponseSchema,
  CreateServiceAccountRequestSchema,
  DeleteApiKeyRequestSchema,
  DeleteApiKeyResponseSchema,
  DeleteServiceAccountRequestSchema,
  DeleteServiceAccountResponseSchema,
  RotateApiKeyRequestSchema,
  ServiceAccountSchema,
  ServiceAccountService,
  SetServiceAccountDisabledRequestSchema,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { changePolicy, type Core, dropBindingsOf } from "./core.ts";
import { leaveGroups } from "./groups.ts";
import { accessKeyKind, accountKind, federationKind, keyKind, principalOf, projectKind, rowKeys } from "./kinds.ts";
import { hashSecret, newSecret, sealedAnswer } from "./seal.ts";
import { toAccount, toKey, views } from "./wire.ts";

const dayMs = 24 * 3600 * 1000;
export const keyTtlMsDefault = 90 * dayMs;
export const keyTtlMsMax = 366 * dayMs;
/** How long a replaced key stays good, so that whoever uses it can be told. */
export const keyOverlapMsDefault = dayMs;
export const keyOverlapMsMax = 30 * dayMs;
/** Two overlap while one is being replaced; more than a few are forgotten ones. */
export const keysPerAccountMax = 10;

export function serviceAccountService(core: Core): BoundService {
  const { platform, tokens, access, sealer, rng } = core;
  const scope = (project: string, account: string) =>
    resourceScope("iam", "service_account", project, account, "serviceAccount");
  const keysOf = async (tx: Tx, project: string, accountId: string) =>
    (await tx.list(keyKind, project)).filter((key) => key.value.serviceAccountId === accountId);
  return bind(ServiceAccountService, {
    createServiceAccount(request, context) {
      const name = checkName(request.name, "name");
      const { org, project } = checkProject(request.project);
      return platform.transact(async (tx) => {
        tx.touch((await tx.get(projectKind, org, project)).id);
        return toAccount(
          await tx.create(accountKind, {
            project: request.project,
            name,
            labels: request.labels,
            value: { disabled: false },
          }),
        );
      }, { idempotency: idempotencyOf(context, CreateServiceAccountRequestSchema, request, ServiceAccountSchema) });
    },
    getServiceAccount: async (request) =>
      toAccount(await platform.get(accountKind, request.project, request.serviceAccount)),
    async listServiceAccounts({ project, page: asked }) {
      const page = await platform.page(accountKind, { project, page: asked, view: views.service_account });
      return { serviceAccounts: page.items.map(toAccount), page: { nextPageToken: page.nextPageToken } };
    },
    setServiceAccountDisabled(request, context) {
      const { disabled } = request;
      return changePolicy(core, async (tx) => {
        const account = await tx.get(accountKind, request.project, request.serviceAccount);
        if (disabled) tokens.revoke(tx, principalOf.serviceAccount(account.id));
        return toAccount(tx.update(accountKind, account, { value: { ...account.value, disabled } }));
      }, {
        idempotency: idempotencyOf(context, SetServiceAccountDisabledRequestSchema, request, ServiceAccountSchema),
      });
    },
    deleteServiceAccount(request, context) {
      return changePolicy(core, async (tx) => {
        const account = await tx.get(accountKind, request.project, request.serviceAccount);
        const principal = principalOf.serviceAccount(account.id);
        await tx.guard(account.id);
        for (const key of await keysOf(tx, request.project, account.id)) tx.remove(keyKind, key);
        for (const key of await tx.list(accessKeyKind, request.project)) {
          if (key.value.serviceAccountId === account.id) tx.remove(accessKeyKind, key);
        }
        for (const federation of await tx.list(federationKind, request.project)) {
          if (federation.value.serviceAccountId === account.id) tx.remove(federationKind, federation);
        }
        tokens.revoke(tx, principal);
        await dropBindingsOf(tx, principal);
        await leaveGroups(tx, principal);
        tx.deleteRow(rowKeys.boundary(request.project.split("/")[0]!, principal));
        tx.remove(accountKind, account);
        return {};
      }, {
        idempotency: idempotencyOf(
          context,
          DeleteServiceAccountRequestSchema,
          request,
          DeleteServiceAccountResponseSchema,
        ),
      });
    },
    async createApiKey(request, context) {
      const ttlMs = keyTtlOf(request);
      const account = await platform.get(accountKind, request.project, request.serviceAccount);
      // Whoever has a key is the account: it is as good as being bound to all its roles.
      await access.requireAllOf(context.principal, principalOf.serviceAccount(account.id));
      const secret = newSecret(rng);
      const idempotency = idempotencyOf(context, CreateApiKeyRequestSchema, request, CreateApiKeyResponseSchema);
      return await platform.transact(async (tx) => {
        const { id: serviceAccountId } = await tx.get(accountKind, request.project, account.id);
        tx.touch(serviceAccountId);
        if ((await keysOf(tx, request.project, serviceAccountId)).length >= keysPerAccountMax) {
          throw keysFull(account.name);
        }
        const id = tx.newId("key");
        const key = await tx.create(keyKind, {
          project: request.project,
          id,
          name: id,
          value: { serviceAccountId, secretHash: hashSecret(secret), expiresAtMs: tx.nowMs + ttlMs },
        });
        return { key: toKey(key), secret };
      }, { idempotency: idempotency && sealedAnswer(idempotency, sealer) });
    },
    async rotateApiKey(request, context) {
      const ttlMs = keyTtlOf(request);
      const overlapMs = Number(request.overlapMs) || keyOverlapMsDefault;
      if (overlapMs < 0 || overlapMs > keyOverlapMsMax) {
        throw invalidField("overlapMs", `Cannot keep the old key ${overlapMs} ms: wanted 0 to ${keyOverlapMsMax}`);
      }
      const account = await platform.get(accountKind, request.project, request.serviceAccount);
      await access.requireAllOf(context.principal, principalOf.serviceAccount(account.id));
      const secret = newSecret(rng);
      const idempotency = idempotencyOf(context, RotateApiKeyRequestSchema, request, CreateApiKeyResponseSchema);
      return await platform.transact(async (tx) => {
        const { id: serviceAccountId } = await tx.get(accountKind, request.project, account.id);
        tx.touch(serviceAccountId);
        const old = await tx.get(keyKind, request.project, request.keyId);
        if (old.value.serviceAccountId !== serviceAccountId) throw notFound(keyKind, request.project, request.keyId);
        if ((await keysOf(tx, request.project, serviceAccountId)).length >= keysPerAccountMax) {
          throw keysFull(account.name);
        }
        // It ends by itself, and never later than it would have.
        tx.update(keyKind, old, {
          value: { ...old.value, expiresAtMs: Math.min(old.value.expiresAtMs, tx.nowMs + overlapMs) },
        });
        const id = tx.newId("key");
        const value = { serviceAccountId, secretHash: hashSecret(secret), expiresAtMs: tx.nowMs + ttlMs };
        return { key: toKey(await tx.create(keyKind, { project: request.project, id, name: id, value })), secret };
      }, { idempotency: idempotency && sealedAnswer(idempotency, sealer) });
    },
    async listApiKeys(request) {
      const account = await platform.get(accountKind, request.project, request.serviceAccount);
      return { keys: (await platform.transact((tx) => keysOf(tx, request.project, account.id))).map(toKey) };
    },
    deleteApiKey(request, context) {
      // Tokens the key has fetched go with it.
      return changePolicy(core, async (tx) => {
        const account = await tx.get(accountKind, request.project, request.serviceAccount);
        const key = await tx.get(keyKind, request.project, request.keyId);
        if (key.value.serviceAccountId !== account.id) throw notFound(keyKind, request.project, request.keyId);
        await tokens.revokeId(tx, principalOf.serviceAccount(account.id), key.id);
        tx.remove(keyKind, key);
        return {};
      }, { idempotency: idempotencyOf(context, DeleteApiKeyRequestSchema, request, DeleteApiKeyResponseSchema) });
    },
  }, {
    createServiceAccount: { resource: "service_account", action: "create", scope: (r) => projectScope(r.project) },
    getServiceAccount: {
      resource: "service_account",
      action: "get",
      scope: (r) => scope(r.project, r.serviceAccount),
    },
    listServiceAccounts: { resource: "service_account", action: "list", scope: (r) => projectScope(r.project) },
    setServiceAccountDisabled: {
      resource: "service_account",
      action: "update",
      scope: (r) => scope(r.project, r.serviceAccount),
    },
    deleteServiceAccount: {
      resource: "service_account",
      action: "delete",
      scope: (r) => scope(r.project, r.serviceAccount),
    },
    createApiKey: { resource: "api_key", action: "create", scope: (r) => scope(r.project, r.serviceAccount) },
    rotateApiKey: { resource: "api_key", action: "create", scope: (r) => scope(r.project, r.serviceAccount) },
    listApiKeys: { resource: "api_key", action: "list", scope: (r) => scope(r.project, r.serviceAccount) },
    deleteApiKey: { resource: "api_key", action: "delete", scope: (r) => scope(r.project, r.serviceAccount) },
  });
}

function keysFull(account: string) {
  return fault(
    "resource_exhausted",
    "api_keys_full",
    `Cannot make another key for ${account} as it has ${keysPerAccountMax}: wanted one deleted first`,
  );
}

function keyTtlOf(request: { readonly ttlMs: bigint }): number {
  const ttlMs = Number(request.ttlMs);
  if (ttlMs >= 0 && ttlMs <= keyTtlMsMax) return ttlMs === 0 ? keyTtlMsDefault : ttlMs;
  throw invalidField("ttlMs", `Cannot make a key that lives ${ttlMs} ms: wanted 0 to ${keyTtlMsMax}`);
}
