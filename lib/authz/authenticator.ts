import { type Clock, fault } from "@ultracloud/base";
import type { Authenticator, Principal } from "@ultracloud/rpc";
import { anonymous } from "@ultracloud/rpc";
import { decodeJwt, decodeProtectedHeader, errors, type JWTPayload, jwtVerify } from "jose";
import type { PolicySnapshot } from "./policy.ts";
import type { PolicyView } from "./policy_view.ts";
import type { TrustStore } from "./trust.ts";
import { workloadTokenTtlMs, workloadTokenTyp } from "./workload.ts";

/** A longer header is nobody's token. */
const headerCharsMax = 8_192;
/** Verified tokens kept: one entry is about 1 KiB. */
const cacheMaxDefault = 10_000;
/** How far clocks of two hosts may differ. */
export const clockSkewMs = 5_000;
/** `aud` of user tokens. */
export const userAudience = "ultracloud";

interface Entry {
  readonly principal: Principal;
  readonly expiresAtMs: number;
  readonly generation: number;
}

function refused(code: string, message: string, cause?: unknown) {
  return fault("unauthenticated", code, message, cause === undefined ? {} : { cause });
}

/**
 * Verifies `authorization: Bearer` tokens: workload tokens against the trust file, user tokens against the policy
 * snapshot's keys. A verified token is remembered until it expires or trust or policy change, so a hit answers
 * synchronously. No credentials at all is the anonymous principal; wrong ones are refused.
 */
