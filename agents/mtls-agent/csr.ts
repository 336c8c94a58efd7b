// The certificate library injects its algorithms through it.
import "reflect-metadata";
import { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension, X509Certificate } from "@peculiar/x509";
import type { HeldCertificate } from "./domain/renewal.ts";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const loopback = [{ type: "dns", value: "localhost" }, { type: "ip", value: "127.0.0.1" }, {
  type: "ip",
  value: "::1",
}] as const;
const ipPattern = /^(\d{1,3}(\.\d{1,3}){3}|[0-9a-f:]*:[0-9a-f:.]*)$/;

/** A new key and the request for its certificate, both PEM. */
export async function makeRequest(
  spiffeId: string,
  names: readonly string[],
): Promise<{ csrPem: string; keyPem: string }> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]) as CryptoKeyPair;
  const csr = await Pkcs10CertificateRequestGenerator.create({
    name: "CN=request",
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new SubjectAlternativeNameExtension([
        { type: "url", value: spiffeId },
        ...loopback,
        ...names.map((value) => ({ type: ipPattern.test(value) ? "ip" as const : "dns" as const, value })),
      ]),
    ],
  });
  const key = new Uint8Array(await crypto.subtle.exportKey("pkcs8", keys.privateKey));
  const keyPem = `-----BEGIN PRIVATE KEY-----\n${
    key.toBase64().match(/.{1,64}/g)!.join("\n")
  }\n-----END PRIVATE KEY-----\n`;
  return { csrPem: csr.toString("pem"), keyPem };
}

/** What a certificate on disk says; undefined when it cannot be read as one. */
export function readCertificate(pem: string, obtainedMs: number): HeldCertificate | undefined {
  try {
    const { notBefore, notAfter, issuer } = new X509Certificate(pem);
    return { obtainedMs, startMs: notBefore.getTime(), endMs: notAfter.getTime(), issuer };
  } catch {
    return undefined;
  }
}

export function subjectOf(pem: string): string {
  return new X509Certificate(pem).subject;
}
