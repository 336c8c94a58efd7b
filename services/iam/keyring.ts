import { fault, type Redacted, utf8 } from "@ultracloud/base";
import type { Platform } from "@ultracloud/platform";
import { calculateJwkThumbprint, importJWK, type JWK } from "jose";
import { rowKeys } from "./kinds.ts";
import type { Sealer } from "./seal.ts";

interface StoredKey {
  readonly kid: string;
  readonly publicKey: JWK;
  /** The private JWK, sealed for `rowKeys.signingKeys + kid`. */
  readonly sealed: string;
  readonly createMs: number;
}

export interface SigningKey {
  readonly kid: string;
  readonly key: Awaited<ReturnType<typeof importJWK>>;
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
 * so that replicas with different files agree.
 */
export class Keyring {
  readonly #platform: Platform;
  readonly #sealer: Sealer;
  #newest: SigningKey | undefined;

  constructor(deps: { readonly platform: Platform; readonly sealer: Sealer }) {
    this.#platform = deps.platform;
    this.#sealer = deps.sealer;
  }

  /** Puts the key into an empty ring; answers whether it did. Safe to call again and from several replicas. */
  async seed(privateKey: Redacted<JWK>): Promise<boolean> {
    const jwk = privateKey.expose();
    const publicKey = { kty: jwk.kty!, crv: jwk.crv!, x: jwk.x! };
    const kid = await calculateJwkThumbprint(publicKey);
    return await this.#platform.transact(async (tx) => {
      // Read so that of two replicas that find the ring empty only one commits.
      const written = await tx.row(rowKeys.policy);
      if (written !== undefined && (await tx.rows(rowKeys.signingKeys)).length > 0) return false;
      const row = rowKeys.signingKeys + kid;
      const sealed = this.#sealer.seal(utf8.encode(JSON.stringify(jwk)), row);
      const stored: StoredKey = { kid, publicKey, sealed, createMs: tx.nowMs };
      tx.putRow(row, stored);
      tx.putRow(rowKeys.policy, { changedMs: tx.nowMs });
      return true;
    });
  }

  /** Reads the ring again; answers the public keys, each with its `kid`. */
  async load(): Promise<JWK[]> {
    const rows = await this.#platform.transact((tx) => tx.rows<StoredKey>(rowKeys.signingKeys));
    const stored = rows.map((row) => row.value).sort((a, b) => a.createMs - b.createMs);
    const newest = stored.at(-1);
    if (newest && newest.kid !== this.#newest?.kid) {
      const jwk = JSON.parse(utf8.decode(this.#sealer.open(newest.sealed, rowKeys.signingKeys + newest.kid))) as JWK;
      this.#newest = { kid: newest.kid, key: await importJWK(jwk, "EdDSA") };
    }
    return stored.map(({ kid, publicKey }) => ({ ...publicKey, kid, alg: "EdDSA", use: "sig" }));
  }

  /** The key to sign with; unavailable until the ring has been read. */
  signingKey(): SigningKey {
    if (this.#newest) return this.#newest;
    throw fault("unavailable", "keyring_not_ready", "Cannot sign a token yet: the keyring has not been read", {
      retryAfterMs: 500,
    });
  }
}
