import { X509Certificate } from "node:crypto";
import { createServer, type Server } from "node:https";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { TlsFiles } from "@ultracloud/config";
import { fault } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { hostPort } from "./address.ts";
import type { Listener, Serve } from "./listen_plain.ts";
import { isStreamed } from "./streamed.ts";
import { readTlsFiles, stampOf } from "./tls_files.ts";
import type { Peer } from "./types.ts";

/** Certificates are renewed in place; this is how soon a renewal is used. */
const reloadEveryMs = 2_000;
/** A peer must finish its handshake and its headers in this time. */
const handshakeTimeoutMs = 10_000;
/** Authorities that have left the bundle and are remembered: no connection is older than so many rotations. */
const endedMax = 16;

const spiffe = /^spiffe:\/\/[a-z0-9._-]+(\/[A-Za-z0-9._-]+)+$/;

/** The one SPIFFE id among the certificate's SANs; undefined when there is none or more than one URI. */
export function spiffeIdOf(subjectAltName: string | undefined): string | undefined {
  // A quoted entry holds characters that could imitate another entry.
  if (subjectAltName === undefined || subjectAltName.includes('"')) return undefined;
  const uris = subjectAltName.split(", ").filter((entry) => entry.startsWith("URI:"));
  const uri = uris[0]?.slice("URI:".length);
  return uris.length === 1 && uri !== undefined && spiffe.test(uri) ? uri : undefined;
}

function secureContext(files: TlsFiles) {
  return { ...readTlsFiles(files), requestCert: true, rejectUnauthorized: true, minVersion: "TLSv1.2" as const };
}

/** True when one of the authorities signed the certificate itself. */
function signedByOne(certificate: X509Certificate, authorities: readonly X509Certificate[]): boolean {
  return authorities.some((authority) => certificate.checkIssued(authority) && certificate.verify(authority.publicKey));
}

function authoritiesIn(caFile: string): X509Certificate[] {
  const pems = Deno.readTextFileSync(caFile).match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return pems.map((pem) => new X509Certificate(pem));
}

/**
 * The authorities of a bundle and those that have left it. TLS asks for trust at the handshake alone, and a connection
 * may outlive its authority by days.
 */
class Authorities {
  #present: readonly X509Certificate[];
  #ended: readonly X509Certificate[] = [];

  constructor(caFile: string) {
    this.#present = authoritiesIn(caFile);
  }

