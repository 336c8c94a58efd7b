import { create, type DescMethodUnary, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createAsyncIterable, type UniversalClientFn } from "@connectrpc/connect/protocol";
import {
  createTransport,
  errorFromJsonBytes,
  trailerDemux,
  validateResponse,
} from "@connectrpc/connect/protocol-connect";
import { concatBytes, fault } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import { gunzip, gzip } from "./body.ts";
import { defaultLimits } from "./limits.ts";
import { toConnectError } from "./errors.ts";
import { readTlsFiles, stampOf } from "./tls_files.ts";

/** Answers may hold pages and snapshots; larger than a request, still bounded. */
const answerBytesMax = 64 * 1024 * 1024;
/** How soon a renewed certificate is used for new connections. */
const reloadEveryMs = 2_000;

export interface UnaryAnswer {
  readonly message: unknown;
  /** Headers and trailers of the answer, split when somebody asks. */
  headers(): [header: Headers, trailer: Headers];
}

/** One place that answers calls, with its connections. */
export class Endpoint implements Disposable {
  /** As configured. */
  readonly address: string;
  /** For streams; single calls have `unary`. */
  readonly transport: Transport;
  readonly #baseUrl: string;
  readonly #tls: TlsFiles | undefined;
  readonly #unixPath: string | undefined;
  #http: Deno.HttpClient | undefined;
  #replaced: Deno.HttpClient | undefined;
  #stamp = "";
  #checkedMs = -Infinity;

  constructor(address: string, tls: TlsFiles | undefined) {
    this.address = address;
    this.#tls = tls;
    this.#unixPath = address.startsWith("unix:") ? address.slice("unix:".length) : undefined;
    if (this.#unixPath === undefined && !/^https?:\/\/[^/\s]+\/?$/.test(address)) {
      throw fault(
        "invalid_argument",
        "bad_endpoint",
        `Cannot call ${address}: wanted http://host:port, https://host:port or unix:/path`,
      );
    }
    this.#baseUrl = this.#unixPath === undefined ? address.replace(/\/$/, "") : "http://localhost";
    this.transport = createTransport({
      baseUrl: this.#baseUrl,
      httpClient: (request) => this.#send(request),
      useBinaryFormat: true,
      interceptors: [],
      acceptCompression: [{
        name: "gzip",
        compress: gzip,
        decompress: (bytes, bytesMax) =>
          gunzip(bytes, bytesMax).catch((error) => {
            throw toConnectError(error, "");
          }),
      }],
      sendCompression: null,
      compressMinBytes: 1024,
      readMaxBytes: answerBytesMax,
      writeMaxBytes: answerBytesMax,
    });
  }

