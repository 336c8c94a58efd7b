import { Fault, fault, fileStamps } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import type { Logger } from "@ultracloud/observe";
import { Tx } from "@ultracloud/platform";
import { isLoopback, parseAddress, readTlsFiles } from "@ultracloud/rpc";
import { z } from "zod";
import { type Bundles, signedText } from "./bundles.ts";
import { caSha256 } from "./ca.ts";
import { labModeWarning, toBundle } from "./cluster_service.ts";
import type { Core } from "./core.ts";
import { type Enrolled, type Enrolment, phoneHomeSchema } from "./enrolment.ts";
import { certificateSchema, type Identities, identitySchema } from "./identities.ts";

/** Facts of a machine with 128 disks take half of it. */
const bodyBytesMax = 256 * 1024;
/** Machines served at once; a rack that starts together waits its turn. */
const inFlightMax = 64;
const certificateLookMs = 2_000;

const markerSchema = z.strictObject({
  node: z.string().max(63),
  name: z.string().regex(/^[a-z0-9][a-z0-9.-]{0,63}$/),
  detail: z.string().max(2048).default(""),
});

const httpCodes: Partial<Record<Fault["kind"], number>> = {
  invalid_argument: 400,
  unauthenticated: 401,
  permission_denied: 403,
  not_found: 404,
  already_exists: 409,
  aborted: 409,
  failed_precondition: 412,
  resource_exhausted: 429,
  unavailable: 503,
  deadline_exceeded: 504,
};

/** What machines talk to before they are anybody: HTTP, because an installer has curl and nothing else. */
export class BootstrapApi {
  readonly #core: Core;
  readonly #enrolment: Enrolment;
  readonly #bundles: Bundles;
  readonly #identities: Identities;
  #inFlight = 0;

  constructor(core: Core, enrolment: Enrolment, bundles: Bundles, identities: Identities) {
    this.#core = core;
    this.#enrolment = enrolment;
    this.#bundles = bundles;
    this.#identities = identities;
  }

  async answer(request: Request, address: string): Promise<Response> {
    if (this.#inFlight >= inFlightMax) {
      return failure(fault("unavailable", "overloaded", "Cannot serve more machines at once", { retryAfterMs: 1_000 }));
    }
    this.#inFlight++;
    try {
      return await this.#route(request, address);
    } catch (error) {
      if (!(error instanceof Fault)) this.#core.platform.log.error("call of a machine failed", { error });
      return failure(error);
    } finally {
      this.#inFlight--;
    }
  }

  async #route(request: Request, address: string): Promise<Response> {
    const { pathname } = new URL(request.url);
    const route = `${request.method} ${pathname}`;
    if (route === "POST /api/v1/phone-home") return await this.#phoneHome(request, address);
    if (route === "POST /api/v1/marker") {
      const marker = await bodyOf(request, markerSchema);
      await this.#enrolment.marker(marker, bearerOf(request));
      return Response.json({ status: "kept" });
    }
    if (route === "POST /api/v1/identity") {
      const { node } = await this.#identities.keep(await bodyOf(request, identitySchema), bearerOf(request));
      const { file, document } = await this.#identities.signed();
      const { advertiseUrl, chainfireUrls } = this.#core.options;
      const peers = { deployer: [advertiseUrl], chainfire: chainfireUrls ?? [] };
      return Response.json({ node, cluster_id: file.clusterId, trust: file, trust_document: document, peers });
    }
    if (route === "POST /api/v1/certificate") {
      const body = await bodyOf(request, certificateSchema);
      return Response.json(await this.#identities.certificate(body, bearerOf(request)));
    }
    if (route === "GET /api/v1/ca.crt") {
      const pem = await this.#core.options.caPem?.();
      if (pem === undefined) throw fault("not_found", "ca_missing", "Cannot give out a CA as this listener has no TLS");
      return new Response(pem, { headers: { "content-type": "application/x-pem-file" } });
    }
    if (route === "GET /api/v1/cache") return Response.json(await this.#cache());
    if (request.method === "GET" && pathname.startsWith("/api/v1/bundle/")) {
      await this.#mayFetch(request);
      const content = await this.#bundles.read(pathname.slice("/api/v1/bundle/".length));
      return new Response(content, { headers: { "content-type": "application/octet-stream" } });
    }
    if (route === "GET /healthz") return Response.json({ status: "serving" });
    throw fault("not_found", "unknown_path", `Cannot answer ${request.method} ${pathname.slice(0, 100)}: no such path`);
  }

  async #phoneHome(request: Request, address: string): Promise<Response> {
    const token = bearerOf(request);
    const body = await bodyOf(request, phoneHomeSchema);
    const outcome = await this.#enrolment.phoneHome(body, token, address);
    const warnings = this.#core.options.allow_unauthenticated ? [labModeWarning] : [];
    if (outcome.status === "pending") {
      const { id, reason } = outcome.machine;
      return Response.json({ status: "pending", machine: id, reason, retry_after_ms: 10_000, warnings }, {
        status: 202,
      });
    }
    return Response.json({ ...await this.#enrolled(outcome), warnings });
  }

  async #enrolled({ node, cluster, refusal, again }: Enrolled) {
    const plan = this.#core.planOf(cluster, node);
    const bundle = await this.#bundles.current();
    const ca = await this.#core.options.caPem?.();
    return {
      status: "enrolled",
      again,
      node: node.name,
      hostname: node.spec?.hostname ?? node.name,
      role: node.spec?.role ?? "",
      class: node.class,
      pool: node.pool,
      address: node.spec?.address ?? "",
      cluster_id: cluster?.clusterId ?? "",
      // A plan that must not be carried out is not told: the installer has nothing it could mistake for one.
      ...(plan === undefined || refusal !== undefined ? {} : { install_plan: plan }),
      ...(refusal === undefined ? {} : { install_refused: refusal }),
      ...(bundle === undefined
        ? {}
        : { bundle: { ...toBundle(bundle), bytesCount: bundle.bytesCount, signed_text: signedText(bundle.sha256) } }),
      bundle_public_key: this.#bundles.signer.publicKey,
      cache: await this.#cache(),
      ...(ca === undefined ? {} : { ca_sha256: caSha256(ca) }),
    };
  }

  async #cache() {
    const cluster = await this.#core.states.cluster();
    return {
      binary_cache_url: cluster?.deployer.binaryCacheUrl ?? "",
      trusted_keys: cluster?.deployer.trustedKeys ?? [],
    };
  }