export function createAuthenticator(
  options: { /** Own SPIFFE id. */ readonly audience: string; readonly cacheMax?: number },
  deps: { readonly trust: TrustStore; readonly policy?: PolicyView; readonly clock: Clock },
): Authenticator {
  const { trust, policy, clock } = deps;
  const cacheMax = options.cacheMax ?? cacheMaxDefault;
  const cache = new Map<string, Entry>();
  const generation = () => trust.generation * 1_000_000_007 + (policy?.version ?? 0);

  const verify = async (header: string): Promise<Principal> => {
    await trust.refresh();
    const token = header.slice("Bearer ".length);
    let issuer: string | undefined;
    try {
      if (decodeProtectedHeader(token).alg !== "EdDSA") throw new Error("algorithm");
      issuer = decodeJwt(token).iss;
    } catch (cause) {
      throw refused("token_malformed", "Cannot read the token: wanted a JWT signed with EdDSA", cause);
    }
    const verified = issuer?.startsWith("spiffe://")
      ? await verifyWorkload(token, issuer)
      : await verifyUser(token, issuer);
    if (cache.size >= cacheMax) cache.delete(cache.keys().next().value!);
    cache.set(header, { ...verified, generation: generation() });
    return verified.principal;
  };

  const verifyWorkload = async (token: string, issuer: string) => {
    const key = trust.key(issuer);
    if (!key) throw refused("issuer_untrusted", `Cannot trust ${issuer}: it is not in the trust file`);
    const { payload } = await checked(() =>
      jwtVerify(token, key, {
        algorithms: ["EdDSA"],
        typ: workloadTokenTyp,
        issuer,
        audience: options.audience,
        currentDate: new Date(clock.nowMs()),
        clockTolerance: clockSkewMs / 1000,
        requiredClaims: ["exp", "iat", "sub"],
        maxTokenAge: (workloadTokenTtlMs + clockSkewMs) / 1000,
      })
    );
    if (payload.sub !== issuer) {
      throw refused("token_invalid", "Cannot accept the token: its subject is not its issuer");
    }
    return { principal: { kind: "workload", id: issuer } as const, expiresAtMs: payload.exp! * 1000 };
  };

  const verifyUser = async (token: string, issuer: string | undefined) => {
    if (!policy) {
      throw refused("workloads_only", "Cannot accept a user's token here: this component serves other components");
    }
    const snapshot = policy.index()?.snapshot;
    if (!snapshot) {
      throw fault("unavailable", "policy_missing", "Cannot check the token yet: no policy has come from iam");
    }
    if (issuer !== snapshot.issuer) throw refused("issuer_untrusted", "Cannot trust the token's issuer");
    const { kid } = decodeProtectedHeader(token);
    const key = kid === undefined ? undefined : policy.key(kid);
    if (!key) throw refused("key_unknown", "Cannot check the token: its signing key is not known or was retired");
    const { payload } = await checked(() =>
      jwtVerify(token, key, {
        algorithms: ["EdDSA"],
        typ: "at+jwt",
        issuer: snapshot.issuer,
        audience: userAudience,
        currentDate: new Date(clock.nowMs()),
        clockTolerance: clockSkewMs / 1000,
        requiredClaims: ["exp", "iat", "sub"],
      })
    );
    const id = payload.sub!;
    const kind = id.startsWith("user:") ? "user" : id.startsWith("service_account:") ? "service_account" : undefined;
    if (!kind) {
      throw refused("token_invalid", "Cannot accept the token: its subject is neither a user nor a service account");
    }
    if (isRevoked(snapshot, payload)) throw refused("token_revoked", "Cannot accept the token: it was revoked");
    return { principal: { kind, id } as Principal, expiresAtMs: payload.exp! * 1000 };
  };

  return {
    revoked(headers) {
      const header = headers.get("authorization");
      if (header === null) return undefined;
      trust.refreshSoon();
      // It was verified when the call came in.
      const token = header.slice("Bearer ".length);
      const { iss } = decodeJwt(token);
      if (iss?.startsWith("spiffe://")) {
        return trust.key(iss) ? undefined : refused("issuer_untrusted", `Cannot go on: ${iss} is trusted no more`);
      }
      const snapshot = policy?.index()?.snapshot;
      if (snapshot === undefined) return undefined;
      const known = policy!.key(decodeProtectedHeader(token).kid ?? "") !== undefined;
      if (known && !isRevoked(snapshot, decodeJwt(token))) return undefined;
      return refused("token_revoked", "Cannot go on with the token: it was revoked");
    },
    authenticate(headers) {
      const header = headers.get("authorization");
      if (header === null) return anonymous;
      const hit = cache.get(header);
      if (hit) {
        // A key that was taken out of the trust file must not live on in the cache.
        trust.refreshSoon();
        if (hit.generation === generation() && clock.nowMs() < hit.expiresAtMs) return hit.principal;
        cache.delete(header);
      }
      if (header.length > headerCharsMax) {
        throw refused(
          "token_too_long",
          `Cannot read a token of ${header.length} characters: wanted at most ${headerCharsMax}`,
        );
      }
      if (!header.startsWith("Bearer ")) {
        throw refused("scheme_unknown", "Cannot read the authorization header: wanted Bearer");
      }
      return verify(header);
    },
  };
}

/** True when the token, its login, the key it was made with, its subject or who acts for that is revoked. */
function isRevoked(snapshot: PolicySnapshot, payload: JWTPayload): boolean {
  // Millisecond issue time when iam gives it: a token made right after a revocation is good.
  const issuedAtMs = typeof payload.iat_ms === "number" ? payload.iat_ms : payload.iat! * 1000;
  for (const who of [payload.sub, (payload.act as { sub?: unknown } | undefined)?.sub]) {
    const before = typeof who === "string" ? snapshot.revokedBefore[who] : undefined;
    if (before !== undefined && issuedAtMs < before) return true;
  }
  const revoked = snapshot.revokedIds;
  if (revoked === undefined) return false;
  return [payload.jti, payload.sid, payload.client_id].some((id) =>
    typeof id === "string" && Object.hasOwn(revoked, id)
  );
}

/** Every way a token can be wrong is one answer to the caller: which check failed, never why in detail. */
async function checked<T>(verify: () => Promise<T>): Promise<T> {
  try {
    return await verify();
  } catch (cause) {
    if (cause instanceof errors.JWTExpired) {
      throw refused("token_expired", "Cannot accept the token: it has expired", cause);
    }
    throw refused("token_invalid", "Cannot accept the token: its signature or claims do not hold", cause);
  }
}
