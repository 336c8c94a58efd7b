import { type Clock, Fault, fault, utf8 } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import { JsonFrames } from "./frames.ts";

/** A reply holds a whole database at most: 100 000 ports are about 50 MB. */
export const messageBytesMaxDefault = 256 * 1024 * 1024;
/** Requests whose answer is awaited. */
export const inFlightMax = 256;
export const requestTimeoutMsDefault = 10_000;
const readBytes = 64 * 1024;

/** Where a server listens. */
export type Endpoint =
  | { readonly transport: "unix"; readonly path: string }
  | { readonly transport: "tcp"; readonly hostname: string; readonly port: number }
  /** TLS with certificates on both sides; the files are read anew for each connection, as they are renewed in place. */
  | { readonly transport: "ssl"; readonly hostname: string; readonly port: number; readonly tls: TlsFiles };

/** "unix:/run/x.sock", "tcp:10.0.0.1:6641" or "ssl:10.0.0.1:6641", as the OVS tools write them; ssl needs `tls`. */
export function parseEndpoint(text: string, tls?: TlsFiles): Endpoint {
  const unix = /^unix:(\/.+)$/.exec(text);
  if (unix) return { transport: "unix", path: unix[1]! };
  const remote = /^(tcp|ssl):(?:\[([0-9a-f:]+)\]|([^:[\]]+)):(\d{1,5})$/i.exec(text);
  const port = Number(remote?.[4]);
  const shown = JSON.stringify(text.slice(0, 120));
  if (!remote || port < 1 || port > 65535) {
    throw fault(
      "invalid_argument",
      "invalid_endpoint",
      `Cannot use ${shown} as a database: wanted unix:/path, tcp:host:port or ssl:host:port`,
    );
  }
  const hostname = (remote[2] ?? remote[3])!;
  if (remote[1]!.toLowerCase() === "tcp") return { transport: "tcp", hostname, port };
  if (tls) return { transport: "ssl", hostname, port, tls };
  throw fault("invalid_argument", "invalid_endpoint", `Cannot use ${shown} without certificates: wanted rpc.tls set`);
}

export function endpointText(endpoint: Endpoint): string {
  if (endpoint.transport === "unix") return `unix:${endpoint.path}`;
  const host = endpoint.hostname.includes(":") ? `[${endpoint.hostname}]` : endpoint.hostname;
  return `${endpoint.transport}:${host}:${endpoint.port}`;
}

async function dial(endpoint: Endpoint): Promise<Deno.Conn> {
  if (endpoint.transport === "unix") return await Deno.connect({ transport: "unix", path: endpoint.path });
  const { hostname, port } = endpoint;
  if (endpoint.transport === "tcp") return await Deno.connect({ hostname, port });
  const { certFile, keyFile, caFile } = endpoint.tls;
  const [cert, key, ca] = await Promise.all([certFile, keyFile, caFile].map((file) => Deno.readTextFile(file)));
  const conn = await Deno.connectTls({ hostname, port, cert: cert!, key: key!, caCerts: [ca!] });
  try {
    await conn.handshake();
    return conn;
  } catch (error) {
    conn.close();
    throw error;
  }
}

export interface JsonRpcOptions {
  readonly endpoint: Endpoint;
  readonly requestTimeoutMs?: number;
  readonly messageBytesMax?: number;
  /** Called with every notification, in order. */
  readonly onNotification?: (method: string, params: readonly unknown[]) => void;
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Fault) => void;
  readonly method: string;
}

/**
 * One JSON-RPC 1.0 connection, as OVSDB servers and the control sockets of the OVS daemons speak it. Answers `echo` by
 * itself. Failures are faults: `ovsdb_absent` (unavailable, nobody listens), `ovsdb_disconnected` (unavailable: a
 * request that was sent may have been carried out), `ovsdb_timeout` (deadline_exceeded, likewise), `ovsdb_busy`
 * (resource_exhausted), `ovsdb_error` (failed_precondition, the peer refused; `metadata.error` says why), and
 * `ovsdb_protocol`, `ovsdb_message_too_long` (data_loss; the connection is closed).
 */
export class JsonRpc implements AsyncDisposable {
  /** Resolves, never rejects, with why the connection ended. */
  readonly closed: Promise<Fault>;
  /** When anything was last heard of the peer, on the monotonic clock. */
  heardMs: number;
  readonly #conn: Deno.Conn;
  readonly #clock: Clock;
  readonly #where: string;
  readonly #options: JsonRpcOptions;
  readonly #frames: JsonFrames;
  readonly #pending = new Map<number, Pending>();
  readonly #reader: Promise<void>;
  #resolveClosed: (reason: Fault) => void;
  #ended: Fault | undefined;
  #writes: Promise<void> = Promise.resolve();
  #writesWaiting = 0;
  #nextId = 1;

  private constructor(conn: Deno.Conn, options: JsonRpcOptions, clock: Clock) {
    this.#conn = conn;
    this.#clock = clock;
    this.#options = options;
    this.#where = endpointText(options.endpoint);
    this.#frames = new JsonFrames({ messageBytesMax: options.messageBytesMax ?? messageBytesMaxDefault });
    this.heardMs = clock.monotonicMs();
    const closed = Promise.withResolvers<Fault>();
    this.closed = closed.promise;
    this.#resolveClosed = closed.resolve;
    this.#reader = this.#read();
  }

