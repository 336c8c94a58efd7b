import { invalidField, utf8 } from "@ultracloud/base";

/** Half-open range of keys in order of their UTF-8 bytes; `end` undefined: no upper bound. */
export interface KeyRange {
  readonly start: string;
  readonly end: string | undefined;
}

const lastCodePoint = 0x10ffff;

/** The smallest text above every text with this prefix; undefined when there is none. */
export function afterPrefix(prefix: string): string | undefined {
  const points = [...prefix].map((char) => char.codePointAt(0)!);
  while (points.length > 0 && points.at(-1) === lastCodePoint) points.pop();
  const last = points.pop();
  if (last === undefined) return undefined;
  // Surrogates are no characters of their own: UTF-8 goes from U+D7FF to U+E000.
  points.push(last === 0xd7ff ? 0xe000 : last + 1);
  return String.fromCodePoint(...points);
}

/** Order of the UTF-8 bytes, which is the order of code points and not of UTF-16 units. */
export function compareKeys(a: string, b: string): number {
  const n = Math.min(a.length, b.length);
  for (let i = 0; i < n; i++) {
    const x = a.charCodeAt(i), y = b.charCodeAt(i);
    if (x === y) continue;
    // A surrogate stands for a code point above the whole basic plane.
    const highX = x >= 0xd800 && x <= 0xdfff, highY = y >= 0xd800 && y <= 0xdfff;
    return highX === highY ? x - y : highX ? 1 : -1;
  }
  return a.length - b.length;
}

/** The keys with the prefix that lie in [start, end); an empty `end` is no bound. */
export function keyRange(prefix: string, start: string, end: string): KeyRange {
  const prefixEnd = afterPrefix(prefix);
  const from = compareKeys(start, prefix) > 0 ? start : prefix;
  if (end === "") return { start: from, end: prefixEnd };
  return { start: from, end: prefixEnd !== undefined && compareKeys(prefixEnd, end) < 0 ? prefixEnd : end };
}

/** Opaque to callers: the last key of the page. */
export function encodePageToken(lastKey: string): string {
  return utf8.encode(lastKey).toBase64({ alphabet: "base64url", omitPadding: true });
}

/** The key after which the next page starts; undefined for the first page. */
export function decodePageToken(token: string): string | undefined {
  if (token === "") return undefined;
  try {
    const bytes = Uint8Array.fromBase64(token, { alphabet: "base64url" });
    const key = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    if (key !== "") return key;
  } catch {
    // Fall through to the one refusal.
  }
  throw invalidField("page_token", "Cannot read the page token: wanted one that a scan answered", "invalid_page_token");
}
