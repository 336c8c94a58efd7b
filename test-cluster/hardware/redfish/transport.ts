import { fault } from "@ultracloud/base";
import http from "node:http";
import net from "node:net";
import tls from "node:tls";

/** Where a BMC is and how it proves who it is. */
export interface BmcAddress {
  /** `https://bmc.example:443`; plain http only on loopback. */
  readonly url: string;
  /** PEM of the authority, or of the BMC's own certificate. Its name must match the host, or `serverName`. */
  readonly caPem?: string;
  /** SHA-256 of the BMC's certificate (DER), hexadecimal, colons allowed. A pin needs neither name nor authority. */
  readonly fingerprint?: string;
  /** The name in the certificate where it is not the host of the URL. */
  readonly serverName?: string;
}

export interface RawAnswer {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly text: string;
}

export interface RawRequest {
  readonly method: "GET" | "POST" | "PATCH" | "DELETE";
  /** Begins with a slash. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal?: AbortSignal;
}

/** One request at a time over a connection of its own: BMCs have few slots and forget idle connections. */
export type Transport = (request: RawRequest) => Promise<RawAnswer>;

/** The largest documents known, log pages of 200 entries, are below 300 KB. */
export const answerBytesMax = 2 * 1024 * 1024;
/** BMCs answer in seconds, a busy one in tens of them. */
const requestTimeoutMs = 60_000;

/**
 * A transport to one BMC. Faults: `bmc_plain_http` and `bmc_unpinned` (invalid_argument, before anything is sent),
 * `bmc_untrusted` (permission_denied, the certificate is not the one wanted; nothing was sent), `bmc_unreachable`
 * (unavailable), `bmc_answer_too_long` (data_loss).
 */
export function openTransport(address: BmcAddress): Transport {
  const url = new URL(address.url);
  const host = url.hostname.replace(/^\[|\]$/g, "");
  if (url.username !== "" || url.password !== "") {
    throw fault("invalid_argument", "bmc_url", "Cannot use credentials in the URL of a BMC: wanted them in a file");
  }
  if (url.protocol === "http:") {
    if (!isLoopback(host)) {
      throw fault(
        "invalid_argument",
        "bmc_plain_http",
        `Cannot use ${url.origin} as credentials would cross the network in clear: wanted https`,
      );
    }
    return (request) => exchange(() => dialPlain(host, Number(url.port || 80)), url.host, request);
  }
  if (url.protocol !== "https:") {
    throw fault("invalid_argument", "bmc_url", `Cannot use ${address.url.slice(0, 80)} as a BMC: wanted an https URL`);
  }
  if (address.caPem === undefined && address.fingerprint === undefined) {
    throw fault(
      "invalid_argument",
      "bmc_unpinned",
      `Cannot trust ${url.host}: wanted the CA of the BMC or the fingerprint of its certificate`,
    );
  }
  const port = Number(url.port || 443);
  return (request) => exchange(() => dialPinned(host, port, address), url.host, request);
}

/** Whether a host can only be this machine. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}

/** 64 lower-case digits of a SHA-256 in any usual writing; a fault for anything else. */
export function parseFingerprint(text: string): string {
  const digits = text.trim().replace(/^sha-?256[:=]/i, "").replaceAll(/[:\s]/g, "").toLowerCase();
  if (/^[0-9a-f]{64}$/.test(digits)) return digits;
  throw fault(
    "invalid_argument",
    "bmc_fingerprint",
    `Cannot read a fingerprint of ${digits.length} digits: wanted the 64 of a SHA-256`,
  );
}

function dialPlain(host: string, port: number): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port });
    socket.once("connect", () => resolve(socket));
    socket.once("error", (cause) => reject(unreachable(`${host}:${port}`, cause)));
  });
}

