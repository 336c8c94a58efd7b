import { createHash } from "node:crypto";
import { type Clock, fault, type Rng, ulid } from "@ultracloud/base";
import { userAudience } from "@ultracloud/authz";
import type { Logger } from "@ultracloud/observe";
import type { Platform, Tx } from "@ultracloud/platform";
import { SignJWT } from "jose";
import type { Keyring } from "./keyring.ts";
import { principalOf, rowKeys, userKind } from "./kinds.ts";
import { hashSecret, newSecret } from "./seal.ts";

export interface TokenOptions {
  readonly issuer: string;
  readonly accessTtlMs: number;
  /** Life of a login, however often it is refreshed. */
  readonly loginTtlMs: number;
}

/** What a token endpoint answers. */
export interface IssuedTokens {
  readonly accessToken: string;
  readonly expiresInMs: bigint;
  readonly refreshToken: string;
  readonly principal: string;
  /** What the token is for, as OAuth says it; empty for none. */
  readonly scope: string;
  /** After a password login from a device that was not known. */
  readonly deviceToken?: string;
  /** When the person logged in; of a refreshed login the first time. */
  readonly authTimeMs?: number;
}

/** Claims of an access token beyond who it is for. */
export interface AccessClaims {
  /** The login it belongs to: revoking that revokes it. */
  readonly sid?: string;
  readonly scope?: string;
  /** Who acts for the subject (RFC 8693). */
  readonly act?: { readonly sub: string };
  /** At most the configured life. */
  readonly ttlMs?: number;
}

/** One login: the refresh token that is good now, by hash. */
interface Family {
  readonly principal: string;
  readonly secretHash: string;
  readonly startMs: number;
  readonly endMs: number;
  /** The OAuth client that may renew it; absent in rows of before there were others than `uc`. */
  readonly client?: string;
  readonly scope?: string;
}

interface Revocation {
  readonly beforeMs: number;
}

/** The built-in OAuth client. */
export const ucClientId = "uc";
/** Single tokens and logins of one principal revoked at a time; one more revokes all of them, to bound the policy. */
export const revokedIdsPerPrincipalMax = 50;
/** Verifiers' clocks may be behind by this. */
const skewMs = 60_000;

const refreshPattern = /^ucr_([0-9A-HJKMNP-TV-Z]{26})_([A-Za-z0-9_-]{43})$/;

/** Makes, renews and revokes tokens. */
export class TokenMaker {
  readonly #options: TokenOptions;
  readonly #platform: Platform;
  readonly #keyring: Keyring;
  readonly #clock: Clock;
  readonly #rng: Rng;
  readonly #log: Logger;

  constructor(
    options: TokenOptions,
    deps: {
      readonly platform: Platform;
      readonly keyring: Keyring;
      readonly clock: Clock;
      readonly rng: Rng;
      readonly log: Logger;
    },
  ) {
    this.#options = options;
    this.#platform = deps.platform;
    this.#keyring = deps.keyring;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
    this.#log = deps.log;
  }

