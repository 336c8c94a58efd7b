import { create, type DescMessage, type MessageInitShape, toBinary, toJson } from "@bufbuild/protobuf";
import { type AnySchema, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type Clock, fault, type FaultKind, invalidField, toHex } from "@ultracloud/base";
import { type Operation, OperationSchema, OperationService, OperationState } from "@ultracloud/proto/common/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { KvBackend } from "./kv.ts";
import {
  makePageToken,
  type Page,
  pageFilter,
  type PageInput,
  pageSizeOf,
  readPageToken,
  rowsReadMax,
} from "./pages.ts";
import { buckets, decodeJson, encodeJson } from "./records.ts";
import type { Tx } from "./transaction.ts";

/** Finished operations are kept this long. */
export const operationTtlMs = 7 * 24 * 3600 * 1000;
/** Longest one WaitOperation call. */
export const waitMsMax = 60_000;
/** How often a waiter looks for itself, for operations that another replica runs. */
const waitPollMs = 500;

/** What an operation works on. */
export interface OperationTarget {
  readonly kind: string;
  readonly project: string;
  readonly name: string;
  readonly id: string;
}

export interface OperationFailure {
  readonly code: string;
  readonly message: string;
  readonly cause: string;
  /** What a call would have failed with; absent in rows of earlier versions. */
  readonly kind?: FaultKind;
}

/** A message kept by its type name. */
export interface PackedMessage {
  readonly typeUrl: string;
  /** Hexadecimal. */
  readonly value: string;
}

/** An operation as it is stored. */
export interface OperationRow {
  readonly id: string;
  readonly kind: string;
  readonly service: string;
  readonly project: string;
  readonly target: OperationTarget;
  readonly state: "pending" | "running" | "done" | "failed" | "cancelled";
  readonly progressPercent: number;
  readonly step: string;
  readonly startMs: number;
  readonly endMs?: number;
  readonly error?: OperationFailure;
  readonly cancellable: boolean;
  readonly cancelRequested: boolean;
  readonly result?: PackedMessage;
  readonly requestId: string;
  readonly saga: SagaState;
}

/** Where the work stands; what a runner needs to go on after any crash. */
export interface SagaState {
  /** Grows with every step taken, so that of two runners one loses. */
  readonly sequence: number;
  readonly phase: "do" | "undo";
  /** Position of the step to run next (do) or to undo next (undo). */
  readonly next: number;
  readonly data: unknown;
}

export function operationKey(project: string, id: string): string {
  return `${project}|${id}`;
}

export function isOver(row: OperationRow): boolean {
  return row.state === "done" || row.state === "failed" || row.state === "cancelled";
}

/** Packs the resource that an operation answers. */
export function packMessage<S extends DescMessage>(schema: S, message: MessageInitShape<S>): PackedMessage {
  return {
    typeUrl: `type.googleapis.com/${schema.typeName}`,
    value: toHex(toBinary(schema, create(schema, message))),
  };
}

function fromHex(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = parseInt(text.slice(2 * i, 2 * i + 2), 16);
  return bytes;
}

const wireStates: Record<OperationRow["state"], OperationState> = {
  pending: OperationState.PENDING,
  running: OperationState.RUNNING,
  done: OperationState.DONE,
  failed: OperationState.FAILED,
  cancelled: OperationState.CANCELLED,
};

/** The operation as callers see it. */
export function toOperation(row: OperationRow): Operation {
  const result: MessageInitShape<typeof AnySchema> | undefined = row.result &&
    { typeUrl: row.result.typeUrl, value: fromHex(row.result.value) };
  return create(OperationSchema, {
    id: row.id,
    kind: row.kind,
    target: { service: row.service, ...row.target },
    state: wireStates[row.state],
    progressPercent: row.progressPercent,
    step: row.step,
    startTime: timestampFromMs(row.startMs),
    cancellable: row.cancellable && !isOver(row) && row.saga.phase === "do",
    requestId: row.requestId,
    ...(row.endMs === undefined ? {} : { endTime: timestampFromMs(row.endMs) }),
    ...(row.error ? { error: row.error } : {}),
    ...(result ? { result } : {}),
  });
}

