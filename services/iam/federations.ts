import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, notFound, resourceScope } from "@ultracloud/platform";
import {
  CreateFederationRequestSchema,
  DeleteFederationRequestSchema,
  DeleteFederationResponseSchema,
  FederationSchema,
  FederationService,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { JSONWebKeySet } from "jose";
import type { Core } from "./core.ts";
import { accountKind, federationKind, principalOf } from "./kinds.ts";
import { toFederation } from "./wire.ts";

const jwksCharsMax = 32 * 1024;
const keysMax = 16;
const textCharsMax = 512;
/** Each is looked at when a foreign token is exchanged. */
export const federationsPerAccountMax = 10;

/** Lets an outside issuer's tokens stand for a service account; its keys are given, as iam fetches nothing. */
export function federationService(core: Core): BoundService {
  const { platform, access } = core;
  const scope = (project: string, account: string) =>
    resourceScope("iam", "service_account", project, account, "serviceAccount");
  return bind(FederationService, {
    async createFederation(request, context) {
      const name = checkName(request.name, "name");
      const { issuer, audience, subject } = request;
      for (const [field, value] of Object.entries({ issuer, audience, subject })) {
        if (value === "" || value.length > textCharsMax) {
          throw invalidField(field, `Cannot use ${value.length} characters: wanted 1 to ${textCharsMax}`);
        }
      }
      if (subject === "*") {
        throw invalidField("subject", "Cannot trust every subject of an issuer: wanted some of its own");
      }
      const jwks = checkJwks(request.jwks);
      const account = await platform.get(accountKind, request.project, request.serviceAccount);
      // Whoever the issuer names is the account: it is as good as being bound to all its roles.
      await access.requireAllOf(context.principal, principalOf.serviceAccount(account.id));
      return await platform.transact(async (tx) => {
        const { id: serviceAccountId } = await tx.get(accountKind, request.project, account.id);
        tx.touch(serviceAccountId);
        const held = (await tx.list(federationKind, request.project)).filter((f) =>
          f.value.serviceAccountId === serviceAccountId
        );
        if (held.length >= federationsPerAccountMax) {
          throw fault(
            "resource_exhausted",
            "federations_full",
            `Cannot trust another issuer for ${account.name} as it trusts ${federationsPerAccountMax}: wanted one deleted first`,
          );
        }
        const value = { serviceAccountId, issuer, audience, subject, jwks };
        return toFederation(await tx.create(federationKind, { project: request.project, name, value }));
      }, { idempotency: idempotencyOf(context, CreateFederationRequestSchema, request, FederationSchema) });
    },
    async listFederations(request) {
      const account = await platform.get(accountKind, request.project, request.serviceAccount);
      const all = await platform.list(federationKind, request.project);
      return { federations: all.filter((f) => f.value.serviceAccountId === account.id).map(toFederation) };
    },
    deleteFederation(request, context) {
      return platform.transact(async (tx) => {
        const account = await tx.get(accountKind, request.project, request.serviceAccount);
        const federation = await tx.get(federationKind, request.project, request.name);
        if (federation.value.serviceAccountId !== account.id) {
          throw notFound(federationKind, request.project, request.name);
        }
        tx.remove(federationKind, federation);
        return {};
      }, {
        idempotency: idempotencyOf(context, DeleteFederationRequestSchema, request, DeleteFederationResponseSchema),
      });
    },
  }, {
    createFederation: { resource: "federation", action: "create", scope: (r) => scope(r.project, r.serviceAccount) },
    listFederations: { resource: "federation", action: "list", scope: (r) => scope(r.project, r.serviceAccount) },
    deleteFederation: { resource: "federation", action: "delete", scope: (r) => scope(r.project, r.serviceAccount) },
  });
}

/** The key set without anything private in it; invalid_argument otherwise. */
function checkJwks(text: string): string {
  const wrong = (why: string) => invalidField("jwks", `Cannot use the key set: ${why}`, "invalid_jwks");
  if (text.length > jwksCharsMax) throw wrong(`wanted at most ${jwksCharsMax} characters`);
  let set: JSONWebKeySet;
  try {
    set = JSON.parse(text);
  } catch {
    throw wrong("wanted JSON");
  }
  const keys = set?.keys;
  if (!Array.isArray(keys) || keys.length === 0 || keys.length > keysMax) throw wrong(`wanted 1 to ${keysMax} keys`);
  for (const key of keys) {
    if (typeof key?.kty !== "string" || key.kty === "oct") throw wrong("wanted public keys");
    if ("d" in key) throw wrong("wanted public keys, and one of these is private");
  }
  return JSON.stringify({ keys });
}
