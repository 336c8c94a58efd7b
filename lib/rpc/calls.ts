import type {
  DescMethod,
  DescMethodServerStreaming,
  DescMethodUnary,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import { fault } from "@ultracloud/base";
import { readBody } from "./body.ts";
import type { Call } from "./call.ts";
import type { Chain } from "./chain.ts";
import { shownFault } from "./errors.ts";
import { serveUnary, type UnaryWire } from "./fast.ts";
import type { Route, Routes } from "./routes.ts";
import type { Peer } from "./types.ts";

/** On whose behalf an RPC is called. */
export interface Caller {
  /** Credentials, deadline, idempotency key and request id, as an RPC of its own would carry them. */
  readonly headers: Headers;
  /** Aborted when the caller leaves. */
  readonly signal: AbortSignal;
  readonly peer: Peer;
}

/**
 * The RPCs of a server for another API on the same listener: the same admission, credentials, authorisation rows,
 * limits, metrics, audit and handlers as when they are called from outside. Failures are Faults that the caller may
 * see.
 */
export interface Calls {
  /** Answers a request that stands for one unary call, written in `wire`. */
  serve(method: DescMethodUnary, wire: UnaryWire, request: Request, peer: Peer): Promise<Response>;
  /** One unary call. `read` is asked for the message once the caller is known. */
  unary<M extends DescMethodUnary>(
    method: M,
    caller: Caller,
    read: () => MessageShape<M["input"]> | Promise<MessageShape<M["input"]>>,
  ): Promise<MessageInitShape<M["output"]>>;
  /** One call with a stream of answers; it is open until the iterator returns. */
  stream<M extends DescMethodServerStreaming>(
    method: M,
    caller: Caller,
    read: () => MessageShape<M["input"]> | Promise<MessageShape<M["input"]>>,
  ): AsyncGenerator<MessageInitShape<M["output"]>, void, undefined>;
  /** The body of a request, within the bound of this server's messages. */
  body(request: Request): Promise<Uint8Array<ArrayBuffer>>;
  /** That bound. */
  readonly messageBytesMax: number;
}

export function createCalls(chain: Chain, routes: Routes): Calls {
  const found = new Map<DescMethod, Route>();
  const routeOf = (method: DescMethod): Route => {
    let route = found.get(method);
    if (route === undefined) {
      const path = `/${method.parent.typeName}/${method.name}`;
      route = routes.byPath.get(path);
      if (route === undefined) throw fault("unimplemented", "not_served", `Cannot call ${path}: it is not served here`);
      found.set(method, route);
    }
    return route;
  };

  /** Everything before the handler; answers the message. */
  const enter = async (call: Call, route: Route, caller: Caller, read: () => unknown): Promise<unknown> => {
    chain.admit(call, route);
    await chain.authenticate(call, route, caller.peer);
    const message = await read();
    await chain.authorise(call, route, message);
    return message;
  };

  const calls: Calls = {
    serve(method, wire, request, peer) {
      let route: Route;
      try {
        route = routeOf(method);
      } catch (error) {
        return Promise.resolve(wire.failure(shownFault(error), { requestId: "", touchedResponseHeader: undefined }));
      }
      return serveUnary(chain, route, request, peer, wire);
    },
    async unary(method, caller, read) {
      const route = routeOf(method);
      const call = chain.open(route, caller);
      // Its place stays taken until the handler has really ended, also when nobody waits for it any more.
      const work = async () => {
        try {
          return await route.handler(await enter(call, route, caller, read), call);
        } finally {
          chain.release(call, route);
        }
      };
      try {
        const output = await call.race(work());
        chain.settle(call, route);
        return output;
      } catch (error) {
        chain.settle(call, route, error);
        throw shownFault(error);
      }
    },
    async *stream(method, caller, read) {
      const route = routeOf(method);
      const call = chain.open(route, caller);
      // Asked for here so that a caller who leaves ends the wait for a handler that does not look at it.
      const { signal } = call;
      let iterator: AsyncIterator<never> | undefined;
      try {
        signal.throwIfAborted();
        const message = await enter(call, route, caller, read);
        iterator = (route.handler(message, call) as AsyncIterable<never>)[Symbol.asyncIterator]();
        for (;;) {
          const next = await call.race(iterator.next());
          if (next.done === true) break;
          yield next.value;
        }
        chain.settle(call, route);
      } catch (error) {
        chain.settle(call, route, error);
        throw shownFault(error);
      } finally {
        // Not awaited: a handler that ignores its signal must not hold the answer back.
        Promise.resolve(iterator?.return?.()).catch(() => {});
        chain.settle(call, route);
        chain.release(call, route);
      }
    },
    body: (request) => readBody(request, chain.limits.messageBytesMax),
    messageBytesMax: chain.limits.messageBytesMax,
  };
  return calls;
}
