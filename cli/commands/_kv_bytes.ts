import { fault, toHex } from "@ultracloud/base";
import type { KeyValue } from "@ultracloud/proto/chainfire/v1";
import type { Column } from "../frame/columns.ts";
import { text } from "../frame/command.ts";

/** How keys and values are written on the command line and printed. */
export const encodings = ["text", "hex", "base64"] as const;
export type Encoding = typeof encodings[number];

export const encodingFlag = {
  encoding: {
    kind: "enum",
    values: encodings,
    default: "text",
    brief: "How keys and values are written and printed",
  },
} as const;

const encoder = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes as the person wrote them. */
export function toBytes(written: string, encoding: Encoding): Uint8Array<ArrayBuffer> {
  try {
    if (encoding === "hex") return Uint8Array.fromHex(written);
    if (encoding === "base64") return Uint8Array.fromBase64(written);
  } catch (cause) {
    throw fault(
      "invalid_argument",
      "bad_encoding",
      `Cannot read ${JSON.stringify(written.slice(0, 60))} as ${encoding}`,
      { cause },
    );
  }
  return encoder.encode(written);
}

/** Text of bytes; undefined when they are none. */
export function asText(bytes: Uint8Array): string | undefined {
  try {
    return strict.decode(bytes);
  } catch {
    return undefined;
  }
}

/** Bytes for a person: what is no text is shown as 0x and hex, which no command takes for text by mistake. */
export function shown(bytes: Uint8Array, encoding: Encoding): string {
  if (encoding === "hex") return toHex(bytes);
  if (encoding === "base64") return bytes.toBase64();
  return asText(bytes) ?? `0x${toHex(bytes)}`;
}

/** Bytes as they are asked for; bytes that are no text need another encoding. */
export function exactly(bytes: Uint8Array, encoding: Encoding): string {
  if (encoding !== "text") return shown(bytes, encoding);
  const read = asText(bytes);
  if (read !== undefined) return read;
  throw fault(
    "failed_precondition",
    "not_text",
    `Cannot print ${bytes.length} bytes that are no text: wanted --encoding hex or base64, or --to-file`,
  );
}

/** End of the range of keys that begin with `prefix` (the whole keyspace when there is none above). */
export function prefixEnd(prefix: Uint8Array): Uint8Array<ArrayBuffer> {
  const end = prefix.slice();
  for (let i = end.length - 1; i >= 0; i--) {
    if (end[i]! < 0xff) {
      end[i]!++;
      return end.slice(0, i + 1);
    }
  }
  return new Uint8Array([0]);
}

export interface RangeFlags {
  readonly prefix: boolean;
  readonly fromKey: boolean;
  readonly rangeEnd?: string;
}

export const rangeFlags = {
  prefix: { kind: "boolean", default: false, brief: "Every key that begins so" },
  fromKey: { kind: "boolean", default: false, brief: "Every key from this one on" },
  rangeEnd: { kind: "parsed", parse: text, optional: true, brief: "Every key from this one on and before that one" },
} as const;

/** The keys that a command is about. */
export function rangeOf(key: string, flags: RangeFlags & { readonly encoding: Encoding }) {
  const ways = [flags.prefix, flags.fromKey, flags.rangeEnd !== undefined].filter(Boolean).length;
  if (ways > 1) {
    throw fault(
      "invalid_argument",
      "range_unclear",
      "Cannot tell the range: wanted one of --prefix, --from-key and --range-end",
    );
  }
  const first = toBytes(key, flags.encoding);
  if (ways === 0 && first.length === 0) {
    throw fault("invalid_argument", "empty_key", "Cannot use an empty key: wanted at least one byte, or --prefix");
  }
  const start = first.length === 0 ? new Uint8Array([0]) : first;
  if (flags.prefix) return { key: start, rangeEnd: prefixEnd(first), single: false };
  if (flags.fromKey) return { key: start, rangeEnd: new Uint8Array([0]), single: false };
  if (flags.rangeEnd !== undefined) {
    return { key: start, rangeEnd: toBytes(flags.rangeEnd, flags.encoding), single: false };
  }
  return { key: start, rangeEnd: new Uint8Array(0), single: true };
}

/** A key with its value as JSON and tables show it. */
export interface Pair {
  readonly key: string;
  readonly value: string;
  readonly createRevision: string;
  readonly modRevision: string;
  readonly version: string;
  readonly lease: string;
}

export function pairOf(kv: KeyValue, encoding: Encoding): Pair {
  return {
    key: shown(kv.key, encoding),
    value: shown(kv.value, encoding),
    createRevision: String(kv.createRevision),
    modRevision: String(kv.modRevision),
    version: String(kv.version),
    lease: String(kv.lease),
  };
}

export function pairItem(kv: KeyValue, encoding: Encoding): { value: Pair; json: Pair; name: string } {
  const value = pairOf(kv, encoding);
  return { value, json: value, name: value.key };
}

export const pairColumns: readonly Column<Pair>[] = [
  { name: "key", get: (p) => p.key },
  { name: "value", get: (p) => p.value.length > 60 ? `${p.value.slice(0, 57)}...` : p.value },
  { name: "version", get: (p) => p.version, order: (p) => Number(p.version) },
  { name: "mod_revision", get: (p) => p.modRevision, order: (p) => Number(p.modRevision) },
  { name: "create_revision", get: (p) => p.createRevision, order: (p) => Number(p.createRevision), wide: true },
  { name: "lease", get: (p) => p.lease === "0" ? "" : p.lease, wide: true },
];

/** A lease id in decimal, as every command prints it. */
export function parseLease(input: string): bigint {
  if (/^\d{1,19}$/.test(input) && BigInt(input) > 0n && BigInt(input) < 2n ** 63n) return BigInt(input);
  throw new Error(`Cannot read ${JSON.stringify(input)} as a lease: wanted a number from 1 on`);
}

/** A revision of the store. */
export function parseRevision(input: string): bigint {
  if (/^\d{1,16}$/.test(input)) return BigInt(input);
  throw new Error(`Cannot read ${JSON.stringify(input)} as a revision: wanted digits`);
}
