import { Buffer } from "node:buffer";
import { createCipheriv, createDecipheriv, createHash, createHmac, timingSafeEqual } from "node:crypto";
import { fault, Redacted, type Rng, utf8 } from "@ultracloud/base";
import type { Idempotency } from "@ultracloud/platform";

const keyBytes = 32;
const ivBytes = 12;
const tagBytes = 16;

/** The master key in base64, base64url or hex; failed_precondition when it is not 32 bytes. `source` names it. */
export function parseMasterKey(text: string, source: string): Redacted<Uint8Array> {
  const trimmed = text.trim();
  let bytes: Uint8Array | undefined;
  if (/^[0-9a-fA-F]{64}$/.test(trimmed)) bytes = Buffer.from(trimmed, "hex");
  else if (/^[A-Za-z0-9+/_-]{43}=?$/.test(trimmed)) bytes = Buffer.from(trimmed, "base64");
  if (bytes?.length !== keyBytes) {
    throw fault("failed_precondition", "master_key_invalid", `Cannot use ${source}: wanted 32 bytes in base64 or hex`);
  }
  return new Redacted(new Uint8Array(bytes));
}

/** What tells master keys apart without telling them. */
export function fingerprintOf(key: Redacted<Uint8Array>): string {
  return createHmac("sha256", key.expose()).update("master key fingerprint").digest("base64url").slice(
    0,
    fingerprintChars,
  );
}

const fingerprintChars = 10;
const sealedPattern = /^([A-Za-z0-9_-]{10})\.([A-Za-z0-9_-]+)$/;

/**
 * Secrets at rest: AES-256-GCM under a master key, bound to what they are for. What is sealed names its key, so that
 * two keys can be in use while everything is sealed anew.
 */
export class Sealer {
  readonly #keys = new Map<string, Redacted<Uint8Array>>();
  readonly #rng: Rng;
  #current: string;

  constructor(key: Redacted<Uint8Array>, rng: Rng) {
    this.#rng = rng;
    this.#current = this.add(key);
  }

  /** Fingerprint of the key that seals. */
  get current(): string {
    return this.#current;
  }

  /** Fingerprints of the keys that open. */
  get known(): readonly string[] {
    return [...this.#keys.keys()];
  }

  /** A key that opens from now on; answers its fingerprint. */
  add(key: Redacted<Uint8Array>): string {
    const fingerprint = fingerprintOf(key);
    this.#keys.set(fingerprint, key);
    return fingerprint;
  }

  /** Seals with this key from now on; false when it is not known here. */
  use(fingerprint: string): boolean {
    if (!this.#keys.has(fingerprint)) return false;
    this.#current = fingerprint;
    return true;
  }

  /** Opens only with the same `purpose`. */
  seal(plain: Uint8Array, purpose: string): string {
    const iv = this.#rng.fill(new Uint8Array(ivBytes));
    const cipher = createCipheriv("aes-256-gcm", this.#key().expose(), iv);
    cipher.setAAD(Buffer.from(purpose));
    const body = Buffer.concat([cipher.update(plain), cipher.final()]);
    return `${this.#current}.${Buffer.concat([iv, cipher.getAuthTag(), body]).toString("base64url")}`;
  }

  /** data_loss when it was sealed under another master key, for another purpose, or changed. */
  open(sealed: string, purpose: string): Uint8Array {
    const [, fingerprint, body] = sealedPattern.exec(sealed) ?? [];
    const named = fingerprint === undefined ? undefined : this.#keys.get(fingerprint);
    // What was sealed before keys were named may be of any.
    const candidates = fingerprint === undefined ? [...this.#keys.values()] : named ? [named] : [];
    let cause: unknown;
    for (const key of candidates) {
      try {
        return openWith(key, Buffer.from(body ?? sealed, "base64url"), purpose);
      } catch (error) {
        cause = error;
      }
    }
    throw fault(
      "data_loss",
      "seal_broken",
      `Cannot open ${purpose}: it was sealed under another master key or changed since`,
      { cause },
    );
  }

  /** A keyed digest: what may be compared later but must not be guessed from storage. */
  digest(text: string, purpose: string): string {
    return createHmac("sha256", this.#key().expose()).update(`${purpose}\0`).update(text).digest("base64url");
  }

  #key(): Redacted<Uint8Array> {
    return this.#keys.get(this.#current)!;
  }
}

function openWith(key: Redacted<Uint8Array>, bytes: Uint8Array, purpose: string): Uint8Array {
  const decipher = createDecipheriv("aes-256-gcm", key.expose(), bytes.subarray(0, ivBytes), {
    authTagLength: tagBytes,
  });
  decipher.setAAD(Buffer.from(purpose));
  decipher.setAuthTag(bytes.subarray(ivBytes, ivBytes + tagBytes));
  return new Uint8Array(Buffer.concat([decipher.update(bytes.subarray(ivBytes + tagBytes)), decipher.final()]));
}

/** Fingerprint of the key a text is sealed with; empty for one of before keys were named. */
export function sealedWith(sealed: string): string {
  return sealedPattern.exec(sealed)?.[1] ?? "";
}

/** SHA-256 in base64url: enough for secrets of 256 random bits. */
export function hashSecret(secret: string): string {
  return createHash("sha256").update(secret).digest("base64url");
}

/** Compares without telling by time where they differ. */
export function equalSecrets(a: string, b: string): boolean {
  const digest = (text: string) => createHash("sha256").update(utf8.encode(text)).digest();
  return timingSafeEqual(digest(a), digest(b));
}

/** 256 random bits, base64url. */
export function newSecret(rng: Rng): string {
  return Buffer.from(rng.fill(new Uint8Array(32))).toString("base64url");
}

/** What a kept answer is sealed for; `key` is that of its row. */
export function answerPurpose(key: string): string {
  return `answer ${key}`;
}

/** Keeps answers that carry a secret sealed: it is shown once and never stored in the clear. */
export function sealedAnswer<T>(idempotency: Idempotency<T>, sealer: Sealer): Idempotency<T> {
  const purpose = answerPurpose(idempotency.key);
  return {
    ...idempotency,
    encode: (answer) => utf8.encode(sealer.seal(idempotency.encode(answer), purpose)),
    decode: (bytes) => idempotency.decode(sealer.open(utf8.decode(bytes), purpose)),
  };
}
