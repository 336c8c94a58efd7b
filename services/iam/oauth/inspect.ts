import { fault } from "@ultracloud/base";
import type { Principal } from "@ultracloud/rpc";
import { decodeJwt, type JWTPayload } from "jose";
import { changePolicy } from "../core.ts";
import { userKind } from "../kinds.ts";
import type { OAuthDeps } from "./deps.ts";
import type { OAuthCaller } from "./clients.ts";
import { personClaims } from "./token.ts";

export interface InspectEndpoints {
  /** What a token is (RFC 7662); of a token the client has no part in nothing but that it is not active. */
  introspect(client: OAuthCaller, form: ReadonlyMap<string, string>): Promise<Record<string, unknown>>;
  /** Ends a token the client got (RFC 7009). An unknown one is no error. */
  revoke(client: OAuthCaller, form: ReadonlyMap<string, string>): Promise<void>;
  /** Who the bearer is (OpenID Connect Core section 5.3). */
  userinfo(headers: Headers): Promise<Record<string, unknown>>;
}

export function inspectEndpoints(deps: OAuthDeps): InspectEndpoints {
  const { core, issuer, authenticator } = deps;
  const { tokens, access, platform } = core;

  /** Principal and claims of an access token that is good now. */
  const good = async (token: string): Promise<{ principal: Principal; claims: JWTPayload } | undefined> => {
    try {
      const headers = new Headers({ authorization: `Bearer ${token}` });
      const principal = await authenticator.authenticate(headers, { certificateId: undefined });
      if (principal.kind !== "user" && principal.kind !== "service_account") return undefined;
      return { principal, claims: decodeJwt(token) };
    } catch {
      return undefined;
    }
  };

  /** Resource servers ask about anybody's tokens: their service account may be allowed to. */
  const mayAsk = async (client: OAuthCaller, owner: unknown): Promise<boolean> => {
    if (client.id === owner) return true;
    if (client.principal === undefined) return false;
    return await access.allowed({ kind: "service_account", id: client.principal }, "iam.token.introspect", "");
  };

  return {
    async introspect(client, form) {
      const token = form.get("token") ?? "";
      if (token.startsWith("ucr_")) {
        const login = await tokens.inspectRefresh(token);
        if (!login || !await mayAsk(client, login.client)) return { active: false };
        return {
          active: true,
          sub: login.principal,
          client_id: login.client,
          iss: issuer,
          exp: Math.floor(login.endMs / 1000),
          ...(login.scope === "" ? {} : { scope: login.scope }),
        };
      }
      const found = await good(token);
      if (!found || !await mayAsk(client, found.claims.client_id)) return { active: false };
      const { iss, sub, aud, exp, iat, jti, client_id, scope, act } = found.claims;
      return { active: true, token_type: "Bearer", iss, sub, aud, exp, iat, jti, client_id, scope, act };
    },

    async revoke(client, form) {
      const token = form.get("token") ?? "";
      let changed = false;
      if (token.startsWith("ucr_")) changed = await tokens.endLogin(token, client.id);
      else {
        const found = await good(token);
        if (found && found.claims.client_id === client.id && typeof found.claims.jti === "string") {
          const { jti } = found.claims;
          await changePolicy(core, (tx) => tokens.revokeId(tx, found.principal.id, jti));
        }
      }
      if (changed) await core.policy.refresh();
    },

    async userinfo(headers) {
      const principal = await authenticator.authenticate(headers, { certificateId: undefined });
      if (principal.kind !== "user") {
        throw fault("unauthenticated", "token_missing", "Cannot tell who asks: wanted the access token of a user");
      }
      const claims = decodeJwt(headers.get("authorization")!.slice("Bearer ".length));
      const scope = typeof claims.scope === "string" ? claims.scope : "";
      const user = await platform.findById(userKind, principal.id.slice("user:".length));
      if (!user) throw fault("unauthenticated", "token_revoked", "Cannot tell who asks: the user is gone");
      return { sub: principal.id, ...personClaims(user, scope) };
    },
  };
}
