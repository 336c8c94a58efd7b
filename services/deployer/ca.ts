import { createHash, X509Certificate } from "node:crypto";

/** SHA-256 of the first certificate in the PEM, over its DER, in hex: what machines pin. */
export function caSha256(pem: string): string {
  return createHash("sha256").update(new X509Certificate(pem).raw).digest("hex");
}
