import { fault, isId } from "@ultracloud/base";
import { resourceScope } from "@ultracloud/platform";
import type { Principal } from "@ultracloud/rpc";
import { createLocalJWKSet, decodeJwt, type JWTPayload, jwtVerify } from "jose";
import { accountKind, type Federation, federationKind, principalOf, type ServiceAccount } from "../kinds.ts";
import type { StoredRecord } from "@ultracloud/platform";
import type { IssuedTokens } from "../tokens.ts";
import type { OAuthDeps } from "./deps.ts";
import { OAuthError } from "./errors.ts";

const tokenType = "urn:ietf:params:oauth:token-type:";
export const accessTokenType = `${tokenType}access_token`;
const foreignTypes = new Set([`${tokenType}jwt`, `${tokenType}id_token`]);
/** Only signatures with a public key: a shared secret would let its other holder log in. */
const foreignAlgorithms = ["EdDSA", "ES256", "ES384", "RS256", "PS256"];
const clockSkewSeconds = 5;

/**
 * Token exchange (RFC 8693). A token of ours becomes one of the same principal with an actor, or, for who may, of a
 * service account. A token of an outside issuer becomes one of the service account that trusts it. Nothing it gives
 * lives longer than what it was given.
 */
export function tokenExchange(
  deps: OAuthDeps,
): (client: string, form: ReadonlyMap<string, string>) => Promise<IssuedTokens> {
  const { core, authenticator } = deps;
  const { platform, access, tokens, clock } = core;

  const verify = async (token: string): Promise<{ principal: Principal; claims: JWTPayload }> => {
    const headers = new Headers();
    try {
      headers.set("authorization", `Bearer ${token}`);
    } catch {
      throw invalid("Cannot read the token");
    }
    let principal: Principal;
    try {
      principal = await authenticator.authenticate(headers, { certificateId: undefined });
    } catch {
      throw invalid("Cannot accept the token: it is wrong, expired or revoked");
    }
    if (principal.kind !== "user" && principal.kind !== "service_account") {
      throw invalid("Cannot exchange the token of a component");
    }
    return { principal, claims: decodeJwt(token) };
  };

  const account = async (subject: string): Promise<StoredRecord<ServiceAccount>> => {
    const id = subject.slice("service_account:".length);
    const found = subject.startsWith("service_account:") && isId("sa", id)
      ? await platform.findById(accountKind, id)
      : undefined;
    if (found && !found.value.disabled) return found;
    throw invalid("Cannot exchange for requested_subject: wanted service_account:ID of one that exists");
  };

  const left = (claims: JWTPayload) => Math.max(1_000, (claims.exp ?? 0) * 1_000 - clock.nowMs());

  const own = async (client: string, form: ReadonlyMap<string, string>): Promise<IssuedTokens> => {
    const { principal, claims } = await verify(form.get("subject_token") ?? "");
    if (claims.act !== undefined) throw invalid("Cannot exchange a token that somebody acts with already");
    const base = { ttlMs: left(claims), ...(typeof claims.sid === "string" ? { sid: claims.sid } : {}) };
    const subject = form.get("requested_subject");
    const actorToken = form.get("actor_token");
    if (subject !== undefined) {
      const target = await account(subject);
      const scope = resourceScope("iam", "service_account", target.project, target.id, "requested_subject");
      if (!await access.allowed(principal, "iam.service_account.impersonate", scope)) {
        throw fault("permission_denied", "permission_denied", "Cannot act as the service account: not allowed");
      }
      // Acting as the account is holding all it holds, as with a key of it.
      await access.requireAllOf(principal, principalOf.serviceAccount(target.id));
      core.log.info("audit", { event: "impersonate", principal: principal.id, target: subject, timeMs: clock.nowMs() });
      return await tokens.access(principalOf.serviceAccount(target.id), client, {
        ...base,
        act: { sub: principal.id },
      });
    }
    if (actorToken === undefined) return await tokens.access(principal.id, client, base);
    const actor = await verify(actorToken);
    const ttlMs = Math.min(base.ttlMs, left(actor.claims));
    return await tokens.access(principal.id, client, { ...base, ttlMs, act: { sub: actor.principal.id } });
  };

  const foreign = async (client: string, form: ReadonlyMap<string, string>): Promise<IssuedTokens> => {
    const token = form.get("subject_token") ?? "";
    const target = await account(form.get("requested_subject") ?? "");
    const federations = (await platform.list(federationKind, target.project)).filter((f) =>
      f.value.serviceAccountId === target.id
    );
    for (const { value } of federations) {
      const claims = await trusted(value, token, clock.nowMs());
      if (!claims) continue;
      const principal = principalOf.serviceAccount(target.id);
      core.log.info("audit", { event: "login", how: "federation", outcome: "ok", principal, timeMs: clock.nowMs() });
      return await tokens.access(principal, client, {
        ttlMs: left(claims),
        act: { sub: `${value.issuer}#${claims.sub}` },
      });
    }
    throw invalid("Cannot accept the token: the service account trusts no issuer, audience and subject like its");
  };

  return (client, form) => {
    const type = form.get("subject_token_type") ?? "";
    const wanted = form.get("requested_token_type") ?? accessTokenType;
    if (wanted !== accessTokenType) throw invalid("Cannot give the requested_token_type: wanted an access token");
    const audience = form.get("audience") ?? form.get("resource") ?? "ultracloud";
    if (audience !== "ultracloud") {
      throw new OAuthError("invalid_target", "Cannot give a token for another audience than ultracloud");
    }
    if (type === accessTokenType) return own(client, form);
    if (foreignTypes.has(type)) return foreign(client, form);
    throw invalid("Cannot exchange the subject_token_type: wanted an access token, a JWT or an ID token");
  };
}

/** The claims of a foreign token that the federation trusts; undefined when it does not. */
async function trusted(federation: Federation, token: string, nowMs: number): Promise<JWTPayload | undefined> {
  try {
    const { payload } = await jwtVerify(token, createLocalJWKSet(JSON.parse(federation.jwks)), {
      issuer: federation.issuer,
      audience: federation.audience,
      algorithms: foreignAlgorithms,
      currentDate: new Date(nowMs),
      clockTolerance: clockSkewSeconds,
      requiredClaims: ["exp", "sub"],
    });
    return subjectMatches(federation.subject, payload.sub!) ? payload : undefined;
  } catch {
    return undefined;
  }
}

export function subjectMatches(pattern: string, subject: string): boolean {
  return pattern.endsWith("*") ? subject.startsWith(pattern.slice(0, -1)) : subject === pattern;
}

function invalid(message: string): OAuthError {
  return new OAuthError("invalid_request", message);
}
