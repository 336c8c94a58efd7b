import type { CallContext } from "@ultracloud/rpc";

/**
 * The bytes that a request was read from, where they can stand in the log as they came: the request is what the caller
 * sent, not made here; it has no field that a replica of a later version would understand and this one does not; and no
 * key, under which the same request may come again written otherwise. Undefined where it has to be written anew.
 */
export function receivedBytes(
  { received, idempotencyKey }: Pick<CallContext, "received" | "idempotencyKey">,
  request: object,
): Uint8Array | undefined {
  if (received?.message !== request || idempotencyKey !== undefined) return undefined;
  return holdsUnknown(request) ? undefined : received.bytes;
}

/** True when a message, or one within it, came with a field that its type does not have. */
function holdsUnknown(value: object): boolean {
  if (value instanceof Uint8Array) return false;
  if ((value as { $unknown?: unknown }).$unknown !== undefined) return true;
  for (const key in value) {
    const inner = (value as Record<string, unknown>)[key];
    if (typeof inner === "object" && inner !== null && holdsUnknown(inner)) return true;
  }
  return false;
}