  static async connect(options: JsonRpcOptions, deps: { readonly clock: Clock }): Promise<JsonRpc> {
    const { endpoint } = options;
    try {
      const conn = await dial(endpoint);
      if ("setNoDelay" in conn) (conn as Deno.TcpConn).setNoDelay(true);
      return new JsonRpc(conn, options, deps.clock);
    } catch (cause) {
      const absent = cause instanceof Deno.errors.NotFound || cause instanceof Deno.errors.ConnectionRefused;
      throw fault(
        "unavailable",
        absent ? "ovsdb_absent" : "ovsdb_disconnected",
        `Cannot connect to ${endpointText(endpoint)}${
          cause instanceof Deno.errors.NotCapable ? " as this process is not granted it" : ""
        }`,
        { cause },
      );
    }
  }

  /** The result of a call. A late answer finds nobody; the connection stays. */
  async request<T = unknown>(
    method: string,
    params: readonly unknown[],
    o: { readonly timeoutMs?: number; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<T> {
    o.signal?.throwIfAborted();
    if (this.#ended) throw this.#ended;
    // A peer that does not read keeps writes waiting after their requests timed out.
    if (Math.max(this.#pending.size, this.#writesWaiting) >= inFlightMax) {
      throw fault(
        "resource_exhausted",
        "ovsdb_busy",
        `Cannot send ${method} as ${inFlightMax} requests wait for ${this.#where}: wanted fewer`,
      );
    }
    const id = this.#nextId++;
    const answer = Promise.withResolvers<unknown>();
    this.#pending.set(id, { resolve: answer.resolve, reject: answer.reject, method });
    const timeoutMs = o.timeoutMs ?? this.#options.requestTimeoutMs ?? requestTimeoutMsDefault;
    const stop = new AbortController();
    const late = this.#clock.sleep(timeoutMs, o.signal ? AbortSignal.any([o.signal, stop.signal]) : stop.signal)
      .then(() => {
        throw fault(
          "deadline_exceeded",
          "ovsdb_timeout",
          `Cannot wait for ${method} at ${this.#where}: wanted an answer within ${timeoutMs} ms`,
        );
      });
    try {
      this.#write({ method, params, id });
      return await Promise.race([answer.promise, late]) as T;
    } finally {
      this.#pending.delete(id);
      answer.promise.catch(() => {});
      late.catch(() => {});
      stop.abort();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.end(fault("unavailable", "ovsdb_disconnected", `Cannot use ${this.#where} as the connection was closed`));
    await this.#reader;
  }

  /** Closes with a reason that every waiting request gets. */
  end(reason: Fault): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#conn.close();
    for (const pending of this.#pending.values()) pending.reject(reason);
    this.#pending.clear();
    this.#resolveClosed(reason);
  }

  #write(message: unknown): void {
    this.#writesWaiting++;
    const bytes = utf8.encode(JSON.stringify(message));
    this.#writes = this.#writes.then(async () => {
      if (this.#ended) return;
      for (let sent = 0; sent < bytes.length;) sent += await this.#conn.write(bytes.subarray(sent));
    }).catch((cause) => {
      this.end(fault("unavailable", "ovsdb_disconnected", `Cannot write to ${this.#where}`, { cause }));
    }).finally(() => {
      this.#writesWaiting--;
    });
  }

  async #read(): Promise<void> {
    const buffer = new Uint8Array(readBytes);
    try {
      for (;;) {
        const n = await this.#conn.read(buffer);
        if (n === null) break;
        this.heardMs = this.#clock.monotonicMs();
        for (const message of this.#frames.push(buffer.subarray(0, n))) this.#take(message);
      }
      this.end(fault("unavailable", "ovsdb_disconnected", `Cannot use ${this.#where} as the peer closed it`));
    } catch (error) {
      this.end(
        error instanceof Fault
          ? error
          : fault("unavailable", "ovsdb_disconnected", `Cannot read from ${this.#where}`, { cause: error }),
      );
    }
  }

  #take(json: unknown): void {
    if (typeof json !== "object" || json === null || Array.isArray(json)) {
      throw fault("data_loss", "ovsdb_protocol", `Cannot use a message of ${this.#where}: wanted a JSON object`);
    }
    const message = json as { id?: unknown; method?: unknown; params?: unknown; result?: unknown; error?: unknown };
    if (typeof message.method === "string") {
      const params = Array.isArray(message.params) ? message.params : [];
      if (message.id === null || message.id === undefined) this.#options.onNotification?.(message.method, params);
      else if (message.method === "echo") this.#write({ result: params, error: null, id: message.id });
      else this.#write({ result: null, error: "unknown method", id: message.id });
      return;
    }
    const pending = typeof message.id === "number" ? this.#pending.get(message.id) : undefined;
    if (!pending) return;
    if (message.error === null || message.error === undefined) return pending.resolve(message.result);
    pending.reject(refusal(pending.method, message.error));
  }
}

/** An `error` member as a fault: an object with `error` and `details`, or a bare text. */
export function refusal(doing: string, error: unknown, metadata: Readonly<Record<string, string>> = {}): Fault {
  const { error: name, details } = typeof error === "object" && error !== null
    ? error as { error?: unknown; details?: unknown }
    : { error, details: undefined };
  const text = details === undefined ? String(name) : `${name}: ${details}`;
  return fault("failed_precondition", "ovsdb_error", `Cannot carry out ${doing}: ${text}`, {
    metadata: { error: String(name), ...metadata },
  });
}
