import {
  create,
  type DescMessage,
  fromBinary,
  fromJson,
  type JsonReadOptions,
  type Message,
  type Registry,
  toBinary,
  toJsonString,
} from "@bufbuild/protobuf";
import { type Fault, invalidField } from "@ultracloud/base";

/** A field nobody knows is a typing error of the caller; binary messages skip unknown fields, so versions may differ. */
export const jsonOptions = { ignoreUnknownFields: false } as const satisfies Partial<JsonReadOptions>;

// JSON.parse lets a repeated key win over the first, as most readers do; looking for repeats costs as much as the rest.
const decoder = new TextDecoder("utf-8", { fatal: true });

/** How protobuf-es names the field it cannot decode; the last part is enough to find it. */
const fieldName = /field (?:\w+\.)*(\w+) from JSON/;
const unknownKey = /key "([^"]{1,100})" is unknown/;

/** The message in `bytes`, or an invalid_argument fault that points at the field. */
export function decodeMessage(desc: DescMessage, bytes: Uint8Array, binary: boolean): Message {
  try {
    return binary ? fromBinary(desc, bytes) : fromJson(desc, JSON.parse(decoder.decode(bytes)), jsonOptions);
  } catch (cause) {
    throw badMessage(desc, cause, binary);
  }
}

function badMessage(desc: DescMessage, cause: unknown, binary: boolean): Fault {
  const why = cause instanceof Error ? cause.message : String(cause);
  const unknown = unknownKey.exec(why);
  if (unknown !== null) {
    return invalidField(
      unknown[1]!,
      `Cannot use field ${unknown[1]} of ${desc.typeName}: no such field`,
      "unknown_field",
    );
  }
  const field = fieldName.exec(why)?.[1] ?? "";
  return invalidField(
    field.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
    `Cannot read the request as ${desc.typeName} in ${binary ? "binary" : "JSON"}: ${why.slice(0, 300)}`,
    "bad_message",
  );
}

/** A handler's answer as bytes, or as text when it travels as JSON; `registry` knows what an Any may hold. */
export function encodeMessage(
  desc: DescMessage,
  output: unknown,
  binary: boolean,
  registry: Registry,
): Uint8Array<ArrayBuffer> | string {
  const init = output as Record<string, unknown>;
  const message = (init.$typeName === desc.typeName ? init : create(desc, init)) as Message;
  return binary ? toBinary(desc, message) as Uint8Array<ArrayBuffer> : toJsonString(desc, message, { registry });
}