/** What starting an operation needs. */
export interface NewOperation {
  readonly kind: string;
  readonly project: string;
  readonly target: OperationTarget;
  readonly data: unknown;
  readonly requestId: string;
  readonly cancellable: boolean;
}

/** Stored operations and those who wait for them. */
export class Operations {
  readonly #kv: KvBackend;
  readonly #clock: Clock;
  readonly #service: string;
  readonly #waiters = new Map<string, Set<() => void>>();
  readonly #listeners = new Set<(event: "started" | "cancelled", id: string) => void>();

  constructor(o: { readonly service: string }, deps: { readonly kv: KvBackend; readonly clock: Clock }) {
    this.#service = o.service;
    this.#kv = deps.kv;
    this.#clock = deps.clock;
  }

  /** Writes a new operation with the transaction; a runner takes it up once that has committed. */
  start(tx: Tx, fresh: NewOperation): OperationRow {
    const row: OperationRow = {
      id: tx.newId("op"),
      kind: fresh.kind,
      service: this.#service,
      project: fresh.project,
      target: fresh.target,
      state: "pending",
      progressPercent: 0,
      step: "",
      startMs: tx.nowMs,
      cancellable: fresh.cancellable,
      cancelRequested: false,
      requestId: fresh.requestId,
      saga: { sequence: 0, phase: "do", next: 0, data: fresh.data },
    };
    this.save(tx, row);
    tx.write(buckets.active, row.id, encodeJson(row.project));
    tx.afterCommit(() => this.#tell("started", row.id));
    return row;
  }

  /** An operation that is over at once and is not stored: the answer of a dry run. */
  finished(tx: Tx, fresh: Omit<NewOperation, "data" | "cancellable">): OperationRow {
    return {
      ...fresh,
      id: tx.newId("op"),
      service: this.#service,
      state: "done",
      progressPercent: 100,
      step: "",
      startMs: tx.nowMs,
      endMs: tx.nowMs,
      cancellable: false,
      cancelRequested: false,
      saga: { sequence: 0, phase: "do", next: 0, data: {} },
    };
  }

  /** The operation inside a transaction. */
  async read(tx: Tx, project: string, id: string): Promise<OperationRow | undefined> {
    const bytes = await tx.read(buckets.operations, operationKey(project, id));
    return bytes && decodeJson<OperationRow>(bytes);
  }

  /** Writes the operation with the transaction and wakes those who wait for it. */
  save(tx: Tx, row: OperationRow): void {
    tx.write(
      buckets.operations,
      operationKey(row.project, row.id),
      encodeJson(row),
      isOver(row) ? operationTtlMs : undefined,
    );
    if (isOver(row)) tx.delete(buckets.active, row.id);
    tx.afterCommit(() => {
      for (const wake of this.#waiters.get(row.id) ?? []) wake();
    });
  }

  /** The operation, or a not_found fault. */
  async get(project: string, id: string, signal?: AbortSignal): Promise<OperationRow> {
    const item = await this.#kv.get(buckets.operations, operationKey(project, id), signal);
    if (!item) {
      throw fault(
        "not_found",
        "operation_not_found",
        `Cannot find operation ${JSON.stringify(id.slice(0, 40))} in ${project}`,
      );
    }
    return decodeJson<OperationRow>(item.value);
  }

  /** The operation once it is over, or as it stands after `timeoutMs`. */
  async wait(project: string, id: string, timeoutMs: number, signal: AbortSignal): Promise<OperationRow> {
    const deadline = this.#clock.monotonicMs() + timeoutMs;
    for (;;) {
      let wake = () => {};
      const woken = new Promise<void>((resolve) => wake = resolve);
      const waiters = this.#waiters.get(id) ?? new Set();
      this.#waiters.set(id, waiters.add(wake));
      const timer = new AbortController();
      try {
        const row = await this.get(project, id, signal);
        const left = deadline - this.#clock.monotonicMs();
        if (isOver(row) || left <= 0) return row;
        const pause = this.#clock.sleep(Math.min(left, waitPollMs), AbortSignal.any([timer.signal, signal]));
        await Promise.race([woken, pause.catch(() => signal.throwIfAborted())]);
      } finally {
        timer.abort();
        waiters.delete(wake);
        if (waiters.size === 0) this.#waiters.delete(id);
      }
    }
  }

  /** Newest first. */
  async page(project: string, page: PageInput | undefined, signal?: AbortSignal): Promise<Page<OperationRow>> {
    const size = pageSizeOf(page);
    const filter = pageFilter(page);
    const prefix = operationKey(project, "");
    const question = `operations|${prefix}${filter.question}`;
    let before = readPageToken(page?.pageToken, question);
    const items: OperationRow[] = [];
    for (let read = 0; read < rowsReadMax;) {
      const scan = { prefix, limit: 500, reverse: true, ...(before === undefined ? {} : { end: before }) };
      const rows = await this.#kv.scan(buckets.operations, scan, signal);
      for (const item of rows) {
        const row = decodeJson<OperationRow>(item.value);
        const { result: _, ...bare } = row;
        if (filter.matches({}, () => toJson(OperationSchema, toOperation(bare)))) {
          if (items.length === size) return { items, nextPageToken: makePageToken(before!, question) };
          items.push(row);
        }
        before = item.key;
      }
      if (rows.length < 500) return { items, nextPageToken: "" };
      read += rows.length;
    }
    return { items, nextPageToken: makePageToken(before!, question) };
  }

  /** Asks a running operation to undo what it did; the answer may still be running. */
  async requestCancel(tx: Tx, project: string, id: string): Promise<OperationRow> {
    const row = await this.read(tx, project, id);
    if (!row) {
      throw fault("not_found", "operation_not_found", `Cannot find operation ${JSON.stringify(id)} in ${project}`);
    }
    if (row.cancelRequested) return row;
    if (isOver(row) || !row.cancellable || row.saga.phase === "undo") {
      const why = isOver(row) ? `it is ${row.state}` : row.saga.phase === "undo" ? "it is being undone" : "its kind";
      throw fault(
        "failed_precondition",
        "operation_not_cancellable",
        `Cannot cancel operation ${id} because of ${why}: wanted a cancellable one that is under way`,
      );
    }
    const next: OperationRow = { ...row, cancelRequested: true };
    this.save(tx, next);
    tx.afterCommit(() => this.#tell("cancelled", id));
    return next;
  }

  /** Calls back when an operation of this process starts or is asked to stop; answers how to end that. */
  listen(callback: (event: "started" | "cancelled", id: string) => void): () => void {
    this.#listeners.add(callback);
    return () => this.#listeners.delete(callback);
  }

  /** The RPC face, with its authorisation rows. */
  serve(transact: <T>(fn: (tx: Tx) => Promise<T>) => Promise<T>): BoundService {
    return bind(OperationService, {
      getOperation: async (request, context) =>
        toOperation(await this.get(request.project, request.id, context.signal)),
      listOperations: async (request, context) => {
        const page = await this.page(request.project, request.page, context.signal);
        return { operations: page.items.map(toOperation), page: { nextPageToken: page.nextPageToken } };
      },
      waitOperation: async (request, context) => {
        if (request.timeoutMs < 0 || request.timeoutMs > waitMsMax) {
          throw invalidField("timeoutMs", `Cannot wait ${request.timeoutMs} ms: wanted 0 to ${waitMsMax}`);
        }
        return toOperation(await this.wait(request.project, request.id, request.timeoutMs, context.signal));
      },
      cancelOperation: async (request) =>
        toOperation(await transact((tx) => this.requestCancel(tx, request.project, request.id))),
    }, {
      getOperation: { resource: "operation", action: "get", scope: (r) => r.project },
      listOperations: { resource: "operation", action: "list", scope: (r) => r.project },
      waitOperation: { resource: "operation", action: "get", scope: (r) => r.project },
      cancelOperation: { resource: "operation", action: "cancel", scope: (r) => r.project },
    });
  }

  #tell(event: "started" | "cancelled", id: string): void {
    for (const listener of [...this.#listeners]) listener(event, id);
  }
}
