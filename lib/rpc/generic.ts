import {
  ConnectError,
  type ContextValues,
  createConnectRouter,
  createContextKey,
  createContextValues,
  type HandlerContext,
} from "@connectrpc/connect";
import { Fault, fault, type FaultKind } from "@ultracloud/base";
import { gunzip, gzip } from "./body.ts";
import type { Call } from "./call.ts";
import type { Chain } from "./chain.ts";
import { jsonOptions } from "./codec.ts";
import { codeOf, toConnectError } from "./errors.ts";
import { compressBytesMin } from "./limits.ts";
import type { Route, Routes } from "./routes.ts";
import { markStreamed } from "./streamed.ts";
import type { Peer } from "./types.ts";

interface Running {
  readonly call: Call;
  readonly route: Route;
  readonly peer: Peer;
}
const runningKey = createContextKey<Running | undefined>(undefined, { description: "call under way" });

type Universal = ReturnType<typeof createConnectRouter>["handlers"][number];
/** Serves one request through connect-es. */
export type GenericHandler = (route: Route, request: Request, peer: Peer) => Promise<Response>;

/** The path for streams, gRPC-Web and Connect GET. The chain and the handlers are those of the fast path. */
export function createGeneric(chain: Chain, routes: Routes): GenericHandler {
  const router = createConnectRouter({
    grpc: false,
    jsonOptions: { ...jsonOptions, registry: routes.registry },
    readMaxBytes: chain.limits.messageBytesMax,
    compressMinBytes: compressBytesMin,
    acceptCompression: [{
      name: "gzip",
      compress: gzip,
      decompress: (bytes, bytesMax) =>
        gunzip(bytes, bytesMax).catch((error) => {
          throw toConnectError(error, "");
        }),
    }],
    requestGate: (context) => gate(chain, context),
  });
  for (const route of routes.byPath.values()) register(router, chain, route);
  const handlers = new Map<string, Universal>(router.handlers.map((handler) => [handler.requestPath, handler]));
  return (route, request, peer) => serve(chain, handlers.get(route.path)!, route, request, peer);
}

function running(values: ContextValues): Running {
  const found = values.get(runningKey);
  if (found === undefined) throw new Error("Cannot serve a call that was not opened");
  return found;
}

async function gate(chain: Chain, context: HandlerContext): Promise<void> {
  const { call, route, peer } = running(context.values);
  context.responseHeader.set("x-request-id", call.requestId);
  await reported(chain, call, route, async () => {
    chain.admit(call, route);
    await chain.authenticate(call, route, peer);
  });
}

/** Runs `work`; a failure is noted and leaves as what the caller may see of it. */
async function reported<T>(chain: Chain, call: Call, route: Route, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    chain.settle(call, route, error);
    throw toConnectError(error, call.requestId);
  }
}

function copyHeaders(call: Call, context: HandlerContext): void {
  call.touchedResponseHeader?.forEach((value, name) => context.responseHeader.set(name, value));
}

function register(router: ReturnType<typeof createConnectRouter>, chain: Chain, route: Route): void {
  const single = (first: unknown, input: unknown, context: HandlerContext) => {
    const { call } = running(context.values);
    return reported(chain, call, route, async () => {
      try {
        await chain.authorise(call, route, first);
        const output = await call.race((async () => await route.handler(input, call))());
        chain.settle(call, route);
        return output;
      } finally {
        copyHeaders(call, context);
      }
    });
  };
  async function* many(first: unknown, input: unknown, context: HandlerContext) {
    const { call } = running(context.values);
    let iterator: AsyncIterator<unknown> | undefined;
    try {
      await chain.authorise(call, route, first);
      iterator = (route.handler(input, call) as AsyncIterable<unknown>)[Symbol.asyncIterator]();
      for (let headersSent = false;;) {
        const next = await call.race(iterator.next());
        if (!headersSent) copyHeaders(call, context);
        headersSent = true;
        if (next.done === true) break;
        yield next.value;
      }
      chain.settle(call, route);
    } catch (error) {
      chain.settle(call, route, error);
      copyHeaders(call, context);
      throw toConnectError(error, call.requestId);
    } finally {
      // Not awaited: a handler that ignores its signal must not hold the answer back.
      Promise.resolve(iterator?.return?.()).catch(() => {});
    }
  }
  const firstOf = (requests: AsyncIterable<unknown>, context: HandlerContext) => {
    const { call } = running(context.values);
    return reported(chain, call, route, () => peekFirst(requests, call));
  };
  // deno-lint-ignore no-explicit-any -- one registration for every kind of method
  const rpc = router.rpc as (method: any, implementation: any) => unknown;
  switch (route.method.methodKind) {
    case "unary":
      rpc(route.method, (request: unknown, context: HandlerContext) => single(request, request, context));
      break;
    case "server_streaming":
      rpc(route.method, (request: unknown, context: HandlerContext) => many(request, request, context));
      break;
    case "client_streaming":
      rpc(route.method, async (requests: AsyncIterable<unknown>, context: HandlerContext) => {
        const { first, all } = await firstOf(requests, context);
        return single(first, all, context);
      });
      break;
    case "bidi_streaming":
      rpc(route.method, async function* (requests: AsyncIterable<unknown>, context: HandlerContext) {
        const { first, all } = await firstOf(requests, context);
        yield* many(first, all, context);
      });
      break;
  }
}

