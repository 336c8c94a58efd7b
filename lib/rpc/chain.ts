import { type Clock, Fault, fault, invalidField, type Rng } from "@ultracloud/base";
import type { Gauge, Logger, Registry } from "@ultracloud/observe";
import { Call, type CallSource } from "./call.ts";
import { Deadlines } from "./deadlines.ts";
import { visibleFault } from "./errors.ts";
import { isKey, keyCharsMax, type RpcLimits } from "./limits.ts";
import { acceptedRequestId, requestIds } from "./request_id.ts";
import type { Route } from "./routes.ts";
import type { AuditRecord, Authenticator, Authorizer, Decision, Need, Peer } from "./types.ts";

const connectTimeout = /^\d{1,10}$/;
const grpcTimeout = /^(\d{1,8})([HMSmun])$/;
const grpcUnitMs: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1_000,
  m: 1,
  u: 0.001,
  n: 0.000_001,
};

/** Ticks of the lag sampler between two looks at open streams: half a second of the promised two. */
const recheckTicks = 2;

export interface ChainDeps {
  readonly authenticator: Authenticator;
  readonly authorizer: Authorizer;
  readonly registry: Registry;
  readonly log: Logger;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly audit: (record: AuditRecord) => void;
}

/** What happens around every handler, the same on the fast and on the generic path. */
export class Chain {
  readonly limits: RpcLimits;
  readonly #deps: ChainDeps;
  readonly #nextId: () => string;
  readonly #calls: Deadlines<Call>;
  readonly #inFlight: Gauge;
  readonly #open = { unary: 0, stream: 0 };
  /** Of the same, those of each user and service account. */
  readonly #openBy = { unary: new Map<string, number>(), stream: new Map<string, number>() };
  readonly #lagTimer: ReturnType<typeof setInterval>;
  #lagMs = 0;
  #draining = false;
  #idle: (() => void) | undefined;

  constructor(limits: RpcLimits, deps: ChainDeps) {
    this.limits = limits;
    this.#deps = deps;
    this.#nextId = requestIds(deps.clock, deps.rng);
    this.#calls = new Deadlines(() => deps.clock.monotonicMs());
    this.#inFlight = deps.registry.gauge("rpc_server_in_flight", "Calls under way", ["kind"]);
    deps.registry.onExpose(() => {
      this.#inFlight.set(this.#open.unary, { kind: "unary" });
      this.#inFlight.set(this.#open.stream, { kind: "stream" });
    });
    let last = deps.clock.monotonicMs();
    const everyMs = 250;
    let ticks = 0;
    this.#lagTimer = setInterval(() => {
      const now = deps.clock.monotonicMs();
      this.#lagMs = now - last - everyMs;
      last = now;
      if (this.#open.stream > 0 && ++ticks % recheckTicks === 0) void this.#recheck();
    }, everyMs);
    // The sampler alone must not keep a process alive.
    Deno.unrefTimer(this.#lagTimer as unknown as number);
  }

