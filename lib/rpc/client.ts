import { type CallOptions, type Client, makeAnyClient, type StreamResponse } from "@connectrpc/connect";
import type {
  DescMethod,
  DescMethodStreaming,
  DescMethodUnary,
  DescService,
  MessageInitShape,
} from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { backoffMs, type Clock, type Fault, fault, type Rng, systemClock, systemRng } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import { clientTimeoutMsMax, Endpoint } from "./endpoint.ts";
import { toFault } from "./errors.ts";

export interface RpcClientOptions {
  /** "http://127.0.0.1:7100", "https://host:port" or "unix:/path"; replicas of one service. */
  readonly endpoints: readonly string[];
  /** The `authorization` header of each call, for example a signer's bearer token. */
  readonly authorization?: (() => string | Promise<string>) | undefined;
  readonly tls?: TlsFiles | undefined;
  /** Deadline of a unary call over all its tries, when the call names none. 10 s. */
  readonly timeoutMs?: number | undefined;
  /** Repeats of a call that may be repeated. 2. */
  readonly retries?: number | undefined;
}

/**
 * A client of the service. Every failure is thrown as a Fault. Dispose closes its TLS and unix connections; a client
 * of plain endpoints holds none of its own.
 */
export type RpcClient<S extends DescService> = Client<S> & Disposable;

const defaultTimeoutMs = 10_000;
const defaultRetries = 2;
const backoff = { baseMs: 25, maxMs: 1_000, tries: 10 };

/**
 * Calls replicas of a service. A leader hint among the endpoints is followed and remembered. A call is repeated when
 * nothing was done (`not_leader`, `connect_failed`), and on unavailable when repeating is harmless: methods without
 * side effects and calls that carry an `idempotency-key`.
 */
export function createRpcClient<S extends DescService>(
  service: S,
  options: RpcClientOptions,
  deps: { readonly clock: Clock; readonly rng: Rng } = { clock: systemClock, rng: systemRng },
): RpcClient<S> {
  if (options.endpoints.length === 0) {
    throw fault("invalid_argument", "bad_endpoint", `Cannot call ${service.typeName} without endpoints`);
  }
  const caller = new Caller(options, deps);
  const client = makeAnyClient(service, (method) => {
    // deno-lint-ignore no-explicit-any -- Client<S> gives each its exact type
    const call = (work: any) => work;
    switch (method.methodKind) {
      case "unary":
        return call((request: never, o?: CallOptions) => caller.unary(method, request, o));
      case "server_streaming":
        return call((request: never, o?: CallOptions) => caller.stream(method, just(request), o, isRepeatable(method)));
      case "client_streaming":
        return call((requests: never, o?: CallOptions) => only(caller.stream(method, requests, o, false)));
      case "bidi_streaming":
        return call((requests: never, o?: CallOptions) => caller.stream(method, requests, o, false));
    }
  });
  return Object.assign(client, { [Symbol.dispose]: () => caller[Symbol.dispose]() }) as unknown as RpcClient<S>;
}

function isRepeatable(method: DescMethod): boolean {
  return method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS ||
    method.idempotency === MethodOptions_IdempotencyLevel.IDEMPOTENT;
}

/** Codes that promise that nothing was done. */
const untouched: ReadonlySet<string> = new Set(["not_leader", "connect_failed", "too_many_calls", "overloaded"]);

class Caller implements Disposable {
  readonly #endpoints: readonly Endpoint[];
  readonly #options: RpcClientOptions;
  readonly #clock: Clock;
  readonly #rng: Rng;
  #current = 0;

  constructor(options: RpcClientOptions, deps: { readonly clock: Clock; readonly rng: Rng }) {
    this.#endpoints = options.endpoints.map((address) => new Endpoint(address, options.tls));
    this.#options = options;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
  }