  /** True when `hint`, with or without scheme, names this endpoint. */
  answersAt(hint: string): boolean {
    const bare = (text: string) => text.replace(/^https?:\/\//, "").replace(/\/$/, "");
    return bare(hint) === bare(this.address);
  }

  [Symbol.dispose](): void {
    this.#http?.close();
    this.#http = undefined;
    this.#replaced?.close();
    this.#replaced = undefined;
  }

  #client(): Deno.HttpClient | undefined {
    if (this.#unixPath !== undefined) {
      return this.#http ??= Deno.createHttpClient({ proxy: { transport: "unix", path: this.#unixPath } });
    }
    const tls = this.#tls;
    if (tls === undefined) return undefined;
    const now = performance.now();
    if (this.#http !== undefined && now - this.#checkedMs < reloadEveryMs) return this.#http;
    this.#checkedMs = now;
    const stamp = stampOf(tls);
    if (this.#http !== undefined && stamp === this.#stamp) return this.#http;
    let fresh: Deno.HttpClient;
    try {
      const { cert, key, ca } = readTlsFiles(tls);
      // HTTP/2 bodies through fetch stall for 40 ms each, and one day for ever.
      fresh = Deno.createHttpClient({ cert, key, caCerts: [ca], http2: false });
    } catch (error) {
      // Files that are being replaced: what was good goes on until the next look.
      if (this.#http !== undefined) return this.#http;
      throw error;
    }
    // Calls under way still use the one before; it is closed when it is replaced in turn.
    this.#replaced?.close();
    this.#replaced = this.#http;
    this.#stamp = stamp;
    return this.#http = fresh;
  }

  /**
   * One unary call: one encode, one fetch, one decode. The transport of connect-es passes each through a chain of
   * streams and costs a multiple; answers and errors are the same (see client_test.ts).
   */
  async unary<M extends DescMethodUnary>(
    method: M,
    request: MessageInitShape<M["input"]>,
    options: {
      readonly headers: Headers;
      readonly timeoutMs: number;
      readonly signal: AbortSignal | undefined;
      /** Doing it twice would do harm: it leaves once at most. */
      readonly once: boolean;
    },
  ): Promise<UnaryAnswer> {
    const body = toBinary(method.input, create(method.input, request)) as Uint8Array<ArrayBuffer>;
    const headers = new Headers(options.headers);
    headers.set("content-type", "application/proto");
    headers.set("connect-protocol-version", "1");
    headers.set("connect-timeout-ms", String(options.timeoutMs));
    // A plain callee is on this machine: squeezing a page takes longer than handing it over.
    if (this.#tls === undefined) headers.set("accept-encoding", "identity");
    const over = new AbortController();
    const leave = () => over.abort(options.signal?.reason);
    const timer = setTimeout(
      () => over.abort(new ConnectError("the operation timed out", Code.DeadlineExceeded)),
      options.timeoutMs,
    );
    if (options.signal?.aborted) leave();
    else options.signal?.addEventListener("abort", leave, { once: true });
    try {
      const init: RequestInit & { client?: Deno.HttpClient } = {
        method: "POST",
        headers,
        // When a kept connection ends, fetch sends what it can send again on another one, although the callee may have
        // done it, and tells of that one's failure alone. A stream it cannot.
        body: options.once ? oneStream(body) : body,
        redirect: "manual",
        signal: over.signal,
      };
      const client = this.#client();
      if (client !== undefined) init.client = client;
      const response = await fetch(`${this.#baseUrl}/${method.parent.typeName}/${method.name}`, init);
      // Read in any case: an answer left unread keeps its connection for ever.
      const bytes = await readBounded(response);
      const { isUnaryError, unaryError } = validateResponse("unary", true, response.status, response.headers);
      if (isUnaryError) throw errorFromJsonBytes(bytes, response.headers, unaryError);
      return { message: decode(method, bytes), headers: () => trailerDemux(response.headers) };
    } catch (cause) {
      if (over.signal.aborted) throw over.signal.reason;
      if (cause instanceof ConnectError) throw cause;
      throw this.#unreachable(cause);
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", leave);
    }
  }

  async #send(request: Parameters<UniversalClientFn>[0]): ReturnType<UniversalClientFn> {
    const streaming = request.header.get("content-type")?.startsWith("application/connect+") ?? false;
    const init: RequestInit & { client?: Deno.HttpClient } = {
      method: request.method,
      headers: request.header,
      redirect: "manual",
    };
    if (request.signal !== undefined) init.signal = request.signal;
    if (request.body !== undefined) init.body = streaming ? toStream(request.body) : await collect(request.body);
    let response: Response;
    try {
      const client = this.#client();
      if (client !== undefined) init.client = client;
      response = await fetch(request.url, init);
      // fetch has undone the compression of the body as a whole; its headers still speak of it.
      const header = new Headers(response.headers);
      header.delete("content-encoding");
      header.delete("content-length");
      if (streaming && response.status === 200) {
        const broken = (cause: unknown) => request.signal?.aborted ? cause : this.#unreachable(cause);
        return { status: 200, header, body: fromStream(response.body, request.signal, broken), trailer: new Headers() };
      }
      // Read here in any case: an answer left unread keeps its connection for ever.
      const body = await readBounded(response);
      return {
        status: response.status,
        header,
        body: createAsyncIterable([body]),
        trailer: new Headers(),
      };
    } catch (cause) {
      if (request.signal?.aborted || cause instanceof ConnectError) throw cause;
      throw this.#unreachable(cause);
    }
  }

  #unreachable(cause: unknown): ConnectError {
    const denied = cause instanceof Deno.errors.NotCapable;
    // Nothing was sent when the connection itself failed.
    const unsent = denied || /client error \(Connect\)/.test(wordsOf(cause));
    const why = denied ? ": the process has no permission" : unsent ? "" : ": the connection ended before the answer";
    const reason = fault(
      "unavailable",
      unsent ? "connect_failed" : "connection_lost",
      `Cannot reach ${this.address}${why}`,
      { cause },
    );
    return new ConnectError(reason.message, Code.Unavailable, undefined, undefined, reason);
  }
}

function oneStream(bytes: Uint8Array<ArrayBuffer>): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    start(controller) {
      // A stream takes no empty piece.
      if (bytes.length > 0) controller.enqueue(bytes);
      controller.close();
    },
  });
}

