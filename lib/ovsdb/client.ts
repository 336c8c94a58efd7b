import { backoffMs, type Clock, Fault, fault, type Rng } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { type Endpoint, endpointText, JsonRpc, requestTimeoutMsDefault } from "./json_rpc.ts";
import { Locks } from "./locks.ts";
import { type Operation, type OperationResult, readResults, type TransactOptions } from "./operations.ts";
import { Replica } from "./replica.ts";
import { parseSchema, type Schema } from "./schema.ts";

/** Connections that fail are repeated at this pace, for as long as it takes. */
const backoff = { baseMs: 20, maxMs: 2_000, tries: Number.POSITIVE_INFINITY };
/** Attempts beyond this no longer change the pace. */
const attemptsCounted = 10;
/** A peer silent for this long is asked; silent for as long again, it is gone. */
const probeMsDefault = 5_000;
const neverSeen = "00000000-0000-0000-0000-000000000000";

export interface OvsdbOptions {
  readonly endpoint: Endpoint;
  readonly database: string;
  /** Columns to copy, by table; none: no copy. Those that the server's schema lacks are an error. */
  readonly tables?: Readonly<Record<string, readonly string[]>>;
  readonly requestTimeoutMs?: number;
  readonly probeMs?: number;
  readonly messageBytesMax?: number;
}

export interface OvsdbDeps {
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
}

/** A lock of the server, asked for again on every connection. */
export interface LockHandle extends AsyncDisposable {
  readonly name: string;
  /** True while the server says so and the connection stands. Guard writes with `assertLock` all the same. */
  readonly held: boolean;
  /** Resolves once it is held. */
  acquired(signal?: AbortSignal): Promise<void>;
  /** Takes it from whoever has it. */
  steal(): Promise<void>;
}

/**
 * One database of one server, connected again whenever the connection is lost, its replica continued from the last
 * transaction seen where the server still knows it. Besides the faults of `JsonRpc`, `transact` throws
 * `ovsdb_outcome_unknown` (unavailable) when the connection ended or the time ran out behind a transaction that was
 * sent: look at the replica before repeating it.
 */
export interface OvsdbClient extends AsyncDisposable {
  readonly connected: boolean;
  /** The copy of the tables asked for; as old as the last connection while there is none. */
  readonly replica: Replica;
  /** Copies made anew because the server no longer knew the last transaction seen, the first included. */
  readonly copies: number;
  /** Schema of the connected server; undefined before the first connection. */
  readonly schema: Schema | undefined;
  /** Why there is no connection. */
  readonly reason: string;
  /** Resolves once connected with the replica up to date. */
  ready(signal?: AbortSignal): Promise<void>;
  /** Calls `listener` after every change of the replica and of the connection; answers how to stop. */
  onChange(listener: () => void): () => void;
  /** All operations or none; answers when committed, and the replica holds them then. */
  transact(operations: readonly Operation[], options?: TransactOptions): Promise<OperationResult[]>;
  /** Queues for a lock. */
  lock(name: string): LockHandle;
}

/** Starts connecting; nothing is thrown for a server that is not there. */
export function openOvsdb(options: OvsdbOptions, deps: OvsdbDeps): OvsdbClient {
  return new Client(options, deps);
}

class Client implements OvsdbClient {
  readonly replica: Replica;
  copies = 0;
  schema: Schema | undefined;
  reason = "not yet connected";
  readonly #options: OvsdbOptions;
  readonly #deps: OvsdbDeps;
  readonly #where: string;
  readonly #stop = new AbortController();
  readonly #listeners = new Set<() => void>();
  readonly #locks: Locks;
  readonly #running: Promise<void>;
  #rpc: JsonRpc | undefined;
  #lastTransaction = neverSeen;

  constructor(options: OvsdbOptions, deps: OvsdbDeps) {
    this.#options = options;
    this.#deps = deps;
    this.#where = `${options.database} at ${endpointText(options.endpoint)}`;
    this.replica = new Replica(options.tables ?? {});
    this.#locks = new Locks(() => this.#rpc, () => this.#tell());
    this.#running = this.#run();
  }

