import { Fault, fault } from "@ultracloud/base";
import type { Expiring } from "./deadlines.ts";
import { anonymous, type CallContext, type Principal, type Received } from "./types.ts";

/** What a call came with: a request of HTTP, or whoever calls from within. */
export interface CallSource {
  readonly headers: Headers;
  /** Aborted when the caller leaves; read at most once, and only when a handler wants a signal. */
  readonly signal: AbortSignal;
}

/**
 * One call under way; handlers see it as their CallContext. Signal and answer headers exist only once someone asks
 * for them, as most calls never do and making them costs more than the rest of the call.
 */
export class Call implements CallContext, Expiring {
  readonly requestId: string;
  readonly method: string;
  readonly requestHeader: Headers;
  readonly startMs: number;
  principal: Principal = anonymous;
  idempotencyKey: string | undefined;
  received: Received | undefined;
  /** On the monotonic clock; Infinity when it may run until someone leaves. */
  deadlineMs = Infinity;
  /** Where it was authorised; for the audit record. */
  scope = "";
  /** "ok" or the code of the failure, once known. */
  outcome: string | undefined;
  /** The label of the outcome in metrics. */
  kind = "ok";
  /** Set once metrics and audit have it. */
  ended = false;
  /** Holds a place among the calls in flight. */
  admitted = false;
  /** Holds a place among its caller's. */
  counted = false;
  /** What it was allowed by; asked again while a stream is open. */
  permission: string | undefined;
  also: readonly { readonly permission: string; readonly scope: string }[] = [];
  mutating = false;
  /** A stream; it ends when the server stops, however long it could go on. */
  streaming = false;

  #controller: AbortController | undefined;
  #reason: unknown;
  #responseHeader: Headers | undefined;
  #interrupt: ((reason: unknown) => void) | undefined;
  readonly #source: CallSource;

  constructor(requestId: string, method: string, requestHeader: Headers, startMs: number, source: CallSource) {
    this.requestId = requestId;
    this.method = method;
    this.requestHeader = requestHeader;
    this.startMs = startMs;
    this.#source = source;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      const controller = this.#controller = new AbortController();
      if (this.#reason !== undefined) controller.abort(this.#reason);
      else {
        const caller = this.#source.signal;
        if (caller.aborted) this.abort(callerLeft());
        else caller.addEventListener("abort", () => this.abort(callerLeft()), { once: true });
      }
    }
    return this.#controller.signal;
  }

  get responseHeader(): Headers {
    return this.#responseHeader ??= new Headers();
  }

  /** The answer headers if a handler made any. */
  get touchedResponseHeader(): Headers | undefined {
    return this.#responseHeader;
  }

  /** Why the call should stop; undefined while it should not. */
  get abortReason(): unknown {
    return this.#reason;
  }

  /** Ends the call for its handler; the first reason stays. */
  abort(reason: Fault): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#controller?.abort(reason);
    this.#interrupt?.(reason);
  }

  expire(): void {
    this.abort(fault("deadline_exceeded", "deadline_exceeded", `Cannot finish ${this.method} in time`));
  }

  /** Calls `interrupt` once the call is aborted. One at a time. */
  onAbort(interrupt: ((reason: unknown) => void) | undefined): void {
    this.#interrupt = interrupt;
    if (this.#reason !== undefined) interrupt?.(this.#reason);
  }

  /** The value of `work`, or the abort reason if that comes first. One at a time. */
  race<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.onAbort(reject);
      work.then(resolve, reject).finally(() => this.onAbort(undefined));
    });
  }
}

function callerLeft(): Fault {
  return fault("cancelled", "caller_left", "Cannot finish as the caller left");
}
