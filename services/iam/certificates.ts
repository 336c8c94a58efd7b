// The certificate library injects its algorithms through it.
import "reflect-metadata";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { invalidField, type Rng } from "@ultracloud/base";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
/** An authority is replaced long before; this only bounds one that is forgotten. */
const authorityLifeMs = 10 * 365 * 24 * 3600 * 1000;
/** Hosts whose clocks are behind take a new certificate, too. */
const backdateMs = 60_000;
const csrCharsMax = 16 * 1024;
const namesMax = 32;

/** What a request asks for, its signature checked. */
export interface CertificateRequest {
  readonly spiffeId: string;
  readonly names: readonly { readonly type: "dns" | "ip"; readonly value: string }[];
  readonly csr: Pkcs10CertificateRequest;
}

const pem = (label: string, der: ArrayBuffer) =>
  `-----BEGIN ${label}-----\n${new Uint8Array(der).toBase64().match(/.{1,64}/g)!.join("\n")}\n-----END ${label}-----\n`;

const serialOf = (rng: Rng) => {
  const bytes = rng.fill(new Uint8Array(16));
  // A positive number without leading zeros.
  bytes[0] = bytes[0]! & 0x7f | 0x40;
  return bytes.toHex();
};

/** A new authority: its certificate, and its private key as PKCS #8. */
export async function makeAuthority(
  o: { readonly clusterId: string; readonly id: string; readonly nowMs: number },
  rng: Rng,
): Promise<{ certPem: string; privateKey: Uint8Array }> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]) as CryptoKeyPair;
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serialOf(rng),
    name: `CN=${o.clusterId} ${o.id}`,
    notBefore: new Date(o.nowMs - backdateMs),
    notAfter: new Date(o.nowMs + authorityLifeMs),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      new SubjectAlternativeNameExtension([{ type: "url", value: `spiffe://${o.clusterId}` }]),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const privateKey = new Uint8Array(await crypto.subtle.exportKey("pkcs8", keys.privateKey));
  return { certPem: pem("CERTIFICATE", certificate.rawData), privateKey };
}

/** Reads a request and checks that its sender has the key; invalid_argument otherwise. */
export async function readRequest(text: string): Promise<CertificateRequest> {
  const wrong = (why: string) => invalidField("csrPem", `Cannot use the certificate request: ${why}`, "invalid_csr");
  if (text.length > csrCharsMax) throw wrong(`wanted at most ${csrCharsMax} characters`);
  let csr: Pkcs10CertificateRequest;
  try {
    csr = new Pkcs10CertificateRequest(text);
    if (!await csr.verify()) throw new Error("signature");
  } catch {
    throw wrong("wanted PKCS #10 in PEM, signed with its own key");
  }
  const { name, namedCurve } = csr.publicKey.algorithm as { name: string; namedCurve?: string };
  if (name !== "Ed25519" && !(name === "ECDSA" && namedCurve === "P-256")) {
    throw wrong("wanted a key of Ed25519 or ECDSA over P-256");
  }
  const alternatives = csr.extensions.filter((e) => e instanceof SubjectAlternativeNameExtension);
  const names = alternatives.length === 1 ? alternatives[0]!.names.items : [];
  const uris = names.filter(({ type }) => type === "url");
  const others = names.filter(({ type }) => type !== "url");
  if (uris.length !== 1) throw wrong("wanted exactly one URI name, its SPIFFE id");
  if (others.length > namesMax || others.some(({ type }) => type !== "dns" && type !== "ip")) {
    throw wrong(`wanted at most ${namesMax} names beside it, DNS names and IP addresses`);
  }
  return {
    spiffeId: uris[0]!.value,
    names: others.map(({ type, value }) => ({ type: type as "dns" | "ip", value: value.toLowerCase() })),
    csr,
  };
}

/** Signs the request; names and life are the caller's business. */
export async function signRequest(
  request: CertificateRequest,
  o: { readonly certPem: string; readonly privateKey: Uint8Array; readonly nowMs: number; readonly endMs: number },
  rng: Rng,
): Promise<string> {
  const authority = new X509Certificate(o.certPem);
  const signingKey = await crypto.subtle.importKey("pkcs8", o.privateKey as Uint8Array<ArrayBuffer>, algorithm, false, [
    "sign",
  ]);
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serialOf(rng),
    subject: `CN=${request.spiffeId.split("/").slice(3).join(" ")}`,
    issuer: authority.subject,
    notBefore: new Date(o.nowMs - backdateMs),
    notAfter: new Date(o.endMs),
    signingAlgorithm: algorithm,
    publicKey: request.csr.publicKey,
    signingKey,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth, ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension([{ type: "url", value: request.spiffeId }, ...request.names]),
      await AuthorityKeyIdentifierExtension.create(authority.publicKey),
    ],
  });
  return pem("CERTIFICATE", certificate.rawData);
}