/** The socket is handed out only after the certificate was compared, so no byte of ours reaches a stranger. */
function dialPinned(host: string, port: number, address: BmcAddress): Promise<net.Socket> {
  const pin = address.fingerprint === undefined ? undefined : parseFingerprint(address.fingerprint);
  const servername = address.serverName ?? (net.isIP(host) === 0 ? host : undefined);
  return new Promise((resolve, reject) => {
    const socket = tls.connect({
      host,
      port,
      ALPNProtocols: ["http/1.1"],
      // Without an authority the fingerprint below is what decides; the handshake proves possession of its key.
      rejectUnauthorized: address.caPem !== undefined,
      ...(address.caPem === undefined ? {} : { ca: address.caPem }),
      ...(servername === undefined ? {} : { servername }),
    });
    let secure = false;
    socket.once("secureConnect", () => {
      secure = true;
      const seen = socket.getPeerCertificate().fingerprint256?.replaceAll(":", "").toLowerCase() ?? "nothing";
      if (pin === undefined || seen === pin) return resolve(socket);
      socket.destroy();
      reject(untrusted(`${host}:${port}`, `its certificate has the fingerprint ${seen}: wanted ${pin}`));
    });
    socket.once("error", (cause: Error & { code?: string }) => {
      socket.destroy();
      if (secure) return;
      reject(
        /certificate|altnames|CERT_|issuer/i.test(`${cause.message} ${cause.code}`)
          ? untrusted(`${host}:${port}`, cause.message, cause)
          : unreachable(`${host}:${port}`, cause),
      );
    });
  });
}

const untrusted = (where: string, why: string, cause?: unknown) =>
  fault("permission_denied", "bmc_untrusted", `Cannot trust ${where}: ${why}`, cause === undefined ? {} : { cause });
const unreachable = (where: string, cause: Error) =>
  fault("unavailable", "bmc_unreachable", `Cannot reach ${where}: ${cause.message}`, { cause });

async function exchange(dial: () => Promise<net.Socket>, host: string, request: RawRequest): Promise<RawAnswer> {
  request.signal?.throwIfAborted();
  const late = AbortSignal.timeout(requestTimeoutMs);
  const signal = request.signal === undefined ? late : AbortSignal.any([request.signal, late]);
  const socket = await abortable(dial(), signal, host, late);
  try {
    return await abortable(speak(socket, host, request), signal, host, late);
  } finally {
    socket.destroy();
  }
}

/** `work`, or the caller's reason, or a fault once the time is over; a socket that comes too late is closed. */
function abortable<T>(work: Promise<T>, signal: AbortSignal, host: string, late: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      work.then((value) => value instanceof net.Socket && value.destroy(), () => {});
      reject(
        late.aborted
          ? fault("unavailable", "bmc_silent", `Cannot wait for ${host}: no answer in ${requestTimeoutMs} ms`)
          : signal.reason,
      );
    };
    if (signal.aborted) return stop();
    signal.addEventListener("abort", stop, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}

function speak(socket: net.Socket, host: string, request: RawRequest): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const fail = (cause: Error) => reject(unreachable(host, cause));
    const call = http.request({
      createConnection: () => socket,
      method: request.method,
      path: request.path,
      headers: {
        host,
        accept: "application/json",
        "odata-version": "4.0",
        ...(request.body === undefined ? {} : {
          "content-type": "application/json",
          "content-length": String(new TextEncoder().encode(request.body).length),
        }),
        ...request.headers,
      },
    }, (answer) => {
      const chunks: Uint8Array[] = [];
      let size = 0;
      answer.on("data", (chunk: Uint8Array) => {
        size += chunk.length;
        if (size <= answerBytesMax) return void chunks.push(chunk);
        answer.destroy();
        reject(
          fault("data_loss", "bmc_answer_too_long", `Cannot read ${host}: wanted at most ${answerBytesMax} bytes`),
        );
      });
      answer.on("error", fail);
      answer.on("end", () => {
        const headers: Record<string, string> = {};
        for (const [name, value] of Object.entries(answer.headers)) if (value !== undefined) headers[name] = `${value}`;
        const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
        let at = 0;
        for (const chunk of chunks) {
          bytes.set(chunk, at);
          at += chunk.length;
        }
        resolve({ status: answer.statusCode ?? 0, headers, text: new TextDecoder().decode(bytes) });
      });
    });
    call.on("error", fail);
    call.end(request.body);
  });
}
