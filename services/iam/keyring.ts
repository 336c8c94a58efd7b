import { clockSkewMs, generateIdentity } from "@ultracloud/authz";
import { type Clock, fault, invalidField, type Redacted, utf8 } from "@ultracloud/base";
import type { Platform, Tx } from "@ultracloud/platform";
import { calculateJwkThumbprint, importJWK, type JWK } from "jose";
import { phaseOf } from "./domain/phases.ts";
import { rowKeys } from "./kinds.ts";
import type { Sealer } from "./seal.ts";

interface StoredKey {
  readonly kid: string;
  readonly publicKey: JWK;
  /** The private JWK, sealed for `rowKeys.signingKeys + kid`. */
  readonly sealed: string;
  readonly createMs: number;
  /** Signs from here on; absent in rows of before there was rotation: at once. */
  readonly signFromMs?: number;
  /** Trusted until here; absent while no newer key exists. */
  readonly retireAtMs?: number;
}

export interface SigningKey {
  readonly kid: string;
  readonly key: Awaited<ReturnType<typeof importJWK>>;
}

export interface KeyringOptions {
  /** How long verifiers may keep the published set: a new key is in it this long before it signs. */
  readonly keysMaxAgeMs: number;
  /** Longest life of a token: an old key is trusted this long after it signed its last. */
  readonly accessTtlMs: number;
}

/** The private Ed25519 JWK in a signing key file; failed_precondition otherwise. */
export function parseSigningKey(text: string, source: string): JWK {
  let jwk: JWK | undefined;
  try {
    jwk = JSON.parse(text);
  } catch {
    // Told below.
  }
  if (jwk?.kty === "OKP" && jwk.crv === "Ed25519" && typeof jwk.d === "string" && typeof jwk.x === "string") return jwk;
  throw fault("failed_precondition", "signing_key_invalid", `Cannot use ${source}: wanted a private Ed25519 JWK`);
}

/**
 * Keys user tokens are signed with. The sealed rows in the store are the truth; a key file only seeds an empty ring,
 * so that replicas with different files agree. A new key is published, signs one cache life later, and the one before
 * it is trusted for one token life more.
 */
export class Keyring {
  readonly #options: KeyringOptions;
  readonly #platform: Platform;
  readonly #sealer: Sealer;
  readonly #clock: Clock;
  #held: readonly (StoredKey & SigningKey)[] = [];

  constructor(
    options: KeyringOptions,
    deps: { readonly platform: Platform; readonly sealer: Sealer; readonly clock: Clock },
  ) {
    this.#options = options;
    this.#platform = deps.platform;
    this.#sealer = deps.sealer;
    this.#clock = deps.clock;
  }