  [Symbol.dispose](): void {
    for (const endpoint of this.#endpoints) endpoint[Symbol.dispose]();
  }

  async unary<M extends DescMethodUnary>(
    method: M,
    request: MessageInitShape<M["input"]>,
    options: CallOptions = {},
  ): Promise<unknown> {
    const timeoutMs = Math.min(options.timeoutMs ?? this.#options.timeoutMs ?? defaultTimeoutMs, clientTimeoutMsMax);
    const endMs = this.#clock.monotonicMs() + timeoutMs;
    const headers = new Headers(options.headers);
    return await this.#tries(method, headers, options.signal, async (endpoint) => {
      const leftMs = Math.floor(endMs - this.#clock.monotonicMs());
      if (leftMs < 1) throw tooLate(method);
      const once = !isRepeatable(method) && !headers.has("idempotency-key");
      const call = { headers, timeoutMs: leftMs, signal: options.signal, once };
      const answer = await endpoint.unary(method, request, call);
      if (options.onHeader !== undefined || options.onTrailer !== undefined) {
        const [header, trailer] = answer.headers();
        options.onHeader?.(header);
        options.onTrailer?.(trailer);
      }
      return answer.message;
    }, endMs);
  }

  async *stream(
    method: DescMethod,
    requests: AsyncIterable<never>,
    options: CallOptions = {},
    repeatable: boolean,
  ): AsyncGenerator<unknown> {
    const streaming = method as DescMethodStreaming;
    // connect-es does not pass the end of the consumer's loop on; without this the stream would stay open.
    const over = new AbortController();
    const signal = options.signal === undefined ? over.signal : AbortSignal.any([options.signal, over.signal]);
    const headers = new Headers(options.headers);
    // The deadline is kept here: connect-es leaves its timer running after a stream that failed. 0 means none.
    let late: Fault | undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    if (options.timeoutMs !== undefined && options.timeoutMs > 0) {
      const { timeoutMs } = options;
      headers.set("connect-timeout-ms", String(Math.max(1, Math.ceil(timeoutMs))));
      timer = setTimeout(() => {
        late = fault(
          "deadline_exceeded",
          "deadline_exceeded",
          `Cannot wait longer than ${timeoutMs} ms for ${method.name}`,
        );
        over.abort(late);
      }, timeoutMs);
    }
    let answer: StreamResponse | undefined;
    const open = async (endpoint: Endpoint) => {
      const { transport } = endpoint;
      answer = await transport.stream(streaming, signal, undefined, headers, requests, options.contextValues);
      const iterator = answer.message[Symbol.asyncIterator]();
      return { iterator, first: await iterator.next() };
    };
    try {
      const { iterator, first } = repeatable
        ? await this.#tries(method, headers, signal, open, Infinity)
        : await this.#authorised(headers, () => open(this.#endpoint()));
      if (answer !== undefined) options.onHeader?.(answer.header);
      for (let item = first; item.done !== true; item = await iterator.next()) yield item.value;
      if (answer !== undefined) options.onTrailer?.(answer.trailer);
    } catch (error) {
      const failure = late ?? toFault(error);
      this.#moveOn(failure);
      throw failure;
    } finally {
      clearTimeout(timer);
      over.abort();
    }
  }

  #endpoint(): Endpoint {
    return this.#endpoints[this.#current % this.#endpoints.length]!;
  }

  async #authorised<T>(headers: Headers, work: () => Promise<T>): Promise<T> {
    if (this.#options.authorization !== undefined) {
      headers.set("authorization", await this.#options.authorization());
    }
    return await work();
  }

  async #tries<T>(
    method: DescMethod,
    headers: Headers,
    signal: AbortSignal | undefined,
    work: (endpoint: Endpoint) => Promise<T>,
    endMs: number,
  ): Promise<T> {
    const repeatable = isRepeatable(method) || headers.has("idempotency-key");
    const retries = this.#options.retries ?? defaultRetries;
    // Being sent on to the leader costs no retry, unless the replicas send each other round in circles.
    let redirects = retries === 0 ? 0 : this.#endpoints.length;
    for (let repeats = 0;;) {
      const endpoint = this.#endpoint();
      try {
        return await this.#authorised(headers, () => work(endpoint));
      } catch (error) {
        const failure = toFault(error);
        const movedToHint = this.#moveOn(failure, endpoint);
        if (signal?.aborted) throw failure;
        if (failure.code === "not_leader" && movedToHint && redirects-- > 0) continue;
        const again = untouched.has(failure.code) || (repeatable && failure.kind === "unavailable");
        if (!again || repeats >= retries) throw failure;
        repeats++;
        const waitMs = Math.max(failure.detail.retryAfterMs ?? 0, backoffMs(backoff, repeats, this.#rng));
        if (this.#clock.monotonicMs() + waitMs >= endMs) throw failure;
        try {
          await this.#clock.sleep(waitMs, signal);
        } catch {
          throw failure;
        }
      }
    }
  }

  /** Chooses the endpoint of the next call after a failure. True when it is the one the callee named. */
  #moveOn(failure: Fault, failed: Endpoint = this.#endpoint()): boolean {
    // A host that lost its power answers nothing at all: silence counts like a refusal.
    if (failure.kind !== "unavailable" && failure.kind !== "deadline_exceeded") return false;
    const hint = failure.detail.leaderHint;
    const hinted = hint === undefined ? -1 : this.#endpoints.findIndex((endpoint) => endpoint.answersAt(hint));
    if (hinted >= 0 && this.#endpoints[hinted] !== failed) {
      this.#current = hinted;
      return true;
    }
    // Another call may have moved on already.
    if (this.#endpoint() === failed) this.#current = (this.#current + 1) % this.#endpoints.length;
    return false;
  }
}

function tooLate(method: DescMethod): Fault {
  return fault(
    "deadline_exceeded",
    "deadline_exceeded",
    `Cannot finish ${method.parent.typeName}/${method.name} in time`,
  );
}

async function* just<T>(item: T): AsyncGenerator<T> {
  yield item;
}

async function only(items: AsyncIterable<unknown>): Promise<unknown> {
  let found: unknown;
  let count = 0;
  for await (const item of items) {
    found = item;
    count++;
  }
  if (count === 1) return found;
  throw fault("internal", "bad_answer", `Cannot use an answer of ${count} messages: wanted one`);
}
