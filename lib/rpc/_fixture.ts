import { Health, noopLogger, Registry } from "@ultracloud/observe";
import { fault, systemClock, systemRng } from "@ultracloud/base";
import { EventService, OperationService } from "@ultracloud/proto/common/v1";
import { RaftPeerService } from "@ultracloud/proto/raft/v1";
import {
  type AuditRecord,
  type Authenticator,
  type Authorizer,
  bind,
  type Codecs,
  type Handlers,
  type Principal,
  type RpcServer,
  type RpcServerDeps,
  type RpcServerOptions,
  startRpcServer,
} from "./mod.ts";

/** "Bearer alice" is user:alice. */
export const authenticator: Authenticator = {
  authenticate(header, peer): Principal {
    const value = header.get("authorization");
    if (value === null && peer.certificateId !== undefined) return { kind: "workload", id: peer.certificateId };
    if (value === null) throw fault("unauthenticated", "token_missing", "Cannot call without a bearer token");
    if (!/^Bearer [a-z]+$/.test(value)) throw fault("unauthenticated", "token_invalid", "Cannot use the bearer token");
    return { kind: "user", id: `user:${value.slice("Bearer ".length)}` };
  },
};

/** Eve sees nothing, Bob sees but may not change, everyone else may do anything. */
export const authorizer: Authorizer = {
  authorize(principal, permission, _scope, mutating) {
    if (principal.id === "user:eve") return { allow: false, visible: false, reason: "no binding" };
    if (principal.id === "user:bob" && mutating) return { allow: false, visible: true, reason: `no ${permission}` };
    return { allow: true };
  },
};

/** The asynchronous twin of a deps member, so that both ways are exercised. */
export const asyncAuth: Pick<RpcServerDeps, "authenticator" | "authorizer"> = {
  authenticator: { authenticate: (h, p) => Promise.resolve().then(() => authenticator.authenticate(h, p)) },
  authorizer: { authorize: (...a) => Promise.resolve().then(() => authorizer.authorize(...a)) },
};

export interface Fixture extends AsyncDisposable {
  readonly server: RpcServer;
  readonly url: string;
  readonly health: Health;
  readonly registry: Registry;
  readonly audit: AuditRecord[];
  readonly errors: { msg: string; fields: Record<string, unknown> }[];
  /** Whom the handlers saw, latest last. */
  readonly seen: { principal: string; requestId: string; idempotencyKey: string | undefined; aborted: boolean }[];
}

export const operationPath = "/ultracloud.common.v1.OperationService/";
export const eventPath = "/ultracloud.common.v1.EventService/WatchEvents";

/** A server whose GetOperation behaves as its id says; see `behave`. */
export async function startFixture(
  options: Partial<RpcServerOptions> = {},
  deps: Partial<RpcServerDeps> = {},
  overrides: {
    operation?: Partial<Handlers<typeof OperationService>>;
    codecs?: Codecs<typeof OperationService>;
  } = {},
): Promise<Fixture> {
  const audit: AuditRecord[] = [];
  const errors: Fixture["errors"] = [];
  const seen: Fixture["seen"] = [];
  const health = new Health();
  health.set("rpc", "ready");
  const registry = new Registry();
  const log = { ...noopLogger, error: (msg: string, fields = {}) => void errors.push({ msg, fields }) };
  const scope = (request: { project: string }) => request.project;
  const operations = bind(OperationService, {
    getOperation(request, context) {
      seen.push({
        principal: context.principal.id,
        requestId: context.requestId,
        idempotencyKey: context.idempotencyKey,
        aborted: false,
      });
      return behave(request.id);
    },
    listOperations: (_request, context) => {
      context.responseHeader.set("x-extra", "yes");
      return { operations: Array.from({ length: 40 }, (_, i) => ({ id: `op_${i}`, kind: "vm.create", step: "boot" })) };
    },
    waitOperation: async (request, { signal }) => {
      const one = { principal: "", requestId: "", idempotencyKey: undefined, aborted: false };
      seen.push(one);
      signal.addEventListener("abort", () => one.aborted = true);
      await systemClock.sleep(request.timeoutMs, signal);
      return { id: request.id };
    },
    cancelOperation: async (request) => await Promise.resolve({ id: request.id, cancellable: false }),
    ...overrides.operation,
  }, {
    getOperation: { resource: "operation", action: "get", scope },
    listOperations: { authenticated: "shows the caller's own only" },
    waitOperation: { resource: "operation", action: "get", scope },
    cancelOperation: { resource: "operation", action: "cancel", scope },
  }, overrides.codecs);
  const events = bind(EventService, {
    async *watchEvents(request, context) {
      context.responseHeader.set("x-extra", "yes");
      const one = { principal: context.principal.id, requestId: "", idempotencyKey: undefined, aborted: false };
      seen.push(one);
      context.signal.addEventListener("abort", () => one.aborted = true);
      for (let i = 0; i < 3; i++) yield { cursor: String(i) };
      if (request.cursor === "fail") throw fault("data_loss", "log_cut", "Cannot resume as the log was cut");
      if (request.cursor === "crash") throw new Error("secret of the database");
      if (request.cursor === "stay") await systemClock.sleep(3_600_000, context.signal);
    },
  }, { watchEvents: { resource: "event", action: "watch", scope } });
  const peers = bind(RaftPeerService, {
    async send(requests) {
      let sent = 0;
      for await (const { messages } of requests) sent += messages.length;
      if (sent !== 3) throw fault("aborted", "wrong_count", `Cannot take ${sent} messages: wanted 3`);
      return {};
    },
    installSnapshot: () => ({}),
    propose: () => ({}),
  }, {
    send: { resource: "raft", action: "send", scope: () => "" },
    installSnapshot: { resource: "raft", action: "install", scope: () => "" },
    propose: { resource: "raft", action: "propose", scope: () => "" },
  });
  const server = await startRpcServer({ name: "test-svc", version: "1.2.3", listen: "127.0.0.1:0", ...options }, {
    services: [operations, events, peers],
    authenticator,
    authorizer,
    registry,
    health,
    log,
    clock: systemClock,
    rng: systemRng,
    audit: (record) => void audit.push(record),
    ...deps,
  });
  return {
    server,
    url: server.url,
    health,
    registry,
    audit,
    errors,
    seen,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

function behave(id: string) {
  switch (id) {
    case "missing":
      throw fault("not_found", "operation_not_found", "Cannot find operation missing in acme/prod", { field: "id" });
    case "busy":
      throw fault("resource_exhausted", "queue_full", "Cannot take more", { retryAfterMs: 250 });
    case "follower":
      throw fault("unavailable", "not_leader", "Cannot write here", { leaderHint: "127.0.0.1:9" });
    case "crash":
      throw new Error("secret of the database");
    case "reject":
      return Promise.reject(new TypeError("secret of the database"));
    case "promise":
      return Promise.resolve({ id });
    default:
      return { id, kind: "vm.create", progressPercent: 50 };
  }
}

/** Calls with JSON over plain fetch, as a person with curl would. */
export async function post(
  url: string,
  path: string,
  body: BodyInit,
  headers: Record<string, string> = {},
): Promise<{ status: number; header: Headers; text: string; json: Record<string, unknown> }> {
  const response = await fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer alice", ...headers },
    body,
  });
  const text = await response.text();
  let json = {};
  try {
    json = JSON.parse(text);
  } catch {
    // Not every answer is JSON; the caller looks at the text then.
  }
  return { status: response.status, header: response.headers, text, json };
}

/** Waits until `condition` holds, at most five seconds. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 5_000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`Cannot see that ${what} within 5 s`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
