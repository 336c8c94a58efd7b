/** Bits of tasks in words of numbers: working on them costs a fraction of what it does as bigint. */
export type Words = readonly number[];

/** The most bits of a word that are still small integers. */
const wordBits = 30;

export function wordsFor(bits: number): number {
  return Math.max(1, Math.ceil(bits / wordBits));
}

export function bitOf(bit: number): { readonly word: number; readonly mask: number } {
  return { word: Math.floor(bit / wordBits), mask: 1 << (bit % wordBits) };
}

export function noBits(words: number): number[] {
  return new Array<number>(words).fill(0);
}

export function has(bits: Words, { word, mask }: { readonly word: number; readonly mask: number }): boolean {
  return (bits[word]! & mask) !== 0;
}

/** The same with one bit more. */
export function plus(bits: Words, { word, mask }: { readonly word: number; readonly mask: number }): Words {
  const more = bits.slice();
  more[word]! |= mask;
  return more;
}

/** The same with one bit less. */
export function minus(bits: Words, { word, mask }: { readonly word: number; readonly mask: number }): Words {
  const less = bits.slice();
  less[word]! &= ~mask;
  return less;
}

/** What is in the first and not in the second. */
export function without(bits: Words, others: Words): Words {
  return bits.map((word, i) => word & ~others[i]!);
}

/** Whether the first has a bit that is in neither of the others. */
export function exceeds(bits: Words, a: Words, b: Words): boolean {
  for (let i = 0; i < bits.length; i++) if ((bits[i]! & ~a[i]! & ~b[i]!) !== 0) return true;
  return false;
}

export function bitCount(bits: Words): number {
  let count = 0;
  for (let i = 0; i < bits.length; i++) for (let rest = bits[i]!; rest !== 0; rest &= rest - 1) count++;
  return count;
}
