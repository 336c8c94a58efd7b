import { create, type DescMethod, type DescService, type MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions, Client } from "@connectrpc/connect";
import type { BoundService, CallContext, Principal } from "@ultracloud/rpc";

/**
 * A client that calls handlers directly: same types as over the wire, no authentication, no encoding. Failures are
 * what the handler threw. For tests of a service's own logic.
 */
export function inProcessClient<S extends DescService>(
  service: S,
  services: readonly BoundService[],
  o: { readonly principal?: Principal } = {},
): Client<S> {
  const bound = services.find((b) => b.service.typeName === service.typeName);
  if (!bound) throw new TypeError(`No handlers for ${service.typeName}`);
  let calls = 0;
  const contextOf = (method: DescMethod, options: CallOptions | undefined): CallContext => {
    const requestHeader = new Headers(options?.headers);
    return {
      requestId: `req_test${++calls}`,
      principal: o.principal ?? { kind: "user", id: "user:usr_test" },
      method: `/${service.typeName}/${method.name}`,
      signal: options?.signal ?? new AbortController().signal,
      requestHeader,
      idempotencyKey: requestHeader.get("idempotency-key") ?? undefined,
      responseHeader: new Headers(),
    };
  };
  const client: Record<string, unknown> = {};
  for (const method of service.methods) {
    const handler = bound.handlers[method.localName];
    const answer = (init: unknown) => create(method.output, init as MessageInitShape<typeof method.output>);
    const ask = (init: unknown) => create(method.input, init as MessageInitShape<typeof method.input>);
    if (method.methodKind === "unary") {
      client[method.localName] = async (init: unknown, options?: CallOptions) =>
        answer(await handler(ask(init), contextOf(method, options)));
    } else if (method.methodKind === "server_streaming") {
      client[method.localName] = async function* (init: unknown, options?: CallOptions) {
        for await (const part of handler(ask(init), contextOf(method, options))) yield answer(part);
      };
    } else if (method.methodKind === "client_streaming") {
      client[method.localName] = async (parts: AsyncIterable<unknown>, options?: CallOptions) => {
        const asked = (async function* () {
          for await (const part of parts) yield ask(part);
        })();
        return answer(await handler(asked, contextOf(method, options)));
      };
    }
  }
  return client as Client<S>;
}
