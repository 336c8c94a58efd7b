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

/** Secrets at rest: AES-256-GCM under the master key, bound to what they are for. */
export class Sealer {
  readonly #key: Redacted<Uint8Array>;
  readonly #rng: Rng;

  constructor(key: Redacted<Uint8Array>, rng: Rng) {
    this.#key = key;
    this.#rng = rng;
  }

  /** Opens only with the same `purpose`. */
  seal(plain: Uint8Array, purpose: string): string {
    const iv = this.#rng.fill(new Uint8Array(ivBytes));
    const cipher = createCipheriv("aes-256-gcm", this.#key.expose(), iv);
    cipher.setAAD(Buffer.from(purpose));
    const body = Buffer.concat([cipher.update(plain), cipher.final()]);
    return Buffer.concat([iv, cipher.getAuthTag(), body]).toString("base64url");
  }

  /** data_loss when it was sealed under another master key, for another purpose, or changed. */
  open(sealed: string, purpose: string): Uint8Array {
    const bytes = Buffer.from(sealed, "base64url");
    try {
      const iv = bytes.subarray(0, ivBytes);
      const decipher = createDecipheriv("aes-256-gcm", this.#key.expose(), iv, { authTagLength: tagBytes });
      decipher.setAAD(Buffer.from(purpose));
      decipher.setAuthTag(bytes.subarray(ivBytes, ivBytes + tagBytes));
      const body = bytes.subarray(ivBytes + tagBytes);
      return new Uint8Array(Buffer.concat([decipher.update(body), decipher.final()]));
    } catch (cause) {
      throw fault(
        "data_loss",
        "seal_broken",
        `Cannot open ${purpose}: it was sealed under another master key or changed since`,
        { cause },
      );
    }
  }

  /** A keyed digest: what may be compared later but must not be guessed from storage. */
  digest(text: string, purpose: string): string {
    return createHmac("sha256", this.#key.expose()).update(`${purpose}\0`).update(text).digest("base64url");
  }
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

/** Keeps answers that carry a secret sealed: it is shown once and never stored in the clear. */
export function sealedAnswer<T>(idempotency: Idempotency<T>, sealer: Sealer): Idempotency<T> {
  const purpose = `answer ${idempotency.key}`;
  return {
    ...idempotency,
    encode: (answer) => utf8.encode(sealer.seal(idempotency.encode(answer), purpose)),
    decode: (bytes) => idempotency.decode(sealer.open(utf8.decode(bytes), purpose)),
  };
}
