import { generateIdentity } from "@ultracloud/authz";
import { fault, Redacted, type Rng } from "@ultracloud/base";
import { readSecret } from "@ultracloud/config";
import type { Logger } from "@ultracloud/observe";
import type { JWK } from "jose";
import { parseSigningKey } from "./keyring.ts";
import { newSecret, parseMasterKey } from "./seal.ts";

/** The secrets iam cannot do without. */
export interface Secrets {
  readonly adminToken: Redacted<string>;
  readonly signingKey: Redacted<JWK>;
  readonly masterKey: Redacted<Uint8Array>;
}

export interface SecretSources {
  readonly mode: "dev" | "production";
  readonly stateDir: string;
  readonly adminTokenFile?: string | undefined;
  readonly signingKeyFile?: string | undefined;
  readonly masterKeyFile?: string | undefined;
  readonly env: (name: "IAM_CRED_MASTER_KEY" | "IAM_CRED_MASTER_KEY_FILE") => string | undefined;
}

/** Shorter ones can be guessed: nothing slows a stranger down who tries. */
export const adminTokenCharsMin = 32;

/**
 * The secrets, from where the operator put them. In production a missing one ends the start, and all missing ones are
 * named at once; in dev they are made in the state directory, mode 0600, and found there the next time.
 */
export async function loadSecrets(
  o: SecretSources,
  deps: { readonly rng: Rng; readonly log: Logger },
): Promise<Secrets> {
  const masterKey = o.env("IAM_CRED_MASTER_KEY");
  const masterKeyFile = o.env("IAM_CRED_MASTER_KEY_FILE") || o.masterKeyFile;
  const missing: string[] = [];
  if (o.adminTokenFile === undefined) missing.push("an admin token (adminTokenFile)");
  if (o.signingKeyFile === undefined) missing.push("a signing key (signingKeyFile)");
  if (!masterKey && !masterKeyFile) {
    missing.push("a 32-byte master key (IAM_CRED_MASTER_KEY, IAM_CRED_MASTER_KEY_FILE or masterKeyFile)");
  }
  if (o.mode === "production" && missing.length > 0) {
    throw fault("failed_precondition", "secrets_missing", `Cannot start in production without ${missing.join(", ")}`);
  }
  const read = async (file: string) => {
    await requirePrivate(file);
    return await readSecret(file);
  };
  const made = async (name: string, make: () => string | Promise<string>) => {
    const file = `${o.stateDir}/${name}`;
    try {
      await Deno.writeTextFile(file, await make(), { mode: 0o600, createNew: true });
      deps.log.info("made a secret for development", { file });
    } catch (error) {
      if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    }
    return await read(file);
  };

  const adminToken = o.adminTokenFile === undefined
    ? await made("admin.token", () => newSecret(deps.rng))
    : await read(o.adminTokenFile);
  if (adminToken.expose().length < adminTokenCharsMin) {
    throw fault(
      "failed_precondition",
      "admin_token_short",
      `Cannot use an admin token of ${adminToken.expose().length} characters: wanted at least ${adminTokenCharsMin}`,
    );
  }
  const signingKey = o.signingKeyFile === undefined
    ? await made("signing.key", async () => JSON.stringify((await generateIdentity()).privateKey))
    : await read(o.signingKeyFile);
  const master = masterKey ? parseMasterKey(masterKey, "IAM_CRED_MASTER_KEY") : parseMasterKey(
    (masterKeyFile ? await read(masterKeyFile) : await made("master.key", () => newSecret(deps.rng))).expose(),
    masterKeyFile ?? "the master key of the state directory",
  );
  return {
    adminToken,
    signingKey: new Redacted(parseSigningKey(signingKey.expose(), o.signingKeyFile ?? "the signing key")),
    masterKey: master,
  };
}

/** A secret that others can read is none. A file that is not there is told by whoever reads it. */
export async function requirePrivate(file: string): Promise<void> {
  const mode = (await Deno.stat(file).catch(() => undefined))?.mode;
  if (mode === undefined || mode === null || (mode & 0o077) === 0) return;
  throw fault(
    "failed_precondition",
    "secret_exposed",
    `Cannot use ${file} of mode ${(mode & 0o777).toString(8)}: wanted one that only its owner can read`,
  );
}
