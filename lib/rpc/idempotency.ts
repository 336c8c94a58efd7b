import { type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { toHex } from "@ultracloud/base";
import type { CallContext } from "./types.ts";

/** What the effect of a call is stored with, so that its repetition finds it. */
export interface CallerIdempotency {
  /** Keys of different callers never meet. */
  readonly caller: string;
  readonly key: string;
  /** Hex SHA-256 of method and request: another body under the same key is a mismatch. */
  readonly bodyHash: string;
}

/** The idempotency of a call; undefined when it carries no key, so that only calls with a key pay. */
export async function callerIdempotency<D extends DescMessage>(
  context: CallContext,
  schema: D,
  request: MessageShape<D>,
): Promise<CallerIdempotency | undefined> {
  if (context.idempotencyKey === undefined) return undefined;
  const method = new TextEncoder().encode(context.method + "\n");
  const body = toBinary(schema, request, { writeUnknownFields: false });
  const all = new Uint8Array(method.length + body.length);
  all.set(method);
  all.set(body, method.length);
  return {
    caller: context.principal.id,
    key: context.idempotencyKey,
    bodyHash: toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", all))),
  };
}
