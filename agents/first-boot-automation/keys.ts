// The certificate library injects its algorithms through it.
import "reflect-metadata";
import { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension } from "@peculiar/x509";
import { generateIdentity, nodeSvcId } from "@ultracloud/authz";
import { fault } from "@ultracloud/base";
import { type PublicKey, writeWhole } from "@ultracloud/bootstrap";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

/**
 * The agent's own key in the file, made when there is none: an attempt that is repeated brings the same one. Answers its
 * public half; the private one never leaves the node.
 */
export async function ownKey(
  file: string,
  of: { readonly clusterId: string; readonly agent: string; readonly node: string },
): Promise<PublicKey> {
  let text: string | undefined;
  try {
    text = await Deno.readTextFile(file);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  if (text === undefined) {
    const { privateKey } = await generateIdentity();
    text = JSON.stringify({ ...privateKey, kid: nodeSvcId(of.clusterId, of.agent, of.node) });
    await writeWhole(file, text);
  }
  const { kty, crv, x } = JSON.parse(text) as Partial<PublicKey>;
  if (kty !== undefined && crv !== undefined && x !== undefined) return { kty, crv, x };
  throw fault("data_loss", "identity_unreadable", `Cannot use ${file}: wanted a private Ed25519 JWK`);
}

/** A new key and the request for its certificate in the name of the SPIFFE id, both PEM. */
export async function certificateRequest(spiffeId: string): Promise<{ csrPem: string; keyPem: string }> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]) as CryptoKeyPair;
  const csr = await Pkcs10CertificateRequestGenerator.create({
    name: "CN=request",
    keys,
    signingAlgorithm: algorithm,
    extensions: [new SubjectAlternativeNameExtension([{ type: "url", value: spiffeId }])],
  });
  const key = new Uint8Array(await crypto.subtle.exportKey("pkcs8", keys.privateKey));
  const lines = key.toBase64().match(/.{1,64}/g)!.join("\n");
  return { csrPem: csr.toString("pem"), keyPem: `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----\n` };
}
