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
}

/** One login: the refresh token that is good now, by hash. */
interface Family {
  readonly principal: string;
  readonly secretHash: string;
  readonly startMs: number;
  readonly endMs: number;
}

interface Revocation {
  readonly beforeMs: number;
}

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
  async access(principal: string, client: string): Promise<IssuedTokens> {
    const { kid, key } = this.#keyring.signingKey();
    const nowMs = this.#clock.nowMs();
    const accessToken = await new SignJWT({
      client_id: client,
      // Whole seconds cannot tell a token made just after a revocation from one made just before.
      iat_ms: nowMs,
    }).setProtectedHeader({ alg: "EdDSA", typ: "at+jwt", kid })
      .setIssuer(this.#options.issuer)
      .setAudience(userAudience)
      .setSubject(principal)
      .setJti(ulid(this.#clock, this.#rng))
      .setIssuedAt(Math.floor(nowMs / 1000))
      .setExpirationTime(Math.floor((nowMs + this.#options.accessTtlMs) / 1000))
      .sign(key);
    return { accessToken, expiresInMs: BigInt(this.#options.accessTtlMs), refreshToken: "", principal };
  }

  /** Starts a login of a user: an access token and the refresh token that renews it. */
  async login(userId: string): Promise<IssuedTokens> {
    const principal = principalOf.user(userId);
    const issued = await this.access(principal, "uc");
    const family = ulid(this.#clock, this.#rng);
    const secret = newSecret(this.#rng);
    await this.#platform.transact((tx) =>
      putFamily(tx, family, {
        principal,
        secretHash: hashSecret(secret),
        startMs: tx.nowMs,
        endMs: tx.nowMs + this.#options.loginTtlMs,
      })
    );
    return { ...issued, refreshToken: `ucr_${family}_${secret}` };
  }

  /** Uses a refresh token up. One that was used before ends its login, as two hold it and one of them stole it. */
  async refresh(token: string): Promise<IssuedTokens> {
    const [, id, secret] = refreshPattern.exec(token) ?? [];
    if (id === undefined || secret === undefined) throw refused();
    const next = newSecret(this.#rng);
    const outcome = await this.#platform.transact(async (tx) => {
      const family = await tx.row<Family>(rowKeys.refresh(id));
      if (!family || tx.nowMs >= family.endMs) return undefined;
      const revocation = await tx.row<Revocation>(rowKeys.revoked(family.principal));
      const user = await tx.findById(userKind, family.principal.slice("user:".length));
      const reused = hashSecret(secret) !== family.secretHash;
      if (reused || !user || user.value.disabled || (revocation && family.startMs < revocation.beforeMs)) {
        tx.deleteRow(rowKeys.refresh(id));
        return { principal: family.principal, good: false, reused };
      }
      putFamily(tx, id, { ...family, secretHash: hashSecret(next) });
      return { principal: family.principal, good: true, reused };
    });
    if (outcome?.reused) {
      this.#log.warn("a refresh token was used twice, its login is over", { principal: outcome.principal });
    }
    if (!outcome?.good) throw refused();
    return { ...await this.access(outcome.principal, "uc"), refreshToken: `ucr_${id}_${next}` };
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
