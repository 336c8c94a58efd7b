import { createHmac } from "node:crypto";
import { Buffer } from "node:buffer";
import { fault, invalidField, utf8 } from "@ultracloud/base";
import { idempotencyOf, notFound, resourceScope, type Tx } from "@ultracloud/platform";
import {
  AccessKeyService,
  CreateAccessKeyRequestSchema,
  CreateAccessKeyResponseSchema,
  DeleteAccessKeyRequestSchema,
  DeleteAccessKeyResponseSchema,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Core } from "./core.ts";
import { accessKeyKind, accountKind, principalOf } from "./kinds.ts";
import { newSecret, sealedAnswer } from "./seal.ts";
import { toAccessKey } from "./wire.ts";

/** Two overlap while one is being replaced, and one more for whoever forgets. */
export const accessKeysPerAccountMax = 4;
const datePattern = /^\d{8}$/;
const wordPattern = /^[a-z0-9-]{1,40}$/;

/** S3-style keys. A signature is checked with the secret itself, so it is kept sealed and never leaves: services ask for
 * the key of one day, region and service. */
export function accessKeyService(core: Core): BoundService {
  const { platform, access, sealer, rng } = core;
  const scope = (project: string, account: string) =>
    resourceScope("iam", "service_account", project, account, "serviceAccount");
  const keysOf = async (tx: Tx, project: string, accountId: string) =>
    (await tx.list(accessKeyKind, project)).filter((key) => key.value.serviceAccountId === accountId);
  return bind(AccessKeyService, {
    async createAccessKey(request, context) {
      const account = await platform.get(accountKind, request.project, request.serviceAccount);
      await access.requireAllOf(context.principal, principalOf.serviceAccount(account.id));
      const secret = newSecret(rng);
      const idempotency = idempotencyOf(context, CreateAccessKeyRequestSchema, request, CreateAccessKeyResponseSchema);
      return await platform.transact(async (tx) => {
        const { id: serviceAccountId } = await tx.get(accountKind, request.project, account.id);
        tx.touch(serviceAccountId);
        if ((await keysOf(tx, request.project, serviceAccountId)).length >= accessKeysPerAccountMax) {
          throw fault(
            "resource_exhausted",
            "access_keys_full",
            `Cannot make another access key for ${account.name} as it has ${accessKeysPerAccountMax}: wanted one deleted first`,
          );
        }
        const id = tx.newId("ak");
        const sealed = sealer.seal(utf8.encode(secret), id);
        const value = { serviceAccountId, sealed };
        return {
          key: toAccessKey(await tx.create(accessKeyKind, { project: request.project, id, name: id, value })),
          secret,
        };
      }, { idempotency: idempotency && sealedAnswer(idempotency, sealer) });
    },
    async listAccessKeys(request) {
      const account = await platform.get(accountKind, request.project, request.serviceAccount);
      return { keys: (await platform.transact((tx) => keysOf(tx, request.project, account.id))).map(toAccessKey) };
    },
    deleteAccessKey(request, context) {
      return platform.transact(async (tx) => {
        const account = await tx.get(accountKind, request.project, request.serviceAccount);
        const key = await tx.get(accessKeyKind, request.project, request.keyId);
        if (key.value.serviceAccountId !== account.id) throw notFound(accessKeyKind, request.project, request.keyId);
        tx.remove(accessKeyKind, key);
        return {};
      }, { idempotency: idempotencyOf(context, DeleteAccessKeyRequestSchema, request, DeleteAccessKeyResponseSchema) });
    },
    async deriveSigningKey({ keyId, date, region, service }) {
      if (!datePattern.test(date)) throw invalidField("date", "Cannot use the date: wanted YYYYMMDD");
      for (const [field, word] of Object.entries({ region, service })) {
        if (!wordPattern.test(word)) {
          throw invalidField(field, `Cannot use the ${field}: wanted lower-case letters, digits and hyphens`);
        }
      }
      const key = await platform.findById(accessKeyKind, keyId.slice(0, 64));
      const account = key && await platform.findById(accountKind, key.value.serviceAccountId);
      if (!key || !account || account.value.disabled) throw notFound(accessKeyKind, "", keyId.slice(0, 64));
      const secret = sealer.open(key.value.sealed, key.id);
      const mac = (with_: Uint8Array, text: string) => createHmac("sha256", with_).update(text).digest();
      const start = Buffer.concat([Buffer.from("AWS4"), secret]);
      const signingKey = [date, region, service, "aws4_request"].reduce<Uint8Array>(mac, start);
      return { signingKey: new Uint8Array(signingKey), principal: principalOf.serviceAccount(account.id) };
    },
  }, {
    createAccessKey: { resource: "access_key", action: "create", scope: (r) => scope(r.project, r.serviceAccount) },
    listAccessKeys: { resource: "access_key", action: "list", scope: (r) => scope(r.project, r.serviceAccount) },
    deleteAccessKey: { resource: "access_key", action: "delete", scope: (r) => scope(r.project, r.serviceAccount) },
    deriveSigningKey: { resource: "access_key", action: "derive", scope: () => "" },
  });
}
