import { type StoredRecord } from "@ultracloud/platform";
import { type User, userKind } from "../kinds.ts";
import type { IssuedTokens } from "../tokens.ts";
import type { AuthorizeEndpoint } from "./authorize.ts";
import type { OAuthDeps } from "./deps.ts";
import type { DeviceEndpoint } from "./device.ts";
import { OAuthError } from "./errors.ts";
import { accessTokenType, tokenExchange } from "./exchange.ts";

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code";
const exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange";

export const grantTypes = [
  "authorization_code",
  "client_credentials",
  "refresh_token",
  deviceGrant,
  exchangeGrant,
] as const;

/** Claims that tell who a user is, by the scopes a program got. */
export function personClaims(user: StoredRecord<User>, scope: string): Record<string, unknown> {
  const scopes = scope.split(" ");
  const full = user.project === "" ? user.name : `${user.project}/${user.name}`;
  return {
    ...(scopes.includes("profile") ? { name: full, preferred_username: full } : {}),
    ...(scopes.includes("email") && user.value.email !== "" ? { email: user.value.email } : {}),
  };
}

/** The token endpoint (RFC 6749 section 3.2): answers the body of a success, throws otherwise. */
export function tokenEndpoint(
  deps: OAuthDeps & { readonly authorize: AuthorizeEndpoint; readonly device: DeviceEndpoint },
): (authorization: string | null, form: ReadonlyMap<string, string>) => Promise<Record<string, unknown>> {
  const { core, clients, authorize, device } = deps;
  const { tokens, platform } = core;
  const exchange = tokenExchange(deps);

  /** The user, unless disabled or gone meanwhile. */
  const living = async (userId: string): Promise<StoredRecord<User>> => {
    const user = await platform.findById(userKind, userId);
    if (user && !user.value.disabled) return user;
    throw new OAuthError("invalid_grant", "Cannot log in: the user is gone or disabled");
  };

  const loggedIn = async (
    client: string,
    user: StoredRecord<User>,
    scope: string,
    o: { readonly id?: string; readonly nonce?: string | undefined } = {},
  ) => {
    const issued = await tokens.login(user.id, { client, scope, ...(o.id === undefined ? {} : { id: o.id }) });
    return await withIdToken(client, user, issued, o.nonce);
  };

  const withIdToken = async (client: string, user: StoredRecord<User>, issued: IssuedTokens, nonce?: string) => {
    if (!issued.scope.split(" ").includes("openid")) return bodyOf(issued);
    const idToken = await tokens.idToken({
      principal: issued.principal,
      client,
      accessToken: issued.accessToken,
      authTimeMs: issued.authTimeMs ?? 0,
      nonce,
      claims: personClaims(user, issued.scope),
    });
    return { ...bodyOf(issued), id_token: idToken };
  };

  return async (authorization, form) => {
    switch (form.get("grant_type")) {
      case "client_credentials": {
        const client = await clients.authenticate(authorization, form);
        if (client.principal === undefined) {
          throw new OAuthError("unauthorized_client", "Cannot give the client a token of its own: wanted an API key");
        }
        const issued = await tokens.access(client.principal, client.id);
        core.log.info("audit", { event: "login", how: "api_key", outcome: "ok", principal: client.principal });
        return bodyOf(issued);
      }
      case "authorization_code": {
        const client = await clients.authenticate(authorization, form);
        const redeemed = await authorize.redeem({
          code: form.get("code") ?? "",
          client: client.id,
          redirectUri: form.get("redirect_uri") ?? "",
          verifier: form.get("code_verifier") ?? "",
        });
        const user = await living(redeemed.userId);
        return await loggedIn(client.id, user, redeemed.scope, { id: redeemed.loginId, nonce: redeemed.nonce });
      }
      case deviceGrant: {
        const client = await clients.authenticate(authorization, form);
        const { userId, scope } = await device.poll(client, form.get("device_code") ?? "");
        return await loggedIn(client.id, await living(userId), scope);
      }
      case "refresh_token": {
        const client = await clients.authenticate(authorization, form);
        const issued = await tokens.refresh(form.get("refresh_token") ?? "", client.id);
        return await withIdToken(client.id, await living(issued.principal.slice("user:".length)), issued);
      }
      case exchangeGrant: {
        // A workload elsewhere has nothing but its token: then that alone is the proof.
        const anonymous = authorization === null && !form.has("client_id");
        const client = anonymous ? "exchange" : (await clients.authenticate(authorization, form)).id;
        return { ...bodyOf(await exchange(client, form)), issued_token_type: accessTokenType };
      }
      case undefined:
        throw new OAuthError("invalid_request", "Cannot give a token without grant_type");
      default:
        throw new OAuthError(
          "unsupported_grant_type",
          `Cannot use the grant_type: wanted one of ${grantTypes.join(", ")}`,
        );
    }
  };
}

function bodyOf(issued: IssuedTokens): Record<string, unknown> {
  return {
    access_token: issued.accessToken,
    token_type: "Bearer",
    expires_in: Math.floor(Number(issued.expiresInMs) / 1000),
    ...(issued.refreshToken === "" ? {} : { refresh_token: issued.refreshToken }),
    ...(issued.scope === "" ? {} : { scope: issued.scope }),
  };
}
