/** Repeatable random bits (xoshiro128**, Blackman and Vigna) from the 16 seed bytes of an entry; not for secrets. */
export class SeededBits {
  #a = 0;
  #b = 0;
  #c = 0;
  #d = 0;

  /** Starts over from `seed`, 16 bytes. */
  reseed(seed: Uint8Array): void {
    const view = new DataView(seed.buffer, seed.byteOffset, 16);
    this.#a = view.getUint32(0, true);
    this.#b = view.getUint32(4, true);
    this.#c = view.getUint32(8, true);
    this.#d = view.getUint32(12, true);
    // All zero is the one state the generator never leaves.
    if ((this.#a | this.#b | this.#c | this.#d) === 0) this.#d = 1;
  }

  uint32(): number {
    const x = Math.imul(this.#b, 5);
    const result = Math.imul((x << 7) | (x >>> 25), 9) >>> 0;
    const t = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= t;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result;
  }

  /** Signed 64 bits, as SQLite's random(). */
  int64(): bigint {
    return BigInt.asIntN(64, (BigInt(this.uint32()) << 32n) | BigInt(this.uint32()));
  }

  bytes(length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (let i = 0; i < length; i += 4) {
      let word = this.uint32();
      for (let j = i; j < Math.min(i + 4, length); j++) {
        out[j] = word & 0xff;
        word >>>= 8;
      }
    }
    return out;
  }
}
