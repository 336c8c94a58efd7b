import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf } from "@ultracloud/platform";
import {
  CreateOAuthClientRequestSchema,
  CreateOAuthClientResponseSchema,
  DeleteOAuthClientRequestSchema,
  DeleteOAuthClientResponseSchema,
  OAuthClientService,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Core } from "./core.ts";
import { orgOrRootScope } from "./domain/scope.ts";
import { clientKind } from "./kinds.ts";
import { redirectRefusal } from "./oauth/clients.ts";
import { orgForChild } from "./orgs.ts";
import { hashSecret, newSecret, sealedAnswer } from "./seal.ts";
import { toClient, views } from "./wire.ts";

const redirectUrisMax = 16;
/** Programs of an organisation; each login looks one up by id, so this only bounds a list. */
const clientsPerOrgMax = 1_000;

export function oauthClientService(core: Core): BoundService {
  const { platform, rng, sealer } = core;
  return bind(OAuthClientService, {
    createOAuthClient(request, context) {
      const name = checkName(request.name, "name");
      const redirectUris = checkRedirectUris(request.redirectUris);
      const secret = request.public ? "" : newSecret(rng);
      const idempotency = idempotencyOf(
        context,
        CreateOAuthClientRequestSchema,
        request,
        CreateOAuthClientResponseSchema,
      );
      return platform.transact(async (tx) => {
        const project = request.org === "" ? "" : (await orgForChild(tx, request.org)).name;
        if ((await tx.list(clientKind, project)).length >= clientsPerOrgMax) {
          throw fault(
            "resource_exhausted",
            "oauth_clients_full",
            `Cannot keep more than ${clientsPerOrgMax} OAuth clients`,
          );
        }
        const value = { redirectUris, secretHash: secret === "" ? "" : hashSecret(secret) };
        return { client: toClient(await tx.create(clientKind, { project, name, value })), secret };
      }, { idempotency: idempotency && sealedAnswer(idempotency, sealer) });
    },
    async listOAuthClients({ org, page: asked }) {
      const page = await platform.page(clientKind, { project: org, page: asked, view: views.oauth_client });
      return { clients: page.items.map(toClient), page: { nextPageToken: page.nextPageToken } };
    },
    deleteOAuthClient(request, context) {
      return platform.transact(async (tx) => {
        tx.remove(clientKind, await tx.get(clientKind, request.org, request.client));
        return {};
      }, {
        idempotency: idempotencyOf(context, DeleteOAuthClientRequestSchema, request, DeleteOAuthClientResponseSchema),
      });
    },
  }, {
    createOAuthClient: { resource: "oauth_client", action: "create", scope: (r) => orgOrRootScope(r.org) },
    listOAuthClients: { resource: "oauth_client", action: "list", scope: (r) => orgOrRootScope(r.org) },
    deleteOAuthClient: { resource: "oauth_client", action: "delete", scope: (r) => orgOrRootScope(r.org) },
  });
}

function checkRedirectUris(uris: readonly string[]): string[] {
  if (uris.length > redirectUrisMax) {
    throw invalidField("redirectUris", `Cannot keep ${uris.length} redirect URIs: wanted at most ${redirectUrisMax}`);
  }
  for (const [i, uri] of uris.entries()) {
    const refusal = redirectRefusal(uri);
    if (refusal === undefined) continue;
    throw invalidField(
      `redirectUris.${i}`,
      `Cannot use ${JSON.stringify(uri.slice(0, 80))} as a redirect URI: ${refusal}`,
    );
  }
  return [...uris];
}
