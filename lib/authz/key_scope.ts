import { compareBytes, concatBytes, utf8 } from "@ultracloud/base";
import { Buffer } from "node:buffer";

/** What scopes of keys begin with; nothing else does, as ids have no colon. */
const mark = "key:";

/** The scope of a call that touches no key: whoever is granted the permission at any range of keys may make it. */
export const noKeyScope = mark;

/** Characters that stand for themselves; every other byte is written as %XX. */
const plain = /^[!#$&-)+\-.-~]*$/;
const written = /^(?:[!#$&-)+\-.-~]|%[0-9A-F]{2})*$/;

/** Keys from `from` up to, and without, `to`; without `to` there is no end. */
interface Span {
  readonly from: Uint8Array;
  readonly to: Uint8Array | undefined;
}

function textOf(key: Uint8Array): string {
  const text: string = Buffer.prototype.latin1Slice.call(key, 0, key.length);
  if (plain.test(text)) return text;
  return text.replaceAll(
    /[^!#$&-)+\-.-~]/g,
    (char: string) => `%${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`,
  );
}

function bytesOf(text: string): Uint8Array | undefined {
  if (!written.test(text)) return undefined;
  const bytes: number[] = [];
  for (let i = 0; i < text.length; i++) {
    if (text[i] !== "%") bytes.push(text.charCodeAt(i));
    else {
      bytes.push(parseInt(text.slice(i + 1, i + 3), 16));
      i += 2;
    }
  }
  return Uint8Array.from(bytes);
}

/** Above every key that begins with the prefix; undefined when there is nothing above. */
function behind(prefix: Uint8Array): Uint8Array | undefined {
  const last = prefix.findLastIndex((byte) => byte < 255);
  if (last < 0) return undefined;
  const end = prefix.slice(0, last + 1);
  end[last]!++;
  return end;
}

/**
 * The scope of a call that touches one key, or those from `key` up to and without `end`. As in a store of keys an empty
 * `end` means the one key and a single zero byte every key from `key` on; a range that ends before it begins counts as
 * its first key. Written `key:app/color`, `key:app/*` for all that begin with `app/`, `key:a,b` and `key:a,`.
 */
export function keyScope(key: Uint8Array, end?: Uint8Array): string {
  const from = mark + textOf(key);
  if (end === undefined || end.length === 0) return from;
  if (end.length === 1 && end[0] === 0) return key.length === 1 && key[0] === 0 ? `${mark}*` : `${from},`;
  if (compareBytes(end, key) <= 0) return from;
  const above = behind(key);
  return above !== undefined && compareBytes(above, end) === 0 ? `${from}*` : `${from},${textOf(end)}`;
}

/** Scope of every key that begins with the text. */
export function keyPrefixScope(prefix: string): string {
  return `${mark}${textOf(utf8.encode(prefix))}*`;
}

export function isKeyScope(scope: string): boolean {
  return scope.startsWith(mark);
}

/** The keys of a scope; undefined when it is not written so. */
function spanOf(scope: string): Span | undefined {
  const text = scope.slice(mark.length);
  const comma = text.indexOf(",");
  if (comma >= 0) {
    const from = bytesOf(text.slice(0, comma));
    const to = comma + 1 === text.length ? undefined : bytesOf(text.slice(comma + 1));
    if (from === undefined || (to === undefined && comma + 1 < text.length)) return undefined;
    return to !== undefined && compareBytes(from, to) >= 0 ? undefined : { from, to };
  }
  const isPrefix = text.endsWith("*");
  const from = bytesOf(isPrefix ? text.slice(0, -1) : text);
  if (from === undefined) return undefined;
  return { from, to: isPrefix ? behind(from) : concatBytes([from, new Uint8Array(1)]) };
}

/** Scopes of grants are few, and asked about at every call. */
const grantSpansMax = 1_000;
const grantSpans = new Map<string, Span | undefined>();

function grantSpanOf(scope: string): Span | undefined {
  const known = grantSpans.get(scope);
  if (known !== undefined || grantSpans.has(scope)) return known;
  if (grantSpans.size >= grantSpansMax) grantSpans.clear();
  const span = spanOf(scope);
  grantSpans.set(scope, span);
  return span;
}

/** True for a scope of keys that a grant may have. */
export function isKeyGrantScope(scope: string): boolean {
  return scope !== noKeyScope && spanOf(scope) !== undefined;
}

/** True when every key of `inner` is one of `outer`, which a grant has; both are scopes of keys. */
export function keyScopeCovers(outer: string, inner: string): boolean {
  if (inner === noKeyScope) return true;
  const all = grantSpanOf(outer);
  const some = spanOf(inner);
  if (all === undefined || some === undefined || outer === noKeyScope) return false;
  return compareBytes(all.from, some.from) <= 0 &&
    (all.to === undefined || (some.to !== undefined && compareBytes(some.to, all.to) <= 0));
}
