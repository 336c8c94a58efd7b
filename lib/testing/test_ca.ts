// The certificate library injects its algorithms through it.
import "reflect-metadata";
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  type X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import type { TlsFiles } from "@ultracloud/config";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const hourMs = 3_600_000;

export interface TestLeaf {
  readonly certPem: string;
  readonly keyPem: string;
}

export interface TestLeafOptions {
  /** "spiffe://test/svc/flaredb"; none means a certificate without identity. */
  readonly spiffeId?: string;
  /** Milliseconds since the epoch. One hour from now. */
  readonly notAfterMs?: number;
  /** IP addresses beside the loopback ones. */
  readonly addresses?: readonly string[];
  /** Both by default. */
  readonly usages?: readonly ("client" | "server")[];
}

/** A certificate authority that lives as long as the test. */
export interface TestCa {
  readonly caPem: string;
  /** Its private key, for whoever signs on. */
  readonly keyPem: string;
  /** A certificate for localhost, 127.0.0.1 and ::1. */
  issue(options?: TestLeafOptions): Promise<TestLeaf>;
  /** Issues and writes `<name>.crt`, `<name>.key` (mode 0600) and `<name>-ca.crt` into `dir`. */
  issueFiles(dir: string, name: string, options?: TestLeafOptions): Promise<TlsFiles>;
}

let serial = 0;

/** Makes a throw-away CA; two with the same name differ in their keys only, as a forger's would. */
export async function createTestCa(name = "UltraCloud test CA"): Promise<TestCa> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]) as CryptoKeyPair;
  const ca = await X509CertificateGenerator.createSelfSigned({
    serialNumber: nextSerial(),
    name: `CN=${name}`,
    notBefore: new Date(Date.now() - hourMs),
    notAfter: new Date(Date.now() + 24 * hourMs),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
    ],
  });
  const caPem = pem("CERTIFICATE", ca.rawData);
  const keyPem = pem("PRIVATE KEY", await crypto.subtle.exportKey("pkcs8", keys.privateKey));
  const issue = (options: TestLeafOptions = {}) => issueLeaf(ca, keys.privateKey, options);
  return {
    caPem,
    keyPem,
    issue,
    async issueFiles(dir, file, options) {
      const leaf = await issue(options);
      const files = { certFile: `${dir}/${file}.crt`, keyFile: `${dir}/${file}.key`, caFile: `${dir}/${file}-ca.crt` };
      await Deno.writeTextFile(files.certFile, leaf.certPem);
      await Deno.writeTextFile(files.keyFile, leaf.keyPem, { mode: 0o600 });
      await Deno.writeTextFile(files.caFile, caPem);
      return files;
    },
  };
}

async function issueLeaf(ca: X509Certificate, signingKey: CryptoKey, options: TestLeafOptions): Promise<TestLeaf> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]) as CryptoKeyPair;
  const notAfterMs = options.notAfterMs ?? Date.now() + hourMs;
  const usages = (options.usages ?? ["client", "server"]).map((usage) =>
    usage === "client" ? ExtendedKeyUsage.clientAuth : ExtendedKeyUsage.serverAuth
  );
  const certificate = await X509CertificateGenerator.create({
    serialNumber: nextSerial(),
    subject: "CN=leaf",
    issuer: ca.subject,
    notBefore: new Date(Math.min(Date.now(), notAfterMs) - hourMs),
    notAfter: new Date(notAfterMs),
    signingAlgorithm: algorithm,
    publicKey: keys.publicKey,
    signingKey,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension(usages),
      new SubjectAlternativeNameExtension([
        ...(options.spiffeId === undefined ? [] : [{ type: "url" as const, value: options.spiffeId }]),
        { type: "dns", value: "localhost" },
        { type: "ip", value: "127.0.0.1" },
        { type: "ip", value: "::1" },
        ...(options.addresses ?? []).map((value) => ({ type: "ip" as const, value })),
      ]),
    ],
  });
  const key = await crypto.subtle.exportKey("pkcs8", keys.privateKey);
  return { certPem: pem("CERTIFICATE", certificate.rawData), keyPem: pem("PRIVATE KEY", key) };
}

function nextSerial(): string {
  return (0x1000 + ++serial).toString(16);
}

function pem(label: string, der: ArrayBuffer): string {
  const base64 = btoa(String.fromCharCode(...new Uint8Array(der)));
  return `-----BEGIN ${label}-----\n${base64.match(/.{1,64}/g)!.join("\n")}\n-----END ${label}-----\n`;
}
