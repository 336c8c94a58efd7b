import { type Fault, fault } from "@ultracloud/base";
import { noBytes } from "../domain/ranges.ts";
import { firstValue } from "./json_stream.ts";

/** A JSON object of a request. Fields may be named as in the contract or in camel case; unknown ones are left out. */
export type Json = Readonly<Record<string, unknown>>;

/** What the caller wrote cannot be read; etcd's words where they are known. */
export function unreadable(message: string): Fault {
  return fault("invalid_argument", "unreadable", message);
}

const decoder = new TextDecoder();
const nothing: Json = {};
/** Whole numbers that a double does not hold: they are read from their text. */
const longNumber = /(?<![\w".])-?\d{16,}/;

/** The object that a body begins with. As at etcd no body is an empty object, and what follows the object is not read. */
export function readObject(body: Uint8Array): Json {
  if (body.length === 0) return nothing;
  return parseObject(decoder.decode(body));
}

export function parseObject(text: string): Json {
  return asObject(parse(text), "map[string]json.RawMessage");
}

function parse(text: string): unknown {
  try {
    return longNumber.test(text) ? JSON.parse(text, exactNumber) : JSON.parse(text);
  } catch (error) {
    const first = firstValue(text);
    if (first === "") return nothing;
    if (first === undefined) throw unreadable("unexpected EOF");
    if (first.length < text.length) return parse(first);
    const start = first.trimStart()[0] ?? "";
    throw /[[{"\d\-tfn]/.test(start)
      ? unreadable(`invalid JSON: ${(error as Error).message.slice(0, 200)}`)
      : unreadable(`invalid character '${start}' looking for beginning of value`);
  }
}

/** Keeps the text of a number that would lose digits; `int64` reads it. */
function exactNumber(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
  const exact = typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "");
  return exact ? context!.source : value;
}

/** The name of a JSON value's type as Go's decoder says it. */
function kindOf(value: unknown): string {
  if (Array.isArray(value)) return "array";
  return typeof value === "boolean" ? "bool" : typeof value;
}

function mismatch(value: unknown, type: string): Fault {
  return unreadable(`json: cannot unmarshal ${kindOf(value)} into Go value of type ${type}`);
}

function asObject(value: unknown, type: string): Json {
  if (value === null || value === undefined) return nothing;
  if (typeof value !== "object" || Array.isArray(value)) throw mismatch(value, type);
  return value as Json;
}

/** A field that holds a message; undefined when it is absent. */
export function object(value: unknown): Json | undefined {
  if (value === undefined || value === null) return undefined;
  return asObject(value, "map[string]json.RawMessage");
}

/** A repeated field. */
export function list(value: unknown): readonly unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw mismatch(value, "[]json.RawMessage");
  return value;
}

/** Base64 with padding, as etcd wants it. */
export function bytes(value: unknown): Uint8Array<ArrayBuffer> {
  if (value === undefined || value === null || value === "") return noBytes as Uint8Array<ArrayBuffer>;
  if (typeof value !== "string") throw mismatch(value, "[]uint8");
  const { length } = value;
  if (length % 4 === 0) {
    try {
      const read = Uint8Array.fromBase64(value);
      const padding = value.endsWith("==") ? 2 : value.endsWith("=") ? 1 : 0;
      // Blanks are skipped by the decoder; only line ends may be.
      if (read.length === length / 4 * 3 - padding) return read;
    } catch {
      // The strict way finds the place.
    }
  }
  return strictBytes(value);
}

function strictBytes(value: string): Uint8Array<ArrayBuffer> {
  const wrong = /[^A-Za-z0-9+/=\r\n]/.exec(value);
  const bare = value.replace(/[\r\n]/g, "");
  const body = /^[A-Za-z0-9+/]*/.exec(bare)![0].length;
  const padded = body % 4 === 0 ? bare.length === body : bare.slice(body) === "=".repeat(4 - body % 4);
  if (wrong !== null) throw unreadable(`illegal base64 data at input byte ${wrong.index}`);
  // Go names the beginning of the group that is cut short.
  if (!padded || body % 4 === 1) throw unreadable(`illegal base64 data at input byte ${body - body % 4}`);
  return Uint8Array.fromBase64(bare);
}

const int64Max = 2n ** 63n - 1n;
const wholeNumber = /^-?(0|[1-9]\d*)$/;

/** An int64 or uint64, as a number or as text. */
export function int64(value: unknown, max = int64Max): bigint {
  if (value === undefined || value === null) return 0n;
  if (typeof value === "number") {
    if (!Number.isInteger(value)) {
      throw unreadable(`json: cannot unmarshal number ${value} into Go value of type int64`);
    }
    return BigInt(value);
  }
  if (typeof value !== "string") throw mismatch(value, "int64");
  if (!wholeNumber.test(value)) {
    throw unreadable(
      value === "" ? "unexpected end of JSON input" : `invalid character '${value[0]}' looking for beginning of value`,
    );
  }
  const number = BigInt(value);
  if (number > max || number < -int64Max - 1n) {
    throw unreadable(`json: cannot unmarshal number ${value} into Go value of type ${max > int64Max ? "u" : ""}int64`);
  }
  return number;
}

/** A uint64, as member ids are. */
export function uint64(value: unknown): bigint {
  const number = int64(value, 2n ** 64n - 1n);
  if (number < 0n) throw unreadable(`json: cannot unmarshal number ${number} into Go value of type uint64`);
  return number;
}

export function bool(value: unknown): boolean {
  if (value === undefined || value === null) return false;
  if (typeof value !== "boolean") throw mismatch(value, "bool");
  return value;
}

export function text(value: unknown): string {
  if (value === undefined || value === null) return "";
  if (typeof value !== "string") throw mismatch(value, "string");
  return value;
}

/** One of `names` by its name or its number; `type` is etcd's name of the enum. */
export function oneOf<T extends string>(value: unknown, names: readonly T[], type: string): T {
  if (value === undefined || value === null) return names[0]!;
  if (typeof value === "string") {
    if (!names.includes(value as T)) throw unreadable(`unknown value ${JSON.stringify(value)} for enum ${type}`);
    return value as T;
  }
  if (typeof value !== "number") throw mismatch(value, type);
  const found = names[value];
  if (found === undefined) throw unreadable(`unknown value ${value} for enum ${type}`);
  return found;
}
