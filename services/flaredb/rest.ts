import { create, type MessageShape } from "@bufbuild/protobuf";
import { type Clock, Fault, fault, type FaultKind, newId, type Rng } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import {
  BatchRequestSchema,
  BeginRequestSchema,
  CommitRequestSchema,
  CompareAndSwapRequestSchema,
  DeleteRequestSchema,
  ExecuteRequestSchema,
  GetRequestSchema,
  ListTablesRequestSchema,
  PutRequestSchema,
  QueryRequestSchema,
  RollbackRequestSchema,
  ScanRequestSchema,
} from "@ultracloud/proto/flaredb/v1";
import type { Authenticator, Authorizer, CallContext } from "@ultracloud/rpc";
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { requestBytesMax } from "./domain/bounds.ts";
import { kvAuthz, type KvDeps, kvHandlers } from "./kv_service.ts";
import { itemJson, queryNumber, readOf, readSqlBody, resultJson } from "./rest_json.ts";
import { sqlAuthz, type SqlDeps, sqlHandlers, type SqlOptions } from "./sql_service.ts";

export interface RestDeps extends KvDeps, SqlDeps {
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly authenticator: Authenticator;
  readonly authorizer: Authorizer;
}

const statusOf: Readonly<Record<FaultKind, 400 | 401 | 403 | 404 | 409 | 412 | 429 | 499 | 500 | 501 | 503 | 504>> = {
  invalid_argument: 400,
  out_of_range: 400,
  unauthenticated: 401,
  permission_denied: 403,
  not_found: 404,
  already_exists: 409,
  aborted: 409,
  failed_precondition: 412,
  resource_exhausted: 429,
  cancelled: 499,
  internal: 500,
  data_loss: 500,
  unimplemented: 501,
  unavailable: 503,
  deadline_exceeded: 504,
};

const requestIdPattern = /^[A-Za-z0-9_.-]{1,128}$/;
const keyPattern = /^[\x21-\x7e]{1,128}$/;
/** Longest a REST call may take, waiting for an index included. */
const timeoutMs = 65_000;

type Env = { Variables: { requestId: string } };
/** The authorisation row of the RPC that a route stands for. */
interface Row<I> {
  readonly resource: string;
  readonly action: string;
  readonly scope: (request: I) => string;
}
type Handler<I, O> = (request: I, context: CallContext) => O | Promise<O>;

