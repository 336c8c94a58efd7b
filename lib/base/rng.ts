import { assert } from "./assert.ts";

/** Randomness as a dependency. */
export interface Rng {
  /** Uniform in [0, 2^32). */
  uint32(): number;
  /** Fills and returns `into`. */
  fill(into: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>;
}

/** The machine's cryptographic source. */
export const systemRng: Rng = {
  uint32: () => crypto.getRandomValues(new Uint32Array(1))[0]!,
  fill: (into) => crypto.getRandomValues(into),
};

/** Repeatable source for simulations and tests (sfc32, seeded through splitmix32); not for secrets. */
export function seededRng(seed: number): Rng {
  let s = seed >>> 0;
  const splitmix = () => {
    s = (s + 0x9e3779b9) >>> 0;
    let z = s;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
  let a = splitmix(), b = splitmix(), c = splitmix(), d = 1;
  const uint32 = () => {
    const t = (((a + b) >>> 0) + d) >>> 0;
    d = (d + 1) >>> 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) >>> 0;
    c = (((c << 21) | (c >>> 11)) + t) >>> 0;
    return t;
  };
  for (let i = 0; i < 12; i++) uint32();
  return {
    uint32,
    fill(into) {
      for (let i = 0; i < into.length; i++) into[i] = uint32() & 0xff;
      return into;
    },
  };
}

/** Uniform integer in [0, n); n from 1 to 2^32, as there is none to take from nothing. */
export function uniform(rng: Rng, n: number): number {
  // The message is made only when it is needed: simulations come here millions of times.
  if (!(Number.isInteger(n) && n >= 1 && n <= 2 ** 32)) assert(false, `Cannot choose one of ${n}: wanted 1 to 2^32`);
  const limit = 2 ** 32 - (2 ** 32 % n);
  for (;;) {
    const value = rng.uint32();
    if (value < limit) return value % n;
  }
}

/** Uniform in [0, 1). */
export function fraction(rng: Rng): number {
  return rng.uint32() / 2 ** 32;
}