  get connected(): boolean {
    return this.#rpc !== undefined;
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  ready(signal?: AbortSignal): Promise<void> {
    return this.#until(() => this.connected, signal);
  }

  lock(name: string): LockHandle {
    const handle = this.#locks.add(name);
    return Object.assign(handle, { acquired: (signal?: AbortSignal) => this.#until(() => handle.held, signal) });
  }

  async transact(operations: readonly Operation[], options: TransactOptions = {}): Promise<OperationResult[]> {
    const rpc = this.#rpc;
    if (!rpc) {
      throw fault("unavailable", "ovsdb_disconnected", `Cannot write to ${this.#where} as ${this.reason}`);
    }
    let answer: unknown;
    try {
      answer = await rpc.request("transact", [this.#options.database, ...operations], options);
    } catch (error) {
      if (error instanceof Fault && (error.code === "ovsdb_disconnected" || error.code === "ovsdb_timeout")) {
        throw fault(
          "unavailable",
          "ovsdb_outcome_unknown",
          `Cannot tell whether ${this.#where} carried out a transaction of ${operations.length} operations`,
          { cause: error },
        );
      }
      throw error;
    }
    return readResults(answer, operations);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(fault("unavailable", "ovsdb_disconnected", `Cannot use ${this.#where} as the client was closed`));
    await this.#running;
  }

  async #run(): Promise<void> {
    const { clock, rng, log } = this.#deps;
    let failures = 0;
    while (!this.#stop.signal.aborted) {
      try {
        await this.#connection(() => failures = 0);
      } catch (error) {
        if (this.#stop.signal.aborted) break;
        failures++;
        this.reason = error instanceof Error ? error.message : String(error);
        if (failures === 1) log.warn("no connection to a database", { database: this.#where, reason: this.reason });
        this.#tell();
      }
      await clock.sleep(backoffMs(backoff, Math.min(failures, attemptsCounted) || 1, rng), this.#stop.signal)
        .catch(() => {});
    }
    this.#tell();
  }

  /** One connection from its start to its end; always throws with why it ended. */
  async #connection(onReady: () => void): Promise<never> {
    const { clock } = this.#deps;
    const { database, requestTimeoutMs, messageBytesMax } = this.#options;
    // Updates may stand in one chunk with the answer to the monitor request, before whoever awaits it goes on.
    const early: (readonly unknown[])[] = [];
    let follow = (params: readonly unknown[]) => void early.push(params);
    await using rpc = await JsonRpc.connect({
      endpoint: this.#options.endpoint,
      ...(requestTimeoutMs === undefined ? {} : { requestTimeoutMs }),
      ...(messageBytesMax === undefined ? {} : { messageBytesMax }),
      onNotification: (method, params) => {
        if (method === "update3") follow(params);
        else this.#locks.notified(method, params);
      },
    }, { clock });
    const abort = () => rpc.end(this.#stop.signal.reason as Fault);
    this.#stop.signal.addEventListener("abort", abort, { once: true });
    try {
      this.#stop.signal.throwIfAborted();
      await this.#refuseUnlessUsable(rpc);
      const schema = this.#checked(parseSchema(await rpc.request("get_schema", [database])));
      await this.#copy(rpc, schema);
      for (const params of early.splice(0)) this.#update(params, schema);
      follow = (params) => {
        this.#update(params, schema);
        this.#tell();
      };
      await this.#locks.ask(rpc);
      this.schema = schema;
      this.#rpc = rpc;
      onReady();
      this.#tell();
      await Promise.race([rpc.closed, this.#probe(rpc)]);
      throw await rpc.closed;
    } finally {
      this.#stop.signal.removeEventListener("abort", abort);
      this.#rpc = undefined;
      this.#locks.lost();
    }
  }

  /** A member of a cluster that has not found its leader takes transactions and never answers them. */
  async #refuseUnlessUsable(rpc: JsonRpc): Promise<void> {
    const { database } = this.#options;
    const columns = ["model", "connected"];
    const select: Operation = { op: "select", table: "Database", where: [["name", "==", database]], columns };
    const answer = await rpc.request("transact", ["_Server", select]);
    const [row] = readResults(answer, [select])[0]?.rows ?? [];
    if (row?.model !== "clustered" || row.connected === true) return;
    throw fault("unavailable", "ovsdb_no_leader", `Cannot use ${this.#where} as its cluster has no leader`);
  }

  #checked(schema: Schema): Schema {
    for (const [table, columns] of Object.entries(this.#options.tables ?? {})) {
      const known = schema.tables[table];
      const missing = known ? columns.find((column) => !known.columns[column]) : "";
      if (missing === undefined) continue;
      throw fault(
        "failed_precondition",
        "ovsdb_schema",
        `Cannot use schema ${schema.name} ${schema.version} of ${this.#where} as it has no ${
          known ? `column ${missing} in ` : ""
        }table ${table}`,
      );
    }
    return schema;
  }

  async #copy(rpc: JsonRpc, schema: Schema): Promise<void> {
    const requests = Object.fromEntries(
      Object.entries(this.#options.tables ?? {}).map(([table, columns]) => [table, [{ columns }]]),
    );
    if (Object.keys(requests).length === 0) return;
    const answer = await rpc.request<[boolean, string, unknown]>(
      "monitor_cond_since",
      [this.#options.database, "copy", requests, this.#lastTransaction],
    );
    const [found, last, updates] = answer;
    if (!found) {
      this.replica.clear();
      this.copies++;
    }
    this.#apply(updates, schema);
    this.#lastTransaction = last;
  }

  #update(params: readonly unknown[], schema: Schema): void {
    this.#apply(params[2], schema);
    this.#lastTransaction = typeof params[1] === "string" ? params[1] : neverSeen;
  }

  #apply(updates: unknown, schema: Schema): void {
    try {
      this.replica.apply(updates, schema);
    } catch (error) {
      this.#lastTransaction = neverSeen;
      throw error;
    }
  }

  /** Ends the connection to a peer that answers nothing. */
  async #probe(rpc: JsonRpc): Promise<void> {
    const { clock } = this.#deps;
    const probeMs = this.#options.probeMs ?? probeMsDefault;
    const over = new AbortController();
    void rpc.closed.then(() => over.abort());
    for (;;) {
      const idleMs = clock.monotonicMs() - rpc.heardMs;
      await clock.sleep(Math.max(1, probeMs - idleMs), over.signal).catch(() => {});
      if (over.signal.aborted) return;
      if (clock.monotonicMs() - rpc.heardMs < probeMs) continue;
      try {
        await rpc.request("echo", [], { timeoutMs: Math.min(probeMs, requestTimeoutMsDefault) });
      } catch (cause) {
        rpc.end(fault("unavailable", "ovsdb_disconnected", `Cannot reach ${this.#where}: it is silent`, { cause }));
        return;
      }
    }
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  async #until(condition: () => boolean, signal?: AbortSignal): Promise<void> {
    while (!condition()) {
      signal?.throwIfAborted();
      this.#stop.signal.throwIfAborted();
      const changed = Promise.withResolvers<void>();
      const stop = this.onChange(() => changed.resolve());
      const onAbort = () => changed.resolve();
      signal?.addEventListener("abort", onAbort, { once: true });
      await changed.promise;
      stop();
      signal?.removeEventListener("abort", onAbort);
    }
  }
}
