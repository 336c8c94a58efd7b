import { fault } from "@ultracloud/base";
import { createHash } from "node:crypto";
import http from "node:http";
import https from "node:https";

/** A certificate of an authority is below this. */
const certificateBytesMax = 64 * 1024;
const fetchTimeoutMs = 15_000;

/** SHA-256 of the first certificate of a PEM text, over its DER, in hex; undefined when there is none. */
export function certificateSha256(pem: string): string | undefined {
  const body = /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----/.exec(pem)?.[1];
  if (body === undefined) return undefined;
  return createHash("sha256").update(Uint8Array.fromBase64(body.replaceAll(/\s/g, ""))).digest("hex");
}

/**
 * The authority of the deployer. It is fetched without knowing whom from, and taken only when it is the one that
 * `sha256` names; without a pin nothing is fetched, as anybody on the way could answer.
 */
export async function fetchAuthority(url: string, sha256: string | undefined, signal?: AbortSignal): Promise<string> {
  if (sha256 === undefined) {
    throw fault(
      "failed_precondition",
      "ca_unpinned",
      `Cannot trust a CA from ${url}: wanted its SHA-256 in ultracloud.ca_sha256`,
    );
  }
  const pem = await read(url, signal);
  const seen = certificateSha256(pem);
  if (seen === sha256) return pem.slice(0, pem.indexOf("-----END CERTIFICATE-----")) + "-----END CERTIFICATE-----\n";
  throw fault(
    "permission_denied",
    "ca_mismatch",
    seen === undefined
      ? `Cannot trust what ${url} answers: it is no certificate`
      : `Cannot trust the CA of ${url}: its SHA-256 is ${seen}, wanted ${sha256}`,
  );
}

/** By the platform's older client, the one that can leave the server's certificate unchecked for a single call. */
function read(url: string, signal?: AbortSignal): Promise<string> {
  const late = AbortSignal.timeout(fetchTimeoutMs);
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const fail = (why: string, cause?: unknown) =>
    reject(fault("unavailable", "ca_unreachable", `Cannot fetch the CA from ${url}: ${why}`, { cause }));
  const options = { signal: signal === undefined ? late : AbortSignal.any([late, signal]), agent: false as const };
  const answer = (response: http.IncomingMessage) => {
    const chunks: Uint8Array[] = [];
    let size = 0;
    response.on("data", (chunk: Uint8Array) => {
      size += chunk.length;
      if (size <= certificateBytesMax) chunks.push(chunk);
      else response.destroy();
    });
    response.on("error", (error) => fail(error.message, error));
    response.on("close", () => {
      if (response.statusCode !== 200) return fail(`it answers ${response.statusCode}`);
      if (size > certificateBytesMax) return fail(`it sends more than ${certificateBytesMax} bytes`);
      void new Blob(chunks as BlobPart[]).text().then(resolve, reject);
    });
  };
  const request = url.startsWith("https:")
    // Nobody's certificate is asked for: the system's authorities are not even read.
    ? https.get(url, { ...options, rejectUnauthorized: false, ca: [] }, answer)
    : http.get(url, options, answer);
  request.on("error", (error) => fail(error.message, error));
  return promise;
}
