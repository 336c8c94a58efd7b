import { type Clock, Fault, fault, utf8 } from "@ultracloud/base";
import { LineSplitter } from "./lines.ts";

/** The longest line known is query-qmp-schema's answer, about 250 KB; a peer beyond 4 MiB is not QEMU. */
export const qmpLineBytesMaxDefault = 4 * 1024 * 1024;
/** Commands whose answer is awaited; QEMU itself runs one at a time. */
export const qmpInFlightMax = 64;
export const qmpCommandTimeoutMsDefault = 5_000;
const readBytes = 64 * 1024;

export interface QmpOptions {
  /** Unix socket of the monitor. */
  readonly path: string;
  /** For the greeting and each command unless it says otherwise. */
  readonly commandTimeoutMs?: number;
  readonly lineBytesMax?: number;
  readonly signal?: AbortSignal;
}

export interface QmpDeps {
  readonly clock: Clock;
}

export interface QmpEvent {
  /** "SHUTDOWN", "RESET", "POWERDOWN" ... */
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface QmpVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
}

export interface ExecuteOptions {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/**
 * One monitor connection, its capabilities negotiated. Failures are faults: `qmp_error` (failed_precondition, the
 * peer refused; metadata.class is its error class), `qmp_timeout` (deadline_exceeded, the peer is there and silent;
 * the connection stays), `qmp_absent` (unavailable, nobody listens on the socket), `qmp_disconnected` (unavailable, the
 * connection could not be made or is gone, which proves nothing about the peer), `qmp_protocol` and `qmp_line_too_long` (data_loss; the
 * connection is closed).
 */
export interface QmpClient extends AsyncDisposable {
  readonly version: QmpVersion;
  /** Runs a command; answers its `return` value. Commands may overlap; answers are matched by id. */
  execute<T = unknown>(command: string, args?: Readonly<Record<string, unknown>>, options?: ExecuteOptions): Promise<T>;
  /** Calls `listener` with every event from now on, in order; answers how to stop. */
  onEvent(listener: (event: QmpEvent) => void): () => void;
  /** Resolves, never rejects, with why the connection ended. */
  readonly closed: Promise<Fault>;
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Fault) => void;
  readonly command: string;
}

/** Connects, reads the greeting and negotiates; rejects when the peer does not within the timeout. */
export async function connectQmp(options: QmpOptions, deps: QmpDeps): Promise<QmpClient> {
  options.signal?.throwIfAborted();
  let conn: Deno.Conn;
  try {
    conn = await Deno.connect({ transport: "unix", path: options.path });
  } catch (cause) {
    // Only these two prove that nobody listens: a stopped QEMU with a full backlog answers "try again".
    const absent = cause instanceof Deno.errors.NotFound || cause instanceof Deno.errors.ConnectionRefused;
    throw fault(
      "unavailable",
      absent ? "qmp_absent" : "qmp_disconnected",
      `Cannot connect to the monitor at ${options.path}`,
      { cause },
    );
  }
  const client = new Client(conn, options, deps.clock);
  try {
    await client.negotiate(options.signal);
    return client;
  } catch (error) {
    await client[Symbol.asyncDispose]();
    throw error;
  }
}

class Client implements QmpClient {
  readonly closed: Promise<Fault>;
  #version: QmpVersion = { major: 0, minor: 0, micro: 0 };
  readonly #conn: Deno.Conn;
  readonly #clock: Clock;
  readonly #path: string;
  readonly #timeoutMs: number;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #greeting = Promise.withResolvers<void>();
  readonly #reader: Promise<void>;
  readonly #splitter: LineSplitter;
  #resolveClosed: (reason: Fault) => void;
  #ended: Fault | undefined;
  #writes: Promise<void> = Promise.resolve();
  #writesWaiting = 0;
  #nextId = 1;

  constructor(conn: Deno.Conn, options: QmpOptions, clock: Clock) {
    this.#conn = conn;
    this.#clock = clock;
    this.#path = options.path;
    this.#timeoutMs = options.commandTimeoutMs ?? qmpCommandTimeoutMsDefault;
    this.#splitter = new LineSplitter({ lineBytesMax: options.lineBytesMax ?? qmpLineBytesMaxDefault });
    const closed = Promise.withResolvers<Fault>();
    this.closed = closed.promise;
    this.#resolveClosed = closed.resolve;
    this.#greeting.promise.catch(() => {});
    this.#reader = this.#read();
  }

  get version(): QmpVersion {
    return this.#version;
  }

  async negotiate(signal?: AbortSignal): Promise<void> {
    await this.#within(this.#greeting.promise, this.#timeoutMs, "read the greeting of", signal);
    await this.execute("qmp_capabilities", undefined, signal ? { signal } : {});
  }

