import { type Clock, fault } from "@ultracloud/base";
import { importJWK, type JWK, jwtVerify } from "jose";
import { z } from "zod";
import { svcId, type TrustFile, trustSchema } from "./trust.ts";
import type { WorkloadSigner } from "./workload.ts";

/** Header `typ` of a trust document; no token is one. */
export const trustDocumentTyp = "trust+jwt";
const issuerName = "deployer";

/** A trust file on its way to the nodes: a compact JWS by the deployer's own key. */
export function signTrust(file: TrustFile, signer: WorkloadSigner): Promise<string> {
  return signer.sign({ trust: file as unknown as Record<string, unknown> }, trustDocumentTyp);
}

/**
 * The trust file in a document, taken only when the deployer of the trust file that is in force signed it, and when it
 * is not older than that: whoever answers in the deployer's place can neither add a principal nor bring one back.
 */
export async function verifyTrust(
  document: string,
  present: TrustFile,
  deps: { readonly clock: Clock },
): Promise<TrustFile> {
  const issuer = svcId(present.clusterId, issuerName);
  const jwk: JWK | undefined = present.principals[issuer]?.publicKey;
  const refuse = (why: string, cause?: unknown) =>
    fault("permission_denied", "trust_untrusted", `Cannot trust the trust document: ${why}`, { cause });
  if (jwk === undefined) throw refuse(`the trust file in force has no ${issuer}`);
  let payload;
  try {
    const key = await importJWK({ kty: jwk.kty!, crv: jwk.crv!, x: jwk.x! }, "EdDSA");
    const currentDate = new Date(deps.clock.nowMs());
    ({ payload } = await jwtVerify(document, key, {
      algorithms: ["EdDSA"],
      typ: trustDocumentTyp,
      issuer,
      currentDate,
    }));
  } catch (cause) {
    throw refuse("it is not signed with the deployer's key", cause);
  }
  const parsed = trustSchema.safeParse(payload.trust);
  if (!parsed.success) throw refuse(z.prettifyError(parsed.error));
  const file = parsed.data;
  if (file.clusterId !== present.clusterId) throw refuse(`it is about ${file.clusterId}, wanted ${present.clusterId}`);
  const [was, is] = [present.revision ?? 0, file.revision ?? 0];
  if (is < was) throw refuse(`its revision is ${is}, and ${was} is in force`);
  return file;
}