function decode(method: DescMethodUnary, bytes: Uint8Array): unknown {
  try {
    return fromBinary(method.output, bytes);
  } catch (cause) {
    const text = `cannot read the answer as ${method.output.typeName}`;
    throw new ConnectError(text, Code.Internal, undefined, undefined, cause);
  }
}

/** What an error and its causes say; fetch hides the reason one level down. */
function wordsOf(error: unknown): string {
  return error instanceof Error ? `${error.message} ${wordsOf(error.cause)}` : "";
}

async function collect(parts: AsyncIterable<Uint8Array>): Promise<Uint8Array<ArrayBuffer>> {
  const all: Uint8Array[] = [];
  for await (const part of parts) all.push(part);
  return all.length === 1 ? all[0] as Uint8Array<ArrayBuffer> : concatBytes(all);
}

async function readBounded(response: Response): Promise<Uint8Array<ArrayBuffer>> {
  // What is declared to be small is read in one piece; the length that HTTP declares bounds what it delivers.
  const declared = response.headers.get("content-length");
  if (declared !== null && Number(declared) <= answerBytesMax && !response.headers.has("content-encoding")) {
    return await response.bytes();
  }
  const parts: Uint8Array[] = [];
  let total = 0;
  for await (const part of response.body ?? []) {
    total += part.length;
    if (total > answerBytesMax) {
      throw new ConnectError(`answer of more than ${answerBytesMax} bytes`, Code.ResourceExhausted);
    }
    parts.push(part);
  }
  return parts.length === 1 ? parts[0] as Uint8Array<ArrayBuffer> : concatBytes(parts);
}

function toStream(parts: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> {
  const iterator = parts[Symbol.asyncIterator]();
  return new ReadableStream({
    async pull(controller) {
      const item = await iterator.next();
      if (item.done === true) controller.close();
      else controller.enqueue(item.value);
    },
    async cancel(reason) {
      await iterator.throw?.(reason).catch(() => {});
    },
  }, { highWaterMark: 0 });
}

/**
 * The body in pieces. It is let go when the call is over, also when nobody reads it: a caller that leaves between the
 * head of the answer and its first piece never asks the iterator to return.
 */
function fromStream(
  body: ReadableStream<Uint8Array> | null,
  signal: AbortSignal | undefined,
  /** What a connection that ends in the middle is told as. */
  broken: (cause: unknown) => unknown,
): AsyncIterable<Uint8Array> {
  const reader = body?.getReader();
  const drop = () => void reader?.cancel().catch(() => {});
  if (signal?.aborted) drop();
  else signal?.addEventListener("abort", drop, { once: true });
  const done = { done: true, value: undefined } as const;
  const stop = async () => {
    await reader?.cancel().catch(() => {});
    return done;
  };
  return {
    [Symbol.asyncIterator]: () => ({
      async next() {
        const item = await reader?.read().catch((cause) => {
          throw broken(cause);
        });
        return item === undefined || item.done ? done : { done: false, value: item.value };
      },
      return: stop,
      throw: stop,
    }),
  };
}

/** The largest deadline a server grants; asking for more is asking for this. */
export const clientTimeoutMsMax = defaultLimits.timeoutMsMax;