/** The first message of a stream, which it is authorised by, and a stream that still begins with it. */
async function peekFirst(
  requests: AsyncIterable<unknown>,
  call: Call,
): Promise<{ first: unknown; all: AsyncIterable<unknown> }> {
  const iterator = requests[Symbol.asyncIterator]();
  const next = async () => {
    try {
      return await iterator.next();
    } catch (error) {
      throw call.abortReason ?? protocolFault(error);
    }
  };
  const head = await call.race(next());
  if (head.done === true) {
    throw fault("invalid_argument", "empty_stream", "Cannot take a stream without messages: wanted at least one");
  }
  async function* all() {
    try {
      for (let item = head; item.done !== true; item = await next()) yield item.value;
    } finally {
      await iterator.return?.();
    }
  }
  return { first: head.value, all: all() };
}

/** What connect-es found wrong with the caller's bytes. */
function protocolFault(error: unknown): Fault {
  if (error instanceof Fault) return error;
  if (!(error instanceof ConnectError)) {
    return fault("cancelled", "caller_left", "Cannot read on as the caller left", { cause: error });
  }
  const kind = (Object.keys(codeOf) as FaultKind[]).find((k) => codeOf[k] === error.code);
  return fault(kind === undefined || kind === "internal" ? "invalid_argument" : kind, "bad_message", error.rawMessage, {
    cause: error,
  });
}

async function serve(
  chain: Chain,
  handler: Universal,
  route: Route,
  request: Request,
  peer: Peer,
): Promise<Response> {
  const call = chain.open(route, request);
  const header = new Headers(request.headers);
  // The chain watches the deadline; two watchers would race for the words of the error.
  header.delete("connect-timeout-ms");
  header.delete("grpc-timeout");
  const body = readable(request.body);
  const finish = () => {
    void body.stop();
    // Whoever ended the call has settled it; what is left never reached a handler.
    chain.settle(call, route, call.abortReason ?? fault("invalid_argument", "bad_message", "Cannot read the request"));
    chain.release(call, route);
  };
  try {
    const answer = await handler({
      // The real one may be 1.1, over which connect-es would refuse bidirectional streams that work here half-duplex.
      httpVersion: "2.0",
      method: request.method,
      url: request.url,
      header,
      body,
      signal: call.signal,
      contextValues: createContextValues().set(runningKey, { call, route, peer }),
    });
    const headers = answer.header ?? new Headers();
    headers.set("x-request-id", call.requestId);
    if (answer.body === undefined) {
      finish();
      return new Response(null, { status: answer.status, headers });
    }
    const response = new Response(writable(answer.body, call, finish), { status: answer.status, headers });
    markStreamed(response);
    return response;
  } catch (error) {
    void body.stop();
    chain.settle(call, route, error);
    chain.release(call, route);
    throw error;
  }
}

/** The request's bytes; `stop` gives up what was not read. */
function readable(body: ReadableStream<Uint8Array> | null): AsyncIterable<Uint8Array> & { stop(): Promise<void> } {
  const reader = body?.getReader();
  const done = { done: true, value: undefined } as const;
  const stop = async () => await reader?.cancel().catch(() => {});
  return {
    stop,
    [Symbol.asyncIterator]: () => ({
      next: async () => {
        const item = await reader?.read();
        return item === undefined || item.done ? done : { done: false, value: item.value };
      },
      return: () => stop().then(() => done),
      throw: () => stop().then(() => done),
    }),
  };
}

function writable(body: AsyncIterable<Uint8Array>, call: Call, finish: () => void): ReadableStream<Uint8Array> {
  const iterator = body[Symbol.asyncIterator]();
  return new ReadableStream({
    async pull(controller) {
      try {
        const item = await iterator.next();
        if (item.done !== true) return controller.enqueue(item.value);
        finish();
        controller.close();
      } catch (error) {
        finish();
        controller.error(error);
      }
    },
    async cancel() {
      const left = fault("cancelled", "caller_left", "Cannot finish as the caller left");
      call.abort(left);
      try {
        await iterator.throw?.(left);
      } catch {
        // The pipeline rethrows what it is given.
      }
      finish();
    },
  }, { highWaterMark: 0 });
}
