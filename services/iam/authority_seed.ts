import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { type Clock, fault, Redacted } from "@ultracloud/base";
import { readSecret } from "@ultracloud/config";
import { requirePrivate } from "./bootstrap.ts";

/** An authority that was made before iam: the one the cluster's first certificates are of. */
export interface AuthoritySeed {
  readonly certPem: string;
  /** PKCS #8. */
  readonly privateKey: Redacted<Uint8Array>;
}

/**
 * The authority in the operator's files, undefined when none is named. failed_precondition names the file that cannot
 * be used and why.
 */
export async function loadAuthoritySeed(
  o: { readonly authorityCertFile?: string | undefined; readonly authorityKeyFile?: string | undefined },
  deps: { readonly clock: Pick<Clock, "nowMs"> },
): Promise<AuthoritySeed | undefined> {
  const { authorityCertFile: certFile, authorityKeyFile: keyFile } = o;
  if (certFile === undefined && keyFile === undefined) return undefined;
  if (certFile === undefined || keyFile === undefined) {
    const lacking = certFile === undefined ? "authorityCertFile" : "authorityKeyFile";
    throw fault(
      "failed_precondition",
      "authority_incomplete",
      `Cannot use one half of an authority: wanted ${lacking}, too`,
    );
  }
  const wrong = (file: string, why: string, cause?: unknown) =>
    fault("failed_precondition", "authority_unusable", `Cannot use ${file} as the authority: wanted ${why}`, { cause });
  await requirePrivate(keyFile);
  const keyText = await readSecret(keyFile);
  let key: KeyObject;
  try {
    key = createPrivateKey(keyText.expose());
  } catch (cause) {
    throw wrong(keyFile, "a private key in PEM", cause);
  }
  let certPem: string;
  let certificate: X509Certificate;
  try {
    certPem = await Deno.readTextFile(certFile);
    certificate = new X509Certificate(certPem);
  } catch (cause) {
    throw wrong(certFile, "a certificate in PEM", cause);
  }
  if (certPem.split("BEGIN CERTIFICATE").length !== 2) throw wrong(certFile, "one certificate");
  if (!certificate.ca) throw wrong(certFile, "the certificate of an authority (CA:TRUE)");
  if (key.asymmetricKeyType !== "ec" || key.asymmetricKeyDetails?.namedCurve !== "prime256v1") {
    throw wrong(keyFile, "a key of ECDSA over P-256");
  }
  if (!certificate.checkPrivateKey(key)) throw wrong(keyFile, `the key of ${certFile}`);
  const nowMs = deps.clock.nowMs();
  if (new Date(certificate.validFrom).getTime() > nowMs || new Date(certificate.validTo).getTime() <= nowMs) {
    throw wrong(certFile, `one that is valid now, this one is from ${certificate.validFrom} to ${certificate.validTo}`);
  }
  const der = key.export({ type: "pkcs8", format: "der" });
  return { certPem: certPem.trimEnd() + "\n", privateKey: new Redacted(new Uint8Array(der)) };
}
