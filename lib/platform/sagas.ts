import { backoffMs, type BackoffOptions, type Clock, type Fault, fault, type Rng } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { toFault } from "@ultracloud/rpc";
import { keyAfter, type KvBackend } from "./kv.ts";
import { isOver, type OperationFailure, type OperationRow, type Operations, type PackedMessage } from "./operations.ts";
import { buckets, decodeJson } from "./records.ts";
import type { Tx } from "./transaction.ts";

/** What a step may use. */
export interface StepContext<D> {
  /** As the steps before left it. */
  readonly data: D;
  readonly operation: OperationRow;
  /** Aborted by cancel, the step's time limit, loss of leadership and shutdown. */
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** Tells callers how far the step is, 0 to 1, and what it is at. Told for people: a crash forgets it. */
  report(share: number, step?: string): Promise<void>;
}

/**
 * One step. Both functions must be idempotent: after a crash the step that was under way runs again, and undo runs for
 * every step that may have begun, the failed one included.
 */
export interface SagaStep<D> {
  /** For people: "Reserving capacity". */
  readonly title: string;
  /** Does the step; what it answers is merged into the saga's data and kept before the next step runs. */
  do(context: StepContext<D>): Promise<Partial<D> | void> | Partial<D> | void;
  /** Takes it back; retried until it succeeds. */
  undo?(context: StepContext<D>): Promise<void> | void;
  /** Time limit of one try. */
  readonly timeoutMs?: number;
  /** Tries while failures are passing ones (unavailable, aborted, deadline_exceeded). */
  readonly tries?: number;
}

/** Long work as steps. `D` is JSON. */
export interface Saga<D> {
  /** Kind of its operations: "vm.create". */
  readonly kind: string;
  readonly steps: readonly SagaStep<D>[];
  readonly cancellable: boolean;
  /** Runs in the transaction that ends the operation well; answers its result. */
  finish?(tx: Tx, data: D, operation: OperationRow): Promise<PackedMessage | undefined>;
  /**
   * Asked when undo has come to its end: true says that what was to be undone could only be finished, as it had gone too
   * far. The operation then ends well, as if nobody had asked to cancel it.
   */
  isDone?(tx: Tx, data: D, operation: OperationRow): Promise<boolean>;
  /** Runs in the transaction that ends the operation after undo. */
  abandon?(tx: Tx, data: D, operation: OperationRow, error: OperationFailure): Promise<void>;
}

export const stepTimeoutMsDefault = 120_000;
export const stepTriesDefault = 6;
const doBackoff: BackoffOptions = { baseMs: 100, maxMs: 5_000, tries: 0 };
/** Undo never gives up: what it leaves behind would be lost capacity. */
const undoBackoff: BackoffOptions = { baseMs: 200, maxMs: 30_000, tries: 0 };
/** Active operations read at once. */
const activeRows = 1000;
const passing = new Set(["unavailable", "aborted", "deadline_exceeded"]);

class Superseded extends Error {}
class CancelRequested extends Error {}

interface Pause {
  attempt: number;
  untilMs: number;
}

/** Runs the active operations of a service: those begun here and those a dead process left. */
export class SagaRunner {
  // deno-lint-ignore no-explicit-any -- sagas of different data types share the table
  readonly #sagas = new Map<string, Saga<any>>();
  readonly #running = new Map<string, { done: Promise<void>; cancel: AbortController }>();
  readonly #pauses = new Map<string, Pause>();
  readonly #o: { readonly concurrency: number; readonly pollMs: number };
  readonly #deps: SagaDeps;
  #wake = () => {};

  constructor(o: { readonly concurrency: number; readonly pollMs: number }, deps: SagaDeps) {
    this.#o = o;
    this.#deps = deps;
  }