  async execute<T>(
    command: string,
    args?: Readonly<Record<string, unknown>>,
    options: ExecuteOptions = {},
  ): Promise<T> {
    if (this.#ended) throw this.#ended;
    // A peer that does not read keeps writes waiting after their commands timed out.
    if (Math.max(this.#pending.size, this.#writesWaiting) >= qmpInFlightMax) {
      throw fault(
        "resource_exhausted",
        "qmp_busy",
        `Cannot run ${command} as ${this.#pending.size} commands wait for ${this.#path}: wanted fewer than ${qmpInFlightMax}`,
      );
    }
    const id = this.#nextId++;
    const answer = Promise.withResolvers<unknown>();
    this.#pending.set(id, { resolve: answer.resolve, reject: answer.reject, command });
    this.#write({ execute: command, ...(args === undefined ? {} : { arguments: args }), id });
    try {
      const timeoutMs = options.timeoutMs ?? this.#timeoutMs;
      return await this.#within(answer.promise, timeoutMs, `run ${command} at`, options.signal) as T;
    } finally {
      this.#pending.delete(id);
    }
  }

  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end(fault("unavailable", "qmp_disconnected", `Cannot use the monitor at ${this.#path} as it was closed`));
    await this.#reader;
  }

  /** `work`, or a timeout fault; the work itself goes on and its late answer is dropped. */
  async #within<T>(work: Promise<T>, timeoutMs: number, action: string, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    const stop = new AbortController();
    const abort = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
    const late = this.#clock.sleep(timeoutMs, abort).then(() => {
      throw fault(
        "deadline_exceeded",
        "qmp_timeout",
        `Cannot ${action} the monitor ${this.#path}: wanted an answer within ${timeoutMs} ms`,
      );
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      work.catch(() => {});
      late.catch(() => {});
      stop.abort();
    }
  }

  #write(message: unknown): void {
    this.#writesWaiting++;
    const bytes = utf8.encode(JSON.stringify(message) + "\n");
    this.#writes = this.#writes.then(async () => {
      for (let sent = 0; sent < bytes.length;) sent += await this.#conn.write(bytes.subarray(sent));
    }).catch((cause) => {
      this.#end(fault("unavailable", "qmp_disconnected", `Cannot write to the monitor at ${this.#path}`, { cause }));
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
        for (const line of this.#splitter.push(buffer.subarray(0, n))) if (line !== "") this.#take(line);
      }
      this.#end(fault("unavailable", "qmp_disconnected", `Cannot use the monitor at ${this.#path} as QEMU closed it`));
    } catch (error) {
      this.#end(
        error instanceof Fault ? error : fault(
          "unavailable",
          "qmp_disconnected",
          `Cannot read from the monitor at ${this.#path}`,
          { cause: error },
        ),
      );
    }
  }

  #take(line: string): void {
    const message = parse(line, this.#path);
    if ("QMP" in message) {
      const qemu = (message.QMP as { version?: { qemu?: QmpVersion } }).version?.qemu;
      if (qemu) this.#version = { major: qemu.major, minor: qemu.minor, micro: qemu.micro };
      this.#greeting.resolve();
    } else if (typeof message.event === "string") {
      const event: QmpEvent = { name: message.event, data: (message.data ?? {}) as Record<string, unknown> };
      for (const listener of [...this.#listeners]) listener(event);
    } else {
      this.#answer(message);
    }
  }

  #answer(message: Readonly<Record<string, unknown>>): void {
    // An answer after its command timed out finds nobody.
    const pending = typeof message.id === "number" ? this.#pending.get(message.id) : undefined;
    if (!pending) return;
    if ("return" in message) return pending.resolve(message.return);
    const error = (message.error ?? {}) as { class?: string; desc?: string };
    pending.reject(fault(
      "failed_precondition",
      "qmp_error",
      `Cannot run ${pending.command}: ${error.desc ?? "the monitor gave no reason"}`,
      { metadata: { class: error.class ?? "GenericError" } },
    ));
  }

  #end(reason: Fault): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#conn.close();
    this.#greeting.reject(reason);
    for (const pending of this.#pending.values()) pending.reject(reason);
    this.#pending.clear();
    this.#listeners.clear();
    this.#resolveClosed(reason);
  }
}

function parse(line: string, path: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // Said below, with what was read.
  }
  throw fault(
    "data_loss",
    "qmp_protocol",
    `Cannot read ${JSON.stringify(line.slice(0, 80))} from ${path}: wanted a QMP message`,
  );
}
