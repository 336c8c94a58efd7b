import { createPrivateKey, X509Certificate } from "node:crypto";

/** Certificate, key and authorities of one identity, as components read them. */
export interface TlsSet {
  readonly certPem: string;
  readonly keyPem: string;
  readonly caPem: string;
}

const names = { certPem: "tls.crt", keyPem: "tls.key", caPem: "ca.crt" } as const;

/** The set that is in force; undefined when a part is missing or, after a kill in between, key and certificate differ. */
export async function readSet(dir: string): Promise<TlsSet | undefined> {
  try {
    const [certPem, keyPem, caPem] = await Promise.all(
      [names.certPem, names.keyPem, names.caPem].map((name) => Deno.readTextFile(`${dir}/${name}`)),
    );
    return fits(certPem!, keyPem!) ? { certPem: certPem!, keyPem: keyPem!, caPem: caPem! } : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

function fits(certPem: string, keyPem: string): boolean {
  try {
    return new X509Certificate(certPem).checkPrivateKey(createPrivateKey(keyPem));
  } catch {
    return false;
  }
}

/**
 * Puts a set in force: all files are written first and then renamed at once. Whoever reads in that moment finds a key
 * that does not fit, keeps what it had and looks again.
 */
export async function writeSet(dir: string, set: TlsSet): Promise<void> {
  await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
  const parts = ["caPem", "keyPem", "certPem"] as const;
  for (const part of parts) {
    const file = `${dir}/${names[part]}.new`;
    await Deno.remove(file).catch(() => {});
    await Deno.writeTextFile(file, set[part], { mode: part === "keyPem" ? 0o600 : 0o644, createNew: true });
  }
  for (const part of parts) await Deno.rename(`${dir}/${names[part]}.new`, `${dir}/${names[part]}`);
}