  /** An access token (RFC 9068) for the principal. `client` is what asked for it. */
  async access(principal: string, client: string, claims: AccessClaims = {}): Promise<IssuedTokens> {
    const { kid, key } = this.#keyring.signingKey();
    const nowMs = this.#clock.nowMs();
    const { ttlMs: wantedMs, ...more } = claims;
    const ttlMs = Math.min(wantedMs ?? this.#options.accessTtlMs, this.#options.accessTtlMs);
    const accessToken = await new SignJWT({
      ...more,
      client_id: client,
      // Whole seconds cannot tell a token made just after a revocation from one made just before.
      iat_ms: nowMs,
    }).setProtectedHeader({ alg: "EdDSA", typ: "at+jwt", kid })
      .setIssuer(this.#options.issuer)
      .setAudience(userAudience)
      .setSubject(principal)
      .setJti(ulid(this.#clock, this.#rng))
      .setIssuedAt(Math.floor(nowMs / 1000))
      .setExpirationTime(Math.floor((nowMs + ttlMs) / 1000))
      .sign(key);
    return { accessToken, expiresInMs: BigInt(ttlMs), refreshToken: "", principal, scope: claims.scope ?? "" };
  }

  /** Tells a program who logged in (OpenID Connect Core section 2). Never good as an access token: its `typ` differs. */
  async idToken(
    o: {
      readonly principal: string;
      readonly client: string;
      readonly accessToken: string;
      readonly authTimeMs: number;
      readonly nonce?: string | undefined;
      readonly claims: Readonly<Record<string, unknown>>;
    },
  ): Promise<string> {
    const { kid, key } = this.#keyring.signingKey();
    const nowMs = this.#clock.nowMs();
    // The hash of Ed25519 is SHA-512; half of it names the access token.
    const hash = createHash("sha512").update(o.accessToken).digest().subarray(0, 32).toString("base64url");
    return await new SignJWT({
      ...o.claims,
      ...(o.nonce === undefined ? {} : { nonce: o.nonce }),
      at_hash: hash,
      auth_time: Math.floor(o.authTimeMs / 1000),
    }).setProtectedHeader({ alg: "EdDSA", typ: "JWT", kid })
      .setIssuer(this.#options.issuer)
      .setAudience(o.client)
      .setSubject(o.principal)
      .setIssuedAt(Math.floor(nowMs / 1000))
      .setExpirationTime(Math.floor((nowMs + this.#options.accessTtlMs) / 1000))
      .sign(key);
  }

  /** Starts a login of a user: an access token and the refresh token that renews it. `id` names the login. */
  async login(
    userId: string,
    o: { readonly client?: string; readonly scope?: string; readonly id?: string } = {},
  ): Promise<IssuedTokens> {
    const principal = principalOf.user(userId);
    const { client = ucClientId, scope = "", id: family = this.newLoginId() } = o;
    const issued = await this.access(principal, client, { sid: family, ...(scope === "" ? {} : { scope }) });
    const secret = newSecret(this.#rng);
    const startMs = this.#clock.nowMs();
    await this.#platform.transact((tx) =>
      putFamily(tx, family, {
        principal,
        secretHash: hashSecret(secret),
        startMs,
        endMs: startMs + this.#options.loginTtlMs,
        client,
        scope,
      })
    );
    return { ...issued, refreshToken: `ucr_${family}_${secret}`, authTimeMs: startMs };
  }

  newLoginId(): string {
    return ulid(this.#clock, this.#rng);
  }

  /** Uses a refresh token up. One that was used before ends its login, as two hold it and one of them stole it. */
  async refresh(token: string, client = ucClientId): Promise<IssuedTokens> {
    const [, id, secret] = refreshPattern.exec(token) ?? [];
    if (id === undefined || secret === undefined) throw refused();
    const next = newSecret(this.#rng);
    const outcome = await this.#platform.transact(async (tx) => {
      const family = await tx.row<Family>(rowKeys.refresh(id));
      if (!family || tx.nowMs >= family.endMs) return undefined;
      // Another program's token is no token here, and no reason to end the login.
      if ((family.client ?? ucClientId) !== client) return undefined;
      const revocation = await tx.row<Revocation>(rowKeys.revoked(family.principal));
      const user = await tx.findById(userKind, family.principal.slice("user:".length));
      const reused = hashSecret(secret) !== family.secretHash;
      if (reused || !user || user.value.disabled || (revocation && family.startMs < revocation.beforeMs)) {
        await this.#end(tx, id, family);
        return { family, good: false, reused };
      }
      putFamily(tx, id, { ...family, secretHash: hashSecret(next) });
      return { family, good: true, reused };
    });
    if (outcome?.reused) {
      this.#log.warn("a refresh token was used twice, its login is over", { principal: outcome.family.principal });
    }
    if (!outcome?.good) throw refused();
    const { principal, scope = "", startMs } = outcome.family;
    const issued = await this.access(principal, client, { sid: id, ...(scope === "" ? {} : { scope }) });
    return { ...issued, refreshToken: `ucr_${id}_${next}`, authTimeMs: startMs };
  }

  /** The living login a refresh token belongs to; undefined when the token is not good. */
  async inspectRefresh(
    token: string,
  ): Promise<
    { readonly principal: string; readonly client: string; readonly scope: string; readonly endMs: number } | undefined
  > {
    const [, id, secret] = refreshPattern.exec(token) ?? [];
    if (id === undefined || secret === undefined) return undefined;
    return await this.#platform.transact(async (tx) => {
      const family = await tx.row<Family>(rowKeys.refresh(id));
      if (!family || tx.nowMs >= family.endMs || hashSecret(secret) !== family.secretHash) return undefined;
      const revocation = await tx.row<Revocation>(rowKeys.revoked(family.principal));
      if (revocation && family.startMs < revocation.beforeMs) return undefined;
      const { principal, client = ucClientId, scope = "", endMs } = family;
      return { principal, client, scope, endMs };
    });
  }

  /** Ends the login of a refresh token that the client holds, its access tokens too; answers whether there was one. */
  async endLogin(token: string, client: string): Promise<boolean> {
    const [, id, secret] = refreshPattern.exec(token) ?? [];
    if (id === undefined || secret === undefined) return false;
    return await this.#platform.transact(async (tx) => {
      const family = await tx.row<Family>(rowKeys.refresh(id));
      if (!family || (family.client ?? ucClientId) !== client) return false;
      // A used-up token of the login ends it as well: whoever asks wants it over.
      await this.#end(tx, id, family);
      return true;
    });
  }

  /** Ends the login with this id, if it lives. */
  async endLoginById(id: string): Promise<void> {
    await this.#platform.transact(async (tx) => {
      const family = await tx.row<Family>(rowKeys.refresh(id));
      if (family) await this.#end(tx, id, family);
    });
  }

  async #end(tx: Tx, id: string, family: Family): Promise<void> {
    tx.deleteRow(rowKeys.refresh(id));
    await this.revokeId(tx, family.principal, id);
  }

  /** Refuses the tokens with this `jti`, `sid` or `client_id`, once the transaction has committed. */
  async revokeId(tx: Tx, principal: string, id: string): Promise<void> {
    const held = await tx.rows(rowKeys.revokedIds(principal));
    if (held.length >= revokedIdsPerPrincipalMax) return this.revoke(tx, principal);
    const lifeMs = this.#options.accessTtlMs + skewMs;
    tx.putRow(rowKeys.revokedIds(principal, id), { untilMs: tx.nowMs + lifeMs }, lifeMs);
    tx.putRow(rowKeys.policy, { changedMs: tx.nowMs });
  }

  /** Refuses every token and login of the principal made before now, once the transaction has committed. */
  revoke(tx: Tx, principal: string): void {
    const revocation: Revocation = { beforeMs: tx.nowMs + 1 };
    // Kept as long as the longest thing it must refuse.
    tx.putRow(rowKeys.revoked(principal), revocation, this.#options.loginTtlMs + this.#options.accessTtlMs);
    tx.putRow(rowKeys.policy, { changedMs: tx.nowMs });
  }
}

function putFamily(tx: Tx, id: string, family: Family): void {
  tx.putRow(rowKeys.refresh(id), family, Math.max(1, family.endMs - tx.nowMs));
}

function refused() {
  return fault(
    "unauthenticated",
    "refresh_refused",
    "Cannot renew the login: its refresh token is unknown, used or revoked; wanted a new login",
  );
}
