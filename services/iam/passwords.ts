import { Buffer } from "node:buffer";
import { scrypt, timingSafeEqual } from "node:crypto";
import { fault, invalidField, type Rng } from "@ultracloud/base";

/** Of scrypt (RFC 7914): 2^15 and 8 cost 32 MiB and some 80 ms per guess. */
const cost = { N: 2 ** 15, r: 8, p: 1 } as const;
const hashBytes = 32;
export const passwordCharsMin = 12;
export const passwordCharsMax = 256;
/** Hashes computed at once, and waiting: each takes 32 MiB and a thread of the pool, which file access shares. */
const hashesAtOnceMax = 2;
const hashesWaitingMax = 64;

let running = 0;
const waiting: (() => void)[] = [];

/** The password, or invalid_argument. */
export function checkPassword(password: string, field: string): string {
  if (password.length >= passwordCharsMin && password.length <= passwordCharsMax) return password;
  throw invalidField(
    field,
    `Cannot use a password of ${password.length} characters: wanted ${passwordCharsMin} to ${passwordCharsMax}`,
    "invalid_password",
  );
}

/** "scrypt$N$r$p$salt$hash". */
export async function hashPassword(password: string, rng: Rng): Promise<string> {
  const salt = Buffer.from(rng.fill(new Uint8Array(16)));
  const hash = await derive(password, salt, cost);
  return ["scrypt", cost.N, cost.r, cost.p, salt.toString("base64url"), hash.toString("base64url")].join("$");
}

/** Takes as long for an account without password (empty `stored`) as for a wrong one. */
export async function verifyPassword(password: string, stored: string): Promise<boolean> {
  const [scheme, N, r, p, salt, hash] = stored.split("$");
  if (scheme !== "scrypt" || password.length > passwordCharsMax) {
    await derive("", Buffer.alloc(16), cost);
    return false;
  }
  const wanted = Buffer.from(hash!, "base64url");
  const actual = await derive(password, Buffer.from(salt!, "base64url"), { N: Number(N), r: Number(r), p: Number(p) });
  return timingSafeEqual(wanted, actual);
}

async function derive(password: string, salt: Buffer, o: { N: number; r: number; p: number }): Promise<Buffer> {
  if (running >= hashesAtOnceMax) {
    if (waiting.length >= hashesWaitingMax) {
      throw fault("resource_exhausted", "logins_busy", "Cannot check a password now: too many logins at once", {
        retryAfterMs: 1_000,
      });
    }
    // Whoever ends hands its place on, so `running` stays.
    await new Promise<void>((resolve) => waiting.push(resolve));
  } else running++;
  try {
    return await new Promise((resolve, reject) =>
      scrypt(
        password.normalize("NFC"),
        salt,
        hashBytes,
        { ...o, maxmem: 256 * o.N * o.r },
        (error, key) => error ? reject(error) : resolve(key),
      )
    );
  } finally {
    const next = waiting.shift();
    if (next) next();
    else running--;
  }
}
