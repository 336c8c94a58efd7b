import type { DescMessage } from "@bufbuild/protobuf";
import type { CallContext } from "@ultracloud/rpc";

/**
 * The bytes that a request was read from, where they can stand in the log as they came: the request is what the caller
 * sent, not made here; it has no field that a replica of a later version would understand and this one does not; and no
 * key, under which the same request may come again written otherwise. Undefined where it has to be written anew.
 */
export function receivedBytes(
  schema: DescMessage,
  { received, idempotencyKey }: Pick<CallContext, "received" | "idempotencyKey">,
  request: object,
): Uint8Array | undefined {
  if (received?.message !== request || idempotencyKey !== undefined) return undefined;
  return lookFor(schema)(request as AnyMessage) ? undefined : received.bytes;
}

type AnyMessage = Readonly<Record<string, unknown>> & { readonly $unknown?: unknown };
type Look = (message: AnyMessage) => boolean;

/** One per type: it knows where messages are within messages, as looking at every value costs more than writing them. */
const looks = new WeakMap<DescMessage, Look>();

/** What answers true when a message of this type, or one within it, came with a field that its type does not have. */
function lookFor(desc: DescMessage): Look {
  const known = looks.get(desc);
  if (known !== undefined) return known;
  const within: Look[] = [];
  const look: Look = (message) => {
    if (message.$unknown !== undefined) return true;
    for (let i = 0; i < within.length; i++) if (within[i]!(message)) return true;
    return false;
  };
  // First, as types may hold themselves.
  looks.set(desc, look);
  for (const field of desc.fields) {
    const name = field.localName;
    if (field.fieldKind === "list" && field.listKind === "message") {
      const one = lookFor(field.message);
      within.push((message) => (message[name] as readonly AnyMessage[]).some(one));
    } else if (field.fieldKind === "map" && field.mapKind === "message") {
      const one = lookFor(field.message);
      within.push((message) => {
        const entries = message[name] as Readonly<Record<string, AnyMessage>>;
        for (const key in entries) if (one(entries[key]!)) return true;
        return false;
      });
    } else if (field.fieldKind === "message") {
      const one = lookFor(field.message), oneof = field.oneof?.localName;
      within.push((message) => {
        const chosen = oneof === undefined ? undefined : message[oneof] as { case?: string; value?: AnyMessage };
        const value = chosen === undefined ? message[name] : chosen.case === name ? chosen.value : undefined;
        return value !== undefined && one(value as AnyMessage);
      });
    }
  }
  return look;
}