/** REST beside RPC: the same handlers behind the same authentication and authorisation rows. */
export function restApi(options: SqlOptions, deps: RestDeps): (request: Request) => Promise<Response> | undefined {
  const { clock, rng, log, authenticator, authorizer } = deps;
  const kv = kvHandlers(deps);
  const sql = sqlHandlers(options, deps);
  const app = new Hono<Env>();

  const call = async <I, O>(
    c: Context<Env>,
    row: Row<I>,
    mutating: boolean,
    handler: Handler<I, O>,
    request: I,
  ) => {
    const { headers, signal } = c.req.raw;
    const principal = await authenticator.authenticate(headers, { certificateId: undefined });
    if (principal.kind === "anonymous") {
      throw fault("unauthenticated", "unauthenticated", "Cannot call without credentials: wanted a bearer token");
    }
    const scope = row.scope(request);
    const permission = `flaredb.${row.resource}.${row.action}`;
    const decision = await authorizer.authorize(principal, permission, scope, mutating);
    if (!decision.allow) {
      throw decision.visible
        ? fault("permission_denied", "permission_denied", `Cannot use ${permission} at ${scope}: not allowed`)
        : fault("not_found", "not_found", `Cannot find ${scope}`);
    }
    const idempotencyKey = headers.get("idempotency-key") ?? undefined;
    if (idempotencyKey !== undefined && !keyPattern.test(idempotencyKey)) {
      throw fault(
        "invalid_argument",
        "invalid_idempotency_key",
        "Cannot use the idempotency-key: wanted 1 to 128 printable characters",
      );
    }
    const late = new AbortController();
    const timer = setTimeout(
      () => late.abort(fault("deadline_exceeded", "deadline_exceeded", "Cannot finish in time")),
      timeoutMs,
    );
    try {
      return await handler(request, {
        requestId: c.get("requestId"),
        principal,
        method: `${c.req.method} ${c.req.routePath}`,
        signal: AbortSignal.any([signal, late.signal]),
        requestHeader: headers,
        idempotencyKey,
        responseHeader: new Headers(),
      });
    } finally {
      clearTimeout(timer);
    }
  };

  app.use(async (c, next) => {
    const given = c.req.header("x-request-id");
    const requestId = given !== undefined && requestIdPattern.test(given) ? given : newId("req", clock, rng);
    c.set("requestId", requestId);
    c.header("x-request-id", requestId);
    await next();
  });
  app.use(bodyLimit({
    maxSize: requestBytesMax,
    onError: () => {
      throw fault(
        "resource_exhausted",
        "message_too_large",
        `Cannot read a body of more than ${requestBytesMax} bytes`,
      );
    },
  }));
  app.onError((error, c) => {
    const requestId = c.get("requestId");
    if (error instanceof Fault && error.kind !== "internal") {
      const { field, retryAfterMs, metadata } = error.detail;
      if (retryAfterMs !== undefined) c.header("retry-after", String(Math.ceil(retryAfterMs / 1000)));
      return c.json(
        { code: error.code, message: error.message, requestId, field, metadata },
        statusOf[error.kind] as 400,
      );
    }
    log.error("call failed", { requestId, path: c.req.path, error });
    return c.json({ code: "internal", message: "internal error", requestId }, 500);
  });
  app.notFound((c) =>
    c.json({
      code: "unknown_path",
      message: `Cannot find ${c.req.method} ${c.req.path}`,
      requestId: c.get("requestId"),
    }, 404)
  );

  const database = (c: Context<Env>) => c.req.query("database") ?? "";
  const named = (c: Context<Env>) => ({
    database: database(c),
    bucket: c.req.param("bucket") ?? "",
    key: c.req.param("key") ?? "",
  });

  app.post("/api/v1/sql", async (c) => {
    const body = readSqlBody(await c.req.text());
    if (body.statements.length !== 1 || body.asBatch) {
      const request = create(BatchRequestSchema, body);
      const answer = await call(c, sqlAuthz.batch, true, sql.batch, request);
      return c.json({ results: (answer.results ?? []).map(resultJson), index: Number(answer.index) });
    }
    const [statement] = body.statements;
    if (body.reads) {
      const request = create(QueryRequestSchema, {
        database: body.database,
        statement: statement!,
        rowLimit: body.rowLimit,
        transaction: body.transaction,
        digest: body.digest,
        ...(body.read ? { read: body.read } : {}),
      });
      const answer = await call(c, sqlAuthz.query, false, sql.query, request);
      const reads = (answer.reads ?? []).map(({ table, index }) => ({ table, index: Number(index) }));
      const digest = answer.digest?.length ? { digest: answer.digest.toBase64() } : {};
      return c.json({ results: [resultJson(answer.result!)], index: Number(answer.index), reads, ...digest });
    }
    const { database, transaction } = body;
    const request = create(ExecuteRequestSchema, { database, statement: statement!, transaction });
    const answer = await call(c, sqlAuthz.execute, true, sql.execute, request);
    return c.json({ results: [resultJson(answer.result!)], index: Number(answer.index) });
  });

  app.post("/api/v1/transactions", async (c) => {
    const idleTimeoutMs = BigInt(queryNumber(c.req.query("idle_timeout_ms"), "idle_timeout_ms"));
    const request = create(BeginRequestSchema, { database: database(c), idleTimeoutMs });
    const answer = await call(c, sqlAuthz.begin, true, sql.begin, request);
    return c.json({ transaction: answer.transaction, index: Number(answer.index) });
  });

  const transaction = (c: Context<Env>) => ({ database: database(c), transaction: c.req.param("id") ?? "" });
  app.post("/api/v1/transactions/:id/commit", async (c) => {
    const answer = await call(c, sqlAuthz.commit, true, sql.commit, create(CommitRequestSchema, transaction(c)));
    return c.json({ results: (answer.results ?? []).map(resultJson), index: Number(answer.index) });
  });

  app.delete("/api/v1/transactions/:id", async (c) => {
    await call(c, sqlAuthz.rollback, true, sql.rollback, create(RollbackRequestSchema, transaction(c)));
    return c.json({});
  });

  app.get("/api/v1/tables", async (c) => {
    const request = create(ListTablesRequestSchema, { database: database(c), ...readOf(c.req.query()) });
    const answer = await call(c, sqlAuthz.listTables, false, sql.listTables, request);
    const tables = (answer.tables ?? []).map((table) => ({ ...table, rowCount: Number(table.rowCount) }));
    return c.json({ tables, index: Number(answer.index) });
  });

  app.get("/api/v1/kv/:bucket/:key{.+}", async (c) => {
    const request = create(GetRequestSchema, { ...named(c), ...readOf(c.req.query()) });
    const { item } = await call(c, kvAuthz.get, false, kv.get, request);
    if (item === undefined) {
      throw fault("not_found", "key_not_found", `Cannot find key ${request.key} in bucket ${request.bucket}`);
    }
    c.header("etag", `"${item.version}"`);
    c.header("content-type", "application/octet-stream");
    return c.body((item.value ?? new Uint8Array()) as Uint8Array<ArrayBuffer>);
  });

  app.put("/api/v1/kv/:bucket/:key{.+}", async (c) => {
    const ttlMs = BigInt(queryNumber(c.req.query("ttl_ms"), "ttl_ms"));
    const common = { ...named(c), value: new Uint8Array(await c.req.arrayBuffer()), ttlMs };
    const match = c.req.header("if-match") ?? (c.req.header("if-none-match") === "*" ? `"0"` : undefined);
    if (match === undefined) {
      const { version } = await call(c, kvAuthz.put, true, kv.put, create(PutRequestSchema, common));
      return c.json({ version: Number(version) });
    }
    const expected = /^"(\d{1,16})"$/.exec(match)?.[1];
    if (expected === undefined) {
      throw fault(
        "invalid_argument",
        "invalid_etag",
        `Cannot read if-match ${match.slice(0, 40)}: wanted an etag that GET answered`,
      );
    }
    const request: MessageShape<typeof CompareAndSwapRequestSchema> = create(CompareAndSwapRequestSchema, {
      ...common,
      expectedVersion: BigInt(expected),
    });
    const { swapped, version } = await call(c, kvAuthz.compareAndSwap, true, kv.compareAndSwap, request);
    if (swapped) return c.json({ version: Number(version) });
    throw fault(
      "aborted",
      "version_mismatch",
      `Cannot write key ${request.key} as its version is ${version}: wanted ${expected}`,
    );
  });

  app.delete("/api/v1/kv/:bucket/:key{.+}", async (c) => {
    const { existed } = await call(c, kvAuthz.delete, true, kv.delete, create(DeleteRequestSchema, named(c)));
    return c.json({ existed: existed ?? false });
  });

  app.get("/api/v1/scan/:bucket", async (c) => {
    const query = c.req.query();
    const request = create(ScanRequestSchema, {
      database: database(c),
      bucket: c.req.param("bucket"),
      prefix: query.prefix ?? "",
      start: query.start ?? "",
      end: query.end ?? "",
      limit: queryNumber(query.limit, "limit"),
      pageBytes: queryNumber(query.page_bytes, "page_bytes"),
      pageToken: query.page_token ?? "",
      reverse: query.reverse === "true",
      keysOnly: query.keys_only === "true",
      ...readOf(query),
    });
    const answer = await call(c, kvAuthz.scan, false, kv.scan, request);
    const items = (answer.items ?? []).map((item) => itemJson(item, request.keysOnly));
    return c.json({ items, nextPageToken: answer.nextPageToken ?? "", index: Number(answer.index) });
  });

  return (request) => {
    const path = new URL(request.url).pathname;
    return path.startsWith("/api/v1/") ? Promise.resolve(app.fetch(request)) : undefined;
  };
}