  /** The bundle is for machines that enrolled; `x-ultracloud-node` says which one asks. */
  async #mayFetch(request: Request): Promise<string> {
    const { platform } = this.#core;
    const node = request.headers.get("x-ultracloud-node") ?? "";
    return await this.#enrolment.nodeOfToken(new Tx(platform.kv, platform), bearerOf(request), node.slice(0, 63));
  }
}

function bearerOf(request: Request): string | undefined {
  const header = request.headers.get("authorization");
  if (header === null) return undefined;
  const match = /^Bearer ([A-Za-z0-9._~+/=-]{1,512})$/.exec(header);
  if (match === null) {
    throw fault(
      "unauthenticated",
      "token_malformed",
      "Cannot read the authorization header: wanted Bearer and a token",
    );
  }
  return match[1];
}

async function bodyOf<T>(request: Request, schema: z.ZodType<T>): Promise<T> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.length;
    if (size > bodyBytesMax) {
      throw fault("resource_exhausted", "body_too_large", `Cannot read a body of more than ${bodyBytesMax} bytes`);
    }
    chunks.push(chunk);
  }
  let json: unknown;
  try {
    json = JSON.parse(await new Blob(chunks as BlobPart[]).text());
  } catch (cause) {
    throw fault("invalid_argument", "body_malformed", "Cannot read the body as JSON", { cause });
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw fault("invalid_argument", "body_invalid", `Cannot use the body: ${z.prettifyError(parsed.error)}`);
}

/** What a machine is told of a failure: what it can act on, and nothing of the inside. */
function failure(error: unknown): Response {
  const known = error instanceof Fault
    ? error
    : fault("internal", "internal", "Cannot answer because of an internal failure");
  const { code, message, detail } = known;
  const headers: Record<string, string> = {};
  if (detail.retryAfterMs !== undefined) headers["retry-after"] = String(Math.ceil(detail.retryAfterMs / 1000));
  return Response.json({ code, message, ...(detail.leaderHint ? { writer_url: detail.leaderHint } : {}) }, {
    status: httpCodes[known.kind] ?? 500,
    headers,
  });
}

/**
 * Listens for machines until disposed. A renewed certificate is taken up within `lookMs`; one that is being replaced,
 * of which the key is not there yet, is left until the next look while the one before goes on.
 */
export function listenBootstrap(
  o: { readonly listen: string; readonly tls?: TlsFiles | undefined; readonly lookMs?: number },
  deps: { readonly api: Pick<BootstrapApi, "answer">; readonly log: Logger },
): AsyncDisposable & { readonly address: string } {
  const address = parseAddress(o.listen);
  if (address.kind !== "tcp") {
    throw fault("invalid_argument", "bad_address", `Cannot listen on ${o.listen}: wanted host:port`);
  }
  if (o.tls === undefined && !isLoopback(address)) {
    throw fault(
      "invalid_argument",
      "plain_listener_exposed",
      `Cannot listen on ${o.listen} without TLS: wanted loopback, or bootstrap.tls`,
    );
  }
  const { tls } = o;
  const stamp = () => tls === undefined ? "" : fileStamps([tls.certFile, tls.keyFile]);
  const read = () => tls === undefined ? {} : readTlsFiles(tls);
  const start = (port: number, texts: { readonly cert?: string; readonly key?: string }) =>
    Deno.serve({
      hostname: address.host,
      port,
      onListen: () => {},
      ...(texts.cert === undefined ? {} : { cert: texts.cert, key: texts.key! }),
    }, (request, info) => deps.api.answer(request, (info.remoteAddr as Deno.NetAddr).hostname));
  let seen = stamp();
  let server = start(address.port, read());
  const { port } = server.addr as Deno.NetAddr;
  let turning = Promise.resolve();
  const look = setInterval(() => {
    turning = turning.then(async () => {
      const now = stamp();
      if (now === seen) return;
      const texts = read();
      await server.shutdown();
      server = start(port, texts);
      seen = now;
      deps.log.info("certificate of the bootstrap listener reloaded");
    }).catch((error) => deps.log.warn("cannot reload the certificate of the bootstrap listener", { error }));
  }, o.lookMs ?? certificateLookMs);
  return {
    address: `${address.host}:${port}`,
    async [Symbol.asyncDispose]() {
      clearInterval(look);
      await turning;
      await server.shutdown();
    },
  };
}
