/** CRC-32C (Castagnoli, RFC 3720 appendix B.4) tables for eight bytes at a time. */
const tables: Int32Array[] = (() => {
  const first = new Int32Array(256);
  for (let n = 0; n < 256; n++) {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
    first[n] = c;
  }
  const all = [first];
  for (let t = 1; t < 8; t++) {
    const table = new Int32Array(256);
    for (let n = 0; n < 256; n++) table[n] = (all[t - 1]![n]! >>> 8) ^ first[all[t - 1]![n]! & 0xff]!;
    all.push(table);
  }
  return all;
})();
type Eight<T> = [T, T, T, T, T, T, T, T];
const [t0, t1, t2, t3, t4, t5, t6, t7] = tables as Eight<Int32Array>;

/** CRC-32C of `bytes[start, end)`, continuing from `seed` (the CRC of what came before). Unsigned. */
export function crc32c(bytes: Uint8Array, start = 0, end: number = bytes.length, seed = 0): number {
  let crc = ~seed;
  let i = start;
  for (const stop = end - 7; i < stop; i += 8) {
    crc ^= bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24);
    crc = t7[crc & 0xff]! ^ t6[(crc >>> 8) & 0xff]! ^ t5[(crc >>> 16) & 0xff]! ^ t4[crc >>> 24]! ^
      t3[bytes[i + 4]!]! ^ t2[bytes[i + 5]!]! ^ t1[bytes[i + 6]!]! ^ t0[bytes[i + 7]!]!;
  }
  for (; i < end; i++) crc = t0[(crc ^ bytes[i]!) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}
