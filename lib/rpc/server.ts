import type { Clock, Rng } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import type { Health, Logger, Registry } from "@ultracloud/observe";
import { fault } from "@ultracloud/base";
import { isLoopback, parseAddress } from "./address.ts";
import { Chain } from "./chain.ts";
import { Cors } from "./cors.ts";
import { type Calls, createCalls } from "./calls.ts";
import { connectWire, errorResponse, serveUnary, unaryFormat } from "./fast.ts";
import { createGeneric } from "./generic.ts";
import { healthService } from "./health_service.ts";
import { defaultLimits, type RpcLimits } from "./limits.ts";
import { listenMtls } from "./listen_mtls.ts";
import { type Listener, listenPlain, type Serve } from "./listen_plain.ts";
import { operatorRoutes } from "./operator.ts";
import { reflectionService } from "./reflection_service.ts";
import { acceptedRequestId, requestIds } from "./request_id.ts";
import { buildRoutes } from "./routes.ts";
import type { AuditRecord, Authenticator, Authorizer, BoundService, Peer } from "./types.ts";

export interface RpcServerOptions {
  /** Component name; without hyphens it is the first part of every permission. */
  readonly name: string;
  readonly version: string;
  /** "host:port" or "unix:/path"; without tls loopback or unix only. Port 0 takes a free one. */
  readonly listen: string;
  readonly tls?: TlsFiles | undefined;
  readonly limits?: Partial<RpcLimits> | undefined;
}

export interface RpcServerDeps {
  readonly services: readonly BoundService[];
  readonly authenticator: Authenticator;
  readonly authorizer: Authorizer;
  readonly registry: Registry;
  readonly health: Health;
  readonly log: Logger;
  readonly clock: Clock;
  readonly rng: Rng;
  /** Gets a record of every mutating call. Default: a log line for people, and for whoever was refused. */
  readonly audit?: ((record: AuditRecord) => void) | undefined;
  /**
   * REST beside RPC: asked for every path that is no RPC and no operator page; undefined means 404. `calls` are the
   * RPCs of this server as they are called from outside.
   */
  readonly http?: HttpHandler | undefined;
}

export type HttpHandler = (request: Request, peer: Peer, calls: Calls) => Response | Promise<Response> | undefined;

export interface RpcServer extends AsyncDisposable {
  /** "127.0.0.1:7100" or "unix:/path", with the real port. */
  readonly address: string;
  readonly url: string;
}

/**
 * Serves the services until disposed. Dispose refuses new calls, ends streams with unavailable, lets unary calls
 * finish within `drainMs` and then aborts them.
 *
 * @throws {Fault} `plain_listener_exposed`, `bad_address`, `tls_unreadable`, `listen_failed`.
 */
export async function startRpcServer(options: RpcServerOptions, deps: RpcServerDeps): Promise<RpcServer> {
  const limits: RpcLimits = { ...defaultLimits, ...options.limits };
  const address = parseAddress(options.listen);
  if (options.tls !== undefined && address.kind === "unix") {
    throw fault("invalid_argument", "bad_address", `Cannot use TLS on ${options.listen}: wanted host:port`);
  }
  const chain = new Chain(limits, { ...deps, audit: deps.audit ?? auditLog(deps.log) });
  deps.registry.buildInfo(options.name, options.version);
  let listener: Listener;
  try {
    const serve = createServe(
      options,
      deps,
      chain,
      new Cors({ origins: limits.origins, loopback: isLoopback(address) }),
    );
    listener = options.tls !== undefined && address.kind === "tcp"
      ? await listenMtls({ host: address.host, port: address.port, tls: options.tls }, { serve, log: deps.log })
      : listenPlain(address, { serve, log: deps.log });
  } catch (cause) {
    await chain.drain();
    if (cause instanceof Error && cause.name === "Fault") throw cause;
    throw fault("unavailable", "listen_failed", `Cannot listen on ${options.listen}`, { cause });
  }
  let disposed: Promise<void> | undefined;
  const dispose = async () => {
    const stopped = listener.stop();
    await chain.drain();
    const timeUp = new AbortController();
    // Answers are on their way; a caller that does not read them is cut off.
    const late = deps.clock.sleep(500, timeUp.signal).then(() => listener.kill(), () => {});
    await stopped;
    timeUp.abort();
    await late;
  };
  return {
    address: listener.address,
    url: listener.url,
    [Symbol.asyncDispose]: () => disposed ??= dispose(),
  };
}

/** One handler for every request, by path. */
function createServe(options: RpcServerOptions, deps: RpcServerDeps, chain: Chain, cors: Cors): Serve {
  const latency = deps.registry.histogram("rpc_server_duration_seconds", "How long calls took", ["method", "code"]);
  const names = new Set(deps.services.map(({ service }) => service.typeName));
  const routes = buildRoutes(options.name, [
    ...deps.services,
    healthService(deps.health, names),
    reflectionService(deps.services.map(({ service }) => service)),
  ], latency);
  const generic = createGeneric(chain, routes);
  const calls = createCalls(chain, routes);
  const pages = operatorRoutes({ ...options, ...deps, routes });
  const nextId = requestIds(deps.clock, deps.rng);

  const other = (request: Request, path: string, peer: Peer): Response | Promise<Response> => {
    if (request.method === "GET" || request.method === "HEAD") {
      const page = pages.get(path);
      if (page !== undefined) return page();
    }
    const service = path.slice(1, Math.max(1, path.lastIndexOf("/")));
    if (routes.services.has(service) && unaryFormat(request.headers.get("content-type")) !== undefined) {
      const requestId = acceptedRequestId(request.headers.get("x-request-id")) ?? nextId();
      return errorResponse(
        { requestId, touchedResponseHeader: undefined },
        fault("unimplemented", "unknown_method", `Cannot call ${path.slice(0, 200)}: no such method`),
      );
    }
    return deps.http?.(request, peer, calls) ?? new Response(null, { status: 404 });
  };

  const answer: Serve = (request, peer) => {
    const path = pathOf(request.url);
    const route = routes.byPath.get(path);
    if (route === undefined) return other(request, path, peer);
    if (route.unary && request.method === "POST") {
      const binary = unaryFormat(request.headers.get("content-type"));
      if (binary !== undefined) return serveUnary(chain, route, request, peer, connectWire(binary));
    }
    return generic(route, request, peer);
  };

  return (request, peer) => {
    const origin = request.headers.get("origin");
    if (origin === null) return answer(request, peer);
    if (request.method === "OPTIONS") return cors.preflight(origin);
    const response = answer(request, peer);
    return response instanceof Promise ? response.then((r) => cors.mark(r, origin)) : cors.mark(response, origin);
  };
}

/** The path of an absolute URL, without query; parsing all of it costs more than routing. */
function pathOf(url: string): string {
  const start = url.indexOf("/", url.indexOf("://") + 3);
  if (start < 0) return "/";
  const query = url.indexOf("?", start);
  return query < 0 ? url.slice(start) : url.slice(start, query);
}

/** What people do, and what anyone was refused. Calls between components would drown it. */
function auditLog(log: Logger): (record: AuditRecord) => void {
  return (record) => {
    const person = record.principal.startsWith("user:") || record.principal.startsWith("service_account:");
    if (person || record.outcome === "permission_denied" || record.outcome === "unauthenticated") {
      log.info("audit", { ...record });
    }
  };
}