  /** Makes a kind of work known; do it before `run`. */
  define<D>(saga: Saga<D>): void {
    if (this.#sagas.has(saga.kind)) throw new TypeError(`Saga ${saga.kind} is defined twice`);
    this.#sagas.set(saga.kind, saga);
  }

  /** Starts the work with the transaction. */
  start<D>(
    tx: Tx,
    saga: Saga<D>,
    o: { project: string; target: OperationRow["target"]; data: D; requestId: string },
  ): OperationRow {
    if (this.#sagas.get(saga.kind) !== saga) throw new TypeError(`Saga ${saga.kind} is not defined`);
    return this.#deps.operations.start(tx, { ...o, kind: saga.kind, cancellable: saga.cancellable });
  }

  /** Works until `signal` aborts; then stops at once, leaving the rest to whoever runs next. */
  async run(signal: AbortSignal): Promise<void> {
    const unlisten = this.#deps.operations.listen((event, id) => {
      if (event === "cancelled") this.#running.get(id)?.cancel.abort(new CancelRequested());
      this.#wake();
    });
    try {
      while (!signal.aborted) {
        const woken = new Promise<void>((resolve) => this.#wake = resolve);
        let pauseMs = this.#o.pollMs;
        try {
          pauseMs = await this.#takeUp(signal);
        } catch (error) {
          if (!signal.aborted) this.#deps.log.warn("cannot read active operations", { error: String(error) });
        }
        const timer = new AbortController();
        const sleep = this.#deps.clock.sleep(pauseMs, AbortSignal.any([timer.signal, signal])).catch(() => {});
        await Promise.race([woken, sleep]);
        timer.abort();
      }
    } finally {
      unlisten();
      await Promise.all([...this.#running.values()].map((task) => task.done));
      this.#pauses.clear();
    }
  }

  /** Starts what may run now; answers how long nothing else is due. */
  async #takeUp(signal: AbortSignal): Promise<number> {
    let pauseMs = this.#o.pollMs;
    // To the end: those that wait for something must not hide the ones behind them.
    for (let start = ""; this.#running.size < this.#o.concurrency;) {
      const items = await this.#deps.kv.scan(buckets.active, { start, limit: activeRows }, signal);
      const now = this.#deps.clock.monotonicMs();
      for (const item of items) {
        if (this.#running.size >= this.#o.concurrency) break;
        if (this.#running.has(item.key)) continue;
        const pause = this.#pauses.get(item.key);
        if (pause && pause.untilMs > now) {
          pauseMs = Math.min(pauseMs, pause.untilMs - now);
          continue;
        }
        this.#launch(item.key, decodeJson<string>(item.value), signal);
      }
      if (items.length < activeRows) break;
      start = keyAfter(items.at(-1)!.key);
    }
    return pauseMs;
  }

  #launch(id: string, project: string, signal: AbortSignal): void {
    const cancel = new AbortController();
    const work = this.#work(project, id, AbortSignal.any([signal, cancel.signal]), signal);
    const done = work.catch((error) => {
      if (signal.aborted || error instanceof Superseded) return;
      this.#deps.log.warn("operation waits after a failure", { operation: id, error: String(error) });
      this.#pause(id, undoBackoff);
    }).finally(() => {
      this.#running.delete(id);
      this.#wake();
    });
    this.#running.set(id, { done, cancel });
  }

  #pause(id: string, backoff: BackoffOptions): number {
    const attempt = (this.#pauses.get(id)?.attempt ?? 0) + 1;
    const untilMs = this.#deps.clock.monotonicMs() + backoffMs(backoff, Math.min(attempt, 20), this.#deps.rng);
    this.#pauses.set(id, { attempt, untilMs });
    return attempt;
  }

  /** Takes steps until the operation is over or has to wait. */
  async #work(project: string, id: string, stepSignal: AbortSignal, stop: AbortSignal): Promise<void> {
    let row = await this.#deps.operations.get(project, id, stop);
    if (isOver(row)) return;
    const saga = this.#sagas.get(row.kind);
    if (!saga) {
      throw fault("internal", "saga_unknown", `Cannot run operation ${id}: no saga ${row.kind} in this version`);
    }
    const log = this.#deps.log.child({ operation: id, kind: row.kind });
    for (;;) {
      stop.throwIfAborted();
      if (row.saga.phase === "do") {
        if (row.cancelRequested) {
          row = await this.#turn(row, saga, cancelled, log);
          continue;
        }
        const step = saga.steps[row.saga.next];
        if (!step) return await this.#finish(row, saga);
        row = await this.#note(row, { step: step.title }, saga);
        try {
          const patch = await this.#try(step, row, stepSignal, log);
          row = await this.#note(row, { next: row.saga.next + 1, patch: patch ?? {} }, saga);
          this.#pauses.delete(id);
        } catch (error) {
          stop.throwIfAborted();
          if (error instanceof Superseded) throw error;
          row = await this.#deps.operations.get(project, id, stop);
          if (row.cancelRequested) continue;
          const why = toFault(error);
          if (passing.has(why.kind) && this.#pause(id, doBackoff) < (step.tries ?? stepTriesDefault)) {
            log.info("step waits", { step: step.title, code: why.code, error: why.message });
            return;
          }
          this.#pauses.delete(id);
          if (why.kind === "internal") log.error("step failed for no known reason", { step: step.title, error });
          row = await this.#turn(row, saga, failureOf(why), log);
        }
        continue;
      }
      const step = saga.steps[row.saga.next];
      if (!step) return await this.#abandon(row, saga);
      if (step.undo) {
        const report = () => Promise.resolve();
        await this.#bounded(
          step,
          stop,
          (signal) => step.undo!({ data: row.saga.data, operation: row, signal, log, report }),
        );
      }
      row = await this.#note(row, { next: row.saga.next - 1, step: `Undoing: ${step.title}` }, saga);
      this.#pauses.delete(id);
    }
  }

  #try<D>(step: SagaStep<D>, row: OperationRow, signal: AbortSignal, log: Logger): Promise<Partial<D> | void> {
    const report = (share: number, title?: string) => this.#report(row, share, title);
    return this.#bounded(
      step,
      signal,
      (limit) => step.do({ data: row.saga.data as D, operation: row, signal: limit, log, report }),
    );
  }

  /** Shows progress inside a step. The saga's own state stays as it is, so that no runner is superseded by it. */
  async #report(row: OperationRow, share: number, title: string | undefined): Promise<void> {
    const steps = Math.max(1, this.#sagas.get(row.kind)?.steps.length ?? 1);
    const within = Math.max(0, Math.min(1, share));
    const progressPercent = Math.min(99, Math.floor(100 * (Math.max(0, row.saga.next) + within) / steps));
    await this.#deps.transact(async (tx) => {
      const current = await this.#deps.operations.read(tx, row.project, row.id);
      if (!current || isOver(current) || current.saga.sequence !== row.saga.sequence) return;
      const step = title ?? current.step;
      if (current.progressPercent === progressPercent && current.step === step) return;
      this.#deps.operations.save(tx, { ...current, progressPercent, step });
    });
  }

  async #bounded<D, T>(
    step: SagaStep<D>,
    signal: AbortSignal,
    work: (signal: AbortSignal) => Promise<T> | T,
  ): Promise<T> {
    signal.throwIfAborted();
    const ms = step.timeoutMs ?? stepTimeoutMsDefault;
    const limit = new AbortController();
    const timer = new AbortController();
    const timeout = this.#deps.clock.sleep(ms, timer.signal).then(
      () => limit.abort(fault("deadline_exceeded", "step_timeout", `Cannot finish "${step.title}" within ${ms} ms`)),
      () => {},
    );
    const combined = AbortSignal.any([signal, limit.signal]);
    try {
      return await work(combined);
    } catch (error) {
      combined.throwIfAborted();
      throw error;
    } finally {
      timer.abort();
      await timeout;
    }
  }

  /** Persists progress before the next step runs. */
  #note(
    row: OperationRow,
    change: { step?: string; next?: number; patch?: object },
    saga: Saga<unknown>,
  ): Promise<OperationRow> {
    const next = change.next ?? row.saga.next;
    const share = Math.floor(100 * Math.max(0, next) / Math.max(1, saga.steps.length));
    const title = change.next !== undefined && row.saga.phase === "do" ? saga.steps[next]?.title : undefined;
    const same = change.next === undefined && row.state === "running" && row.step === change.step;
    if (same) return Promise.resolve(row);
    return this.#save(row, (current) => ({
      ...current,
      state: "running",
      step: change.step ?? title ?? current.step,
      progressPercent: row.saga.phase === "do" ? Math.min(99, share) : current.progressPercent,
      saga: {
        ...current.saga,
        next,
        data: { ...current.saga.data as object, ...change.patch },
      },
    }));
  }

  /** Turns the work round: undo from the step under way backwards. */
  #turn(row: OperationRow, saga: Saga<unknown>, error: OperationFailure, log: Logger): Promise<OperationRow> {
    log.warn("operation is undone", { step: row.step, code: error.code, error: error.message });
    // A cancel may come when the last step is done: then that one is the first to undo.
    const next = Math.min(row.saga.next, saga.steps.length - 1);
    return this.#save(row, (current) => ({ ...current, error, saga: { ...current.saga, phase: "undo", next } }));
  }

  async #finish(row: OperationRow, saga: Saga<unknown>): Promise<void> {
    await this.#save(row, (current, tx) => finished(current, tx, saga));
  }

  async #abandon(row: OperationRow, saga: Saga<unknown>): Promise<void> {
    await this.#save(row, async (current, tx) => {
      if (await saga.isDone?.(tx, current.saga.data, current)) return await finished(current, tx, saga);
      const error = current.error ?? cancelled;
      await saga.abandon?.(tx, current.saga.data, current, error);
      return { ...current, state: error.code === cancelled.code ? "cancelled" : "failed", endMs: tx.nowMs, error };
    });
  }

  #save(
    row: OperationRow,
    change: (current: OperationRow, tx: Tx) => OperationRow | Promise<OperationRow>,
  ): Promise<OperationRow> {
    return this.#deps.transact(async (tx) => {
      const current = await this.#deps.operations.read(tx, row.project, row.id);
      if (!current || isOver(current) || current.saga.sequence !== row.saga.sequence) throw new Superseded();
      const changed = await change(current, tx);
      const next = { ...changed, saga: { ...changed.saga, sequence: current.saga.sequence + 1 } };
      this.#deps.operations.save(tx, next);
      return next;
    });
  }
}

/** The operation as it ends well. */
async function finished(current: OperationRow, tx: Tx, saga: Saga<unknown>): Promise<OperationRow> {
  const { error: _, ...rest } = current;
  const result = await saga.finish?.(tx, current.saga.data, current);
  return { ...rest, state: "done", step: "", progressPercent: 100, endMs: tx.nowMs, ...(result ? { result } : {}) };
}

export interface SagaDeps {
  readonly kv: KvBackend;
  readonly operations: Operations;
  readonly transact: <T>(fn: (tx: Tx) => Promise<T>) => Promise<T>;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
}

const cancelled: OperationFailure = {
  code: "operation_cancelled",
  message: "Cannot finish the operation as it was cancelled",
  cause: "",
  kind: "cancelled",
};

function failureOf(error: Fault): OperationFailure {
  // A bug's own words are for the log.
  if (error.kind === "internal") {
    const message = "Cannot finish the operation because of an internal error";
    return { code: "internal", message, cause: "", kind: error.kind };
  }
  return {
    code: error.code,
    message: error.message,
    cause: error.cause instanceof Error ? error.cause.message : error.cause === undefined ? "" : String(error.cause),
    kind: error.kind,
  };
}
