import type { KeyRange } from "./types.ts";

/** A namespace as a map key and for people: one character a byte. */
export function namespaceName(namespace: Uint8Array): string {
  let text = "";
  for (const byte of namespace) text += String.fromCharCode(byte);
  return text;
}

/** The beginnings of a key that have one of the lengths. */
export function namespacesOf(key: Uint8Array, lengths: readonly number[]): string[] {
  const longest = lengths.findLast((length) => length <= key.length);
  if (longest === undefined) return [];
  const text = namespaceName(key.subarray(0, longest));
  return lengths.filter((length) => length <= longest).map((length) => text.slice(0, length));
}

/** Every key that begins with the prefix; the empty prefix begins all. */
export function prefixRange(prefix: Uint8Array): KeyRange {
  const end = prefix.slice();
  for (let i = end.length - 1; i >= 0; i--) {
    if (end[i]! < 255) {
      end[i]!++;
      return { key: prefix, end: end.subarray(0, i + 1) };
    }
  }
  const open = new Uint8Array([0]);
  return { key: prefix.length === 0 ? open : prefix, end: open };
}

/** True when the range begins inside the namespace. */
export function beginsIn(namespace: Uint8Array, range: Pick<KeyRange, "key">): boolean {
  return range.key.length >= namespace.length && namespace.every((byte, i) => range.key[i] === byte);
}