  /** A call that is not admitted yet. Never throws. */
  open(route: Route, caller: CallSource): Call {
    const { headers } = caller;
    const requestId = acceptedRequestId(headers.get("x-request-id")) ?? this.#nextId();
    return new Call(requestId, route.path, headers, this.#deps.clock.monotonicMs(), caller);
  }

  /** Takes a place in flight, and checks what the headers ask for. */
  admit(call: Call, route: Route): void {
    if (this.#draining) throw stopping();
    const kind = route.unary ? "unary" : "stream";
    const max = route.unary ? this.limits.inFlightMax : this.limits.streamsMax;
    if (this.#open[kind] >= max) {
      throw fault("resource_exhausted", "too_many_calls", `Cannot take more than ${max} calls at once`, {
        retryAfterMs: 100,
      });
    }
    if (route.unary && !route.isPublic && this.#lagMs > this.limits.loopLagMsMax) {
      throw fault("resource_exhausted", "overloaded", "Cannot take the call as the server is overloaded", {
        retryAfterMs: 1_000,
      });
    }
    this.#open[kind]++;
    call.admitted = true;
    call.streaming = !route.unary;
    const timeoutMs = this.#timeoutMs(call.requestHeader) ?? (route.unary ? this.limits.timeoutMsDefault : undefined);
    if (timeoutMs !== undefined) call.deadlineMs = call.startMs + timeoutMs;
    this.#calls.add(call);
    const key = call.requestHeader.get("idempotency-key");
    if (key !== null) {
      if (!isKey(key)) {
        throw invalidField(
          "idempotency-key",
          `Cannot use an idempotency-key of ${key.length} characters: wanted 1 to ${keyCharsMax} printable ones`,
          "invalid_idempotency_key",
        );
      }
      call.idempotencyKey = key;
    }
  }

  /** Sets the principal. Answers a promise only when the authenticator does. */
  authenticate(call: Call, route: Route, peer: Peer): void | Promise<void> {
    if (route.isPublic) return;
    const found = this.#deps.authenticator.authenticate(call.requestHeader, peer);
    if (found instanceof Promise) return found.then((principal) => this.#known(call, route, principal));
    this.#known(call, route, found);
  }

  #known(call: Call, route: Route, principal: Call["principal"]): void {
    if (principal.kind === "anonymous") {
      throw fault("unauthenticated", "unauthenticated", "Cannot call without credentials: wanted a bearer token");
    }
    call.principal = principal;
    // Components call for everybody; a call that is over meanwhile would never give its place back.
    if (principal.kind === "workload" || !call.admitted) return;
    const kind = route.unary ? "unary" : "stream";
    const open = this.#openBy[kind].get(principal.id) ?? 0;
    const max = route.unary ? this.limits.callerCallsMax : this.limits.callerStreamsMax;
    if (open >= max) {
      throw fault("resource_exhausted", "too_many_calls", `Cannot take more than ${max} calls of one caller at once`, {
        retryAfterMs: 100,
      });
    }
    this.#openBy[kind].set(principal.id, open + 1);
    call.counted = true;
  }

  /** Throws unless the row allows the call; `message` is the first of a stream. */
  authorise(call: Call, route: Route, message: unknown): void | Promise<void> {
    if (route.permission === undefined) return;
    const { row, permission } = route;
    // A row with a permission has a scope; `permission` was derived from it.
    const { scope, also } = row as ScopedRow;
    call.permission = permission;
    call.mutating = route.mutating;
    call.scope = scope(message);
    const needs = also?.(message) ?? [];
    if (needs.length > 0) {
      const owner = permission.slice(0, permission.indexOf("."));
      call.also = needs.map((need) => ({ permission: `${owner}.${need.resource}.${need.action}`, scope: need.scope }));
    }
    return this.#decide(call);
  }

  /** Throws unless the caller may do all that the call needs. Answers a promise only when the authorizer does. */
  #decide(call: Call, at = -1): void | Promise<void> {
    for (const { authorizer } = this.#deps; at < call.also.length; at++) {
      const { permission, scope } = at < 0 ? call : call.also[at]!;
      const decision = authorizer.authorize(call.principal, permission!, scope, call.mutating);
      if (decision instanceof Promise) {
        return decision.then((d) => {
          obey(permission!, scope, d);
          return this.#decide(call, at + 1);
        });
      }
      obey(permission!, scope, decision);
    }
  }

  /** Ends streams of callers who have lost their token, their key or their rights since they opened them. */
  async #recheck(): Promise<void> {
    const { authenticator } = this.#deps;
    for (const call of [...this.#calls.entries]) {
      const { principal, permission } = call;
      if (!call.streaming || principal.kind === "anonymous") continue;
      const revoked = authenticator.revoked?.(call.requestHeader);
      if (revoked) call.abort(revoked);
      else if (permission !== undefined) {
        try {
          await this.#decide(call);
        } catch (error) {
          // Not knowing is no reason to end what was allowed.
          if (error instanceof Fault && error.kind !== "unavailable") call.abort(error);
        }
      }
    }
  }

  /** Notes how the call ended for its caller; later outcomes do not count. */
  settle(call: Call, route: Route, error?: unknown): void {
    if (call.ended) return;
    call.ended = true;
    const { clock, log, audit } = this.#deps;
    const durationMs = clock.monotonicMs() - call.startMs;
    if (error === undefined) call.outcome = "ok";
    else {
      const visible = visibleFault(error);
      call.kind = visible?.kind ?? "internal";
      call.outcome = visible?.code ?? "internal";
      if (visible === undefined) {
        log.error("call failed", {
          requestId: call.requestId,
          method: route.path,
          principal: call.principal.id,
          error,
        });
      } else if (visible.kind === "data_loss") {
        log.error("call found lost data", { requestId: call.requestId, method: route.path, error });
      }
    }
    route.latency(call.kind).observe(durationMs / 1_000);
    // What was turned away at the door, before anyone looked who it is, is counted but not audited.
    if (route.mutating && call.admitted) {
      audit({
        timeMs: clock.nowMs(),
        requestId: call.requestId,
        principal: call.principal.id,
        method: route.path,
        scope: call.scope,
        outcome: call.outcome,
        durationMs,
      });
    }
  }

  /** Gives the place back, once the handler really has ended. */
  release(call: Call, route: Route): void {
    if (!call.admitted) return;
    call.admitted = false;
    const kind = route.unary ? "unary" : "stream";
    this.#open[kind]--;
    if (call.counted) {
      const left = this.#openBy[kind].get(call.principal.id)! - 1;
      if (left > 0) this.#openBy[kind].set(call.principal.id, left);
      else this.#openBy[kind].delete(call.principal.id);
    }
    this.#calls.remove(call);
    if (this.#calls.entries.size === 0) this.#idle?.();
  }

  /** Refuses new calls, ends streams, waits for unary calls up to `drainMs`, then aborts them. */
  async drain(): Promise<void> {
    this.#draining = true;
    if (this.#calls.entries.size > 0) {
      const idle = new Promise<void>((resolve) => this.#idle = resolve);
      for (const call of [...this.#calls.entries]) if (call.streaming) call.abort(stopping());
      const timer = setTimeout(() => this.#abortAll(), this.limits.drainMs);
      const giveUp = new AbortController();
      const late = this.#deps.clock.sleep(this.limits.drainMs + 250, giveUp.signal).catch(() => {});
      await Promise.race([idle, late]);
      giveUp.abort();
      clearTimeout(timer);
    }
    this.#abortAll();
    clearInterval(this.#lagTimer);
    this.#calls.close();
  }

  #abortAll(): void {
    for (const call of [...this.#calls.entries]) call.abort(stopping());
  }

  #timeoutMs(header: Headers): number | undefined {
    const connect = header.get("connect-timeout-ms");
    if (connect !== null) {
      if (!connectTimeout.test(connect)) throw badTimeout("connect-timeout-ms", connect);
      return Math.min(Number(connect), this.limits.timeoutMsMax);
    }
    const grpc = header.get("grpc-timeout");
    if (grpc === null) return undefined;
    const match = grpcTimeout.exec(grpc);
    if (match === null) throw badTimeout("grpc-timeout", grpc);
    return Math.min(Math.ceil(Number(match[1]) * grpcUnitMs[match[2]!]!), this.limits.timeoutMsMax);
  }
}

/** A row that asks for a permission. */
interface ScopedRow {
  readonly scope: (message: unknown) => string;
  readonly also?: (message: unknown) => readonly Need[];
}

function obey(permission: string, scope: string, decision: Decision): void {
  if (decision.allow) return;
  if (decision.visible) {
    throw fault(
      "permission_denied",
      "permission_denied",
      `Cannot use ${permission} at ${scope === "" ? "the root" : scope}: not allowed`,
      { metadata: { permission } },
    );
  }
  throw fault("not_found", "not_found", `Cannot find ${scope === "" ? "it" : scope}`);
}

function badTimeout(name: string, value: string): Fault {
  return invalidField(
    name,
    `Cannot use ${name} ${JSON.stringify(value.slice(0, 40))}: wanted a duration`,
    "bad_timeout",
  );
}

function stopping(): Fault {
  return fault("unavailable", "stopping", "Cannot take the call as the server is stopping", { retryAfterMs: 500 });
}