  /** Puts the key into an empty ring; answers whether it did. Safe to call again and from several replicas. */
  async seed(privateKey: Redacted<JWK>): Promise<boolean> {
    const jwk = privateKey.expose();
    return await this.#platform.transact(async (tx) => {
      // Read so that of two replicas that find the ring empty only one commits.
      const written = await tx.row(rowKeys.policy);
      if (written !== undefined && (await tx.rows(rowKeys.signingKeys)).length > 0) return false;
      await this.#put(tx, jwk, tx.nowMs);
      return true;
    });
  }

  /** Publishes a new key that signs after one cache life; with `emergency` it signs at once and no other is trusted. */
  async rotate(o: { readonly emergency: boolean; readonly signingKey: string }): Promise<void> {
    await this.load();
    const signing = this.#signing()?.kid;
    if (o.signingKey !== signing) {
      throw invalidField(
        "signingKey",
        `Cannot rotate ${JSON.stringify(o.signingKey.slice(0, 60))} as it does not sign: wanted ${signing}`,
        "signing_key_other",
      );
    }
    const { privateKey } = await generateIdentity();
    await this.#platform.transact(async (tx) => {
      const stored = (await tx.rows<StoredKey>(rowKeys.signingKeys)).map((row) => row.value);
      const waiting = stored.find((key) => (key.signFromMs ?? 0) > tx.nowMs);
      if (waiting && !o.emergency) {
        throw fault(
          "failed_precondition",
          "rotation_under_way",
          `Cannot publish another key as ${waiting.kid} does not sign yet: wanted a wait of ${
            Math.ceil((waiting.signFromMs! - tx.nowMs) / 1_000)
          } s`,
        );
      }
      const signFromMs = o.emergency ? tx.nowMs : tx.nowMs + this.#options.keysMaxAgeMs;
      for (const key of stored) {
        const row = rowKeys.signingKeys + key.kid;
        if (o.emergency) tx.deleteRow(row);
        else if (key.retireAtMs === undefined) {
          tx.putRow(row, { ...key, retireAtMs: signFromMs + this.#options.accessTtlMs + clockSkewMs });
        }
      }
      await this.#put(tx, privateKey, signFromMs);
    });
  }

  async #put(tx: Tx, jwk: JWK, signFromMs: number): Promise<void> {
    const publicKey = { kty: jwk.kty!, crv: jwk.crv!, x: jwk.x! };
    const kid = await calculateJwkThumbprint(publicKey);
    const row = rowKeys.signingKeys + kid;
    const sealed = this.#sealer.seal(utf8.encode(JSON.stringify(jwk)), row);
    const stored: StoredKey = { kid, publicKey, sealed, createMs: tx.nowMs, signFromMs };
    tx.putRow(row, stored);
    tx.putRow(rowKeys.policy, { changedMs: tx.nowMs });
  }

  /** Reads the ring again; answers the public keys that are trusted, each with its `kid`. */
  async load(): Promise<JWK[]> {
    const rows = await this.#platform.transact((tx) => tx.rows<StoredKey>(rowKeys.signingKeys));
    const stored = rows.map((row) => row.value).sort((a, b) => a.createMs - b.createMs);
    this.#held = await Promise.all(stored.map(async (key) => {
      const known = this.#held.find((held) => held.kid === key.kid);
      if (known) return { ...key, key: known.key };
      const jwk = JSON.parse(utf8.decode(this.#sealer.open(key.sealed, rowKeys.signingKeys + key.kid))) as JWK;
      return { ...key, key: await importJWK(jwk, "EdDSA") };
    }));
    return this.#trusted().map(({ kid, publicKey }) => ({ ...publicKey, kid, alg: "EdDSA", use: "sig" }));
  }

  /** The keys with their phases, the oldest first. */
  phases() {
    const nowMs = this.#clock.nowMs();
    const signing = this.#signing()?.kid;
    return this.#trusted().map((key) => ({ ...key, phase: phaseOf(key, nowMs, key.kid === signing) }));
  }

  /** Removes keys that are trusted no more; answers whether there were any. */
  async retire(): Promise<boolean> {
    const nowMs = this.#clock.nowMs();
    if (!this.#held.some((key) => (key.retireAtMs ?? Infinity) <= nowMs)) return false;
    return await this.#platform.transact(async (tx) => {
      let gone = false;
      for (const { key, value } of await tx.rows<StoredKey>(rowKeys.signingKeys)) {
        if ((value.retireAtMs ?? Infinity) > tx.nowMs) continue;
        tx.deleteRow(key);
        gone = true;
      }
      if (gone) tx.putRow(rowKeys.policy, { changedMs: tx.nowMs });
      return gone;
    });
  }

  /** The key to sign with; unavailable until the ring has been read. */
  signingKey(): SigningKey {
    const found = this.#signing();
    if (found) return found;
    throw fault("unavailable", "keyring_not_ready", "Cannot sign a token yet: the keyring has not been read", {
      retryAfterMs: 500,
    });
  }

  #trusted() {
    const nowMs = this.#clock.nowMs();
    return this.#held.filter((key) => (key.retireAtMs ?? Infinity) > nowMs);
  }

  /**
   * The youngest of those that sign already; of several that would, the last one made. A first key that another
   * replica's clock dates ahead of ours signs at once: there is no other.
   */
  #signing(): (StoredKey & SigningKey) | undefined {
    const nowMs = this.#clock.nowMs();
    const ordered = this.#trusted()
      .sort((a, b) => (a.signFromMs ?? 0) - (b.signFromMs ?? 0) || a.createMs - b.createMs);
    return ordered.findLast((key) => (key.signFromMs ?? 0) <= nowMs) ?? ordered[0];
  }
}
