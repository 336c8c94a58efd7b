import { type Clock, fault, fileStamp } from "@ultracloud/base";
import { exportJWK, generateKeyPair, importJWK, type JWK } from "jose";
import { z } from "zod";
import { isKeyGrantScope, isKeyScope } from "./key_scope.ts";
import { permissionMatches, scopeCovers } from "./permission.ts";

const grantSchema = z.strictObject({
  permission: z.string(),
  scope: z.string().refine((scope) => !isKeyScope(scope) || isKeyGrantScope(scope), {
    error: "must name keys as key:NAME, key:PREFIX*, key:FROM,TO or key:FROM, with other bytes as %XX",
  }),
});

/** Public keys and grants of the cluster's own components: what the stores go by, as iam itself lives in them. */
export const trustSchema = z.strictObject({
  clusterId: z.string().min(1),
  principals: z.record(
    z.string().startsWith("spiffe://"),
    z.strictObject({
      publicKey: z.custom<JWK>((value) => typeof value === "object" && value !== null && (value as JWK).kty === "OKP"),
      grants: z.array(grantSchema),
      /** Node whose enrolment brought it: the deployer takes it out with the node. */
      node: z.string().optional(),
    }),
  ),
  /** Grows with every change that the deployer makes; absent in a file that somebody wrote by hand. */
  revision: z.number().int().min(0).optional(),
});

export type TrustFile = z.infer<typeof trustSchema>;
export type Grant = z.infer<typeof grantSchema>;
export type VerifyKey = Awaited<ReturnType<typeof importJWK>>;

/** SPIFFE id of a component of the cluster. */
export function svcId(clusterId: string, name: string): string {
  return `spiffe://${clusterId}/svc/${name}`;
}

/** SPIFFE id of a component of one node, with a key of its own. */
export function nodeSvcId(clusterId: string, name: string, node: string): string {
  return `${svcId(clusterId, name)}/${node}`;
}

/** The file's time is looked at no more often than this: well below the two seconds that a revocation may take. */
const recheckMs = 500;

interface Loaded {
  readonly file: TrustFile;
  readonly keys: ReadonlyMap<string, VerifyKey>;
}

/** The trust file, read again when it changes; a file that no longer parses leaves the last good one in force. */
export class TrustStore {
  readonly #path: string;
  readonly #clock: Clock;
  #loaded: Loaded;
  #stamp: string;
  #checkedMs: number;
  /** Counts replacements, so that caches of verified tokens know. */
  generation = 0;

  constructor(path: string, clock: Clock, loaded: Loaded, stamp: string) {
    this.#path = path;
    this.#clock = clock;
    this.#loaded = loaded;
    this.#stamp = stamp;
    this.#checkedMs = clock.monotonicMs();
  }

  get clusterId(): string {
    return this.#loaded.file.clusterId;
  }

  /** What is in force now. */
  get file(): TrustFile {
    return this.#loaded.file;
  }

  /** Key of a principal; undefined when it is not trusted. */
  key(id: string): VerifyKey | undefined {
    return this.#loaded.keys.get(id);
  }

  /** True when the principal is granted the permission at the scope. */
  granted(id: string, permission: string, scope: string): boolean {
    const principal = this.#loaded.file.principals[id];
    return principal !== undefined &&
      principal.grants.some((grant) =>
        permissionMatches(grant.permission, permission) && scopeCovers(grant.scope, scope)
      );
  }

  /** Reads the file again when it changed; at most twice a second. Call it where a wait does not matter. */
  async refresh(): Promise<void> {
    if (!this.#isDue()) return;
    try {
      await this.#readAt(fileStamp(await Deno.stat(this.#path)));
    } catch {
      // Being replaced, or broken: the last good one stays.
    }
  }

  /** The same for answers from memory, without a wait: a change counts for one of the next calls. */
  refreshSoon(): void {
    if (!this.#isDue()) return;
    try {
      const stamp = fileStamp(Deno.statSync(this.#path));
      if (stamp !== this.#stamp) void this.#readAt(stamp).catch(() => {});
    } catch {
      // Being replaced.
    }
  }

  #isDue(): boolean {
    const now = this.#clock.monotonicMs();
    if (now - this.#checkedMs < recheckMs) return false;
    this.#checkedMs = now;
    return true;
  }

  async #readAt(stamp: string): Promise<void> {
    if (stamp === this.#stamp) return;
    this.#loaded = await read(this.#path);
    this.#stamp = stamp;
    this.generation++;
  }
}

async function read(path: string): Promise<Loaded> {
  let json: unknown;
  try {
    json = JSON.parse(await Deno.readTextFile(path));
  } catch (cause) {
    throw fault("failed_precondition", "trust_unreadable", `Cannot read the trust file ${path}`, { cause });
  }
  const parsed = trustSchema.safeParse(json);
  if (!parsed.success) {
    throw fault(
      "failed_precondition",
      "trust_invalid",
      `Cannot use the trust file ${path}: ${z.prettifyError(parsed.error)}`,
    );
  }
  const keys = new Map<string, VerifyKey>();
  for (const [id, { publicKey }] of Object.entries(parsed.data.principals)) {
    const { kty, crv, x } = publicKey;
    keys.set(id, await importJWK({ kty: kty!, crv: crv!, x: x! }, "EdDSA"));
  }
  return { file: parsed.data, keys };
}

/** Reads the trust file; failed_precondition when it is missing or wrong. */
export async function loadTrust(path: string, deps: { readonly clock: Clock }): Promise<TrustStore> {
  let stamp = "";
  try {
    // Before it is read: what changes in between is read again.
    stamp = fileStamp(await Deno.stat(path));
  } catch {
    // Reading says what is wrong.
  }
  return new TrustStore(path, deps.clock, await read(path), stamp);
}

/** A new Ed25519 identity. The private half belongs in a file of mode 0600, the public half in the trust file. */
export async function generateIdentity(): Promise<{ publicKey: JWK; privateKey: JWK }> {
  const pair = await generateKeyPair("EdDSA", { crv: "Ed25519", extractable: true });
  return { publicKey: await exportJWK(pair.publicKey), privateKey: await exportJWK(pair.privateKey) };
}
