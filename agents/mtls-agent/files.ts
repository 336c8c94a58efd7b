import { createPrivateKey, X509Certificate } from "node:crypto";

/** Certificate, key and authorities of one identity, as components read them. */
export interface TlsSet {
  readonly certPem: string;
  readonly keyPem: string;
  readonly caPem: string;
}

/** A set on disk. */
export interface HeldSet extends TlsSet {
  /** When its certificate was written. */
  readonly obtainedMs: number;
}

/** Where a set is. */
export interface TlsPlace {
  readonly dir: string;
  /** Name of the file with the authorities. */
  readonly authoritiesFile: string;
}

const pathsOf = ({ dir, authoritiesFile }: TlsPlace) => ({
  certPem: `${dir}/tls.crt`,
  keyPem: `${dir}/tls.key`,
  caPem: `${dir}/${authoritiesFile}`,
});

/** The set that is in force; undefined when a part is missing or, after a kill in between, key and certificate differ. */
export async function readSet(place: TlsPlace): Promise<HeldSet | undefined> {
  const paths = pathsOf(place);
  try {
    const [certPem, keyPem, caPem] = await Promise.all(
      [paths.certPem, paths.keyPem, paths.caPem].map((path) => Deno.readTextFile(path)),
    );
    const obtainedMs = (await Deno.stat(paths.certPem)).mtime?.getTime() ?? 0;
    return fits(certPem!, keyPem!) ? { certPem: certPem!, keyPem: keyPem!, caPem: caPem!, obtainedMs } : undefined;
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
export async function writeSet(place: TlsPlace, set: TlsSet): Promise<void> {
  const paths = pathsOf(place);
  await Deno.mkdir(place.dir, { recursive: true, mode: 0o700 });
  const parts = ["caPem", "keyPem", "certPem"] as const;
  for (const part of parts) {
    const file = `${paths[part]}.new`;
    await Deno.remove(file).catch(() => {});
    await Deno.writeTextFile(file, set[part], { mode: part === "keyPem" ? 0o600 : 0o644, createNew: true });
    await giveToOwner(place.dir, file);
  }
  for (const part of parts) await Deno.rename(`${paths[part]}.new`, paths[part]);
}

/** Where each component is a user of its own its directory says who reads the key; only root may give files away. */
async function giveToOwner(dir: string, file: string): Promise<void> {
  const [owner, own] = [await Deno.stat(dir), await Deno.stat(file)];
  if (owner.uid !== own.uid) await Deno.chown(file, owner.uid, owner.gid);
}

/** Replaces the authorities alone. */
export async function writeAuthorities(place: TlsPlace, caPem: string): Promise<void> {
  const { caPem: path } = pathsOf(place);
  await Deno.writeTextFile(`${path}.new`, caPem);
  await giveToOwner(place.dir, `${path}.new`);
  await Deno.rename(`${path}.new`, path);
}

/** The certificates in a file of authorities; empty while the file is absent. */
export async function readAuthorities(file: string | undefined): Promise<string> {
  if (file === undefined) return "";
  try {
    const text = await Deno.readTextFile(file);
    const pems = pemsOf(text);
    // A word of nonsense in a bundle would take the trust in all others with it.
    for (const pem of pems) new X509Certificate(pem);
    if (pems.length === 0) throw new Error("wanted certificates in PEM");
    return pems.map((pem) => `${pem}\n`).join("");
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw new Error(`Cannot read the authorities in ${file}`, { cause: error });
  }
}

/** The bundle with the certificates of another one that it lacks. */
export function joinAuthorities(bundle: string, more: string): string {
  const held = new Set(pemsOf(bundle));
  return bundle + pemsOf(more).filter((pem) => !held.has(pem)).map((pem) => `${pem}\n`).join("");
}

function pemsOf(text: string): string[] {
  return text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
}