  reload(caFile: string): void {
    const fresh = authoritiesIn(caFile);
    const held = new Set(fresh.map((authority) => authority.fingerprint256));
    const gone = [...this.#ended, ...this.#present].filter((authority) => !held.has(authority.fingerprint256));
    this.#ended = gone.slice(-endedMax);
    this.#present = fresh;
  }

  /** True for the peer of a connection that would no longer be let in. */
  refuses(socket: TLSSocket): boolean {
    if (this.#ended.length === 0) return false;
    const { raw } = socket.getPeerCertificate() as { raw?: Uint8Array };
    if (raw === undefined) return true;
    const certificate = new X509Certificate(raw);
    return signedByOne(certificate, this.#ended) && !signedByOne(certificate, this.#present);
  }
}

/** Serves HTTP/1.1 over mutual TLS: a peer without a certificate of our CA never reaches a handler. */
export async function listenMtls(
  options: { readonly host: string; readonly port: number; readonly tls: TlsFiles },
  deps: { readonly serve: Serve; readonly log: Logger },
): Promise<Listener> {
  let seen: string;
  let server: Server;
  let authorities: Authorities;
  try {
    seen = stampOf(options.tls);
    authorities = new Authorities(options.tls.caFile);
    server = createServer(
      { ...secureContext(options.tls), handshakeTimeout: handshakeTimeoutMs, noDelay: true },
      (incoming, outgoing) => void answer(incoming, outgoing, deps),
    );
  } catch (cause) {
    throw fault("failed_precondition", "tls_unreadable", "Cannot read the TLS files of the listener", { cause });
  }
  server.headersTimeout = handshakeTimeoutMs;
  server.on("tlsClientError", (error: Error, socket: Socket) => {
    deps.log.debug("peer refused", { error: error.message });
    socket.destroy();
  });
  // The server knows only of connections that finished their handshake; the others must go too when it stops.
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  const secured = new Set<TLSSocket>();
  const dropRefused = () => {
    const refused = [...secured].filter((socket) => authorities.refuses(socket));
    for (const socket of refused) socket.destroy();
    if (refused.length > 0) deps.log.info("connections of an ended authority closed", { connections: refused.length });
  };
  server.on("clientError", (_error: Error, socket: { destroy(): void }) => socket.destroy());
  server.on("secureConnection", (socket: TLSSocket) => {
    socket.setNoDelay(true);
    socket.on("error", () => {});
    // A handshake that began before its authority ended may finish after it.
    if (authorities.refuses(socket)) return void socket.destroy();
    secured.add(socket);
    socket.on("close", () => secured.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, options.host, () => {
      server.off("error", reject);
      resolve();
    });
  });
  const reload = setInterval(() => {
    try {
      const now = stampOf(options.tls);
      if (now === seen) return;
      server.setSecureContext(secureContext(options.tls));
      seen = now;
      deps.log.info("certificates reloaded");
      authorities.reload(options.tls.caFile);
      dropRefused();
    } catch (error) {
      deps.log.warn("cannot reload certificates", { error });
    }
  }, reloadEveryMs);
  const { port } = server.address() as { port: number };
  const address = hostPort(options.host, port);
  return {
    address,
    url: `https://${address}`,
    stop: () => {
      clearInterval(reload);
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      return closed;
    },
    kill: () => {
      server.closeAllConnections();
      for (const socket of sockets) socket.destroy();
    },
  };
}

const peers = new WeakMap<object, Peer>();

function peerOf(socket: TLSSocket): Peer {
  let peer = peers.get(socket);
  if (peer === undefined) {
    peer = { certificateId: spiffeIdOf(socket.getPeerCertificate().subjectaltname) };
    peers.set(socket, peer);
  }
  return peer;
}

async function answer(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  deps: { readonly serve: Serve; readonly log: Logger },
): Promise<void> {
  const left = new AbortController();
  outgoing.on("close", () => left.abort());
  outgoing.on("error", () => left.abort());
  incoming.on("error", () => left.abort());
  try {
    const response = await deps.serve(toRequest(incoming, left.signal), peerOf(incoming.socket as TLSSocket));
    await send(response, outgoing);
  } catch (error) {
    if (!outgoing.headersSent && !outgoing.destroyed) outgoing.writeHead(500).end();
    else outgoing.destroy();
    deps.log.error("cannot answer", { error });
  }
}

function toRequest(incoming: IncomingMessage, signal: AbortSignal): Request {
  const headers = new Headers();
  const raw = incoming.rawHeaders;
  for (let i = 0; i + 1 < raw.length; i += 2) headers.append(raw[i]!, raw[i + 1]!);
  const method = incoming.method ?? "GET";
  const body = method === "GET" || method === "HEAD" ? null : bodyOf(incoming);
  // Only the path is looked at; a Host header of the caller must not end up in front of it.
  const path = incoming.url?.startsWith("/") ? incoming.url : "/";
  return new Request(`https://peer${path}`, { method, headers, body, signal, duplex: "half" } as RequestInit);
}

function bodyOf(incoming: IncomingMessage): ReadableStream<Uint8Array<ArrayBuffer>> {
  const iterator = incoming.iterator({ destroyOnReturn: false }) as AsyncIterator<Uint8Array<ArrayBuffer>>;
  return new ReadableStream({
    async pull(controller) {
      const item = await iterator.next();
      if (item.done === true) controller.close();
      else controller.enqueue(new Uint8Array(item.value));
    },
    async cancel() {
      await iterator.return?.();
    },
  }, { highWaterMark: 0 });
}

async function send(response: Response, outgoing: ServerResponse): Promise<void> {
  const headers: Record<string, string> = {};
  response.headers.forEach((value, name) => headers[name] = value);
  if (!isStreamed(response)) {
    // Several small writes cost 40 ms each on a connection with delayed acknowledgements.
    const body = response.body === null ? new Uint8Array(0) : await response.bytes();
    if (outgoing.destroyed) return;
    outgoing.writeHead(response.status, { ...headers, "content-length": String(body.length) });
    outgoing.end(body);
    return;
  }
  outgoing.writeHead(response.status, headers);
  outgoing.flushHeaders();
  const reader = response.body!.getReader();
  outgoing.on("close", () => void reader.cancel().catch(() => {}));
  for (;;) {
    const item = await reader.read();
    if (item.done || outgoing.destroyed) break;
    if (!outgoing.write(item.value)) await drained(outgoing);
  }
  outgoing.end();
}

function drained(outgoing: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      outgoing.off("drain", done);
      outgoing.off("close", done);
      resolve();
    };
    outgoing.on("drain", done);
    outgoing.on("close", done);
  });
}
