import { type Clock, fault } from "@ultracloud/base";
import { importJWK, type JWK, SignJWT } from "jose";
import { svcId } from "./trust.ts";

/** Life of a workload token: long enough for clock skew, too short to be worth stealing. */
export const workloadTokenTtlMs = 60_000;
/** Header `typ` of a workload token; user tokens are `at+jwt`, so neither passes for the other. */
export const workloadTokenTyp = "wl+jwt";

/** Signs a component's own tokens. */
export interface WorkloadSigner {
  /** SPIFFE id of the signer. */
  readonly id: string;
  /** The `authorization` header for calls to a component, renewed when two thirds of its life are over. */
  authorization(callee: string): () => Promise<string>;
  /** Compact JWS over `payload` with the signer's key; `typ` tells what it is. */
  sign(payload: Record<string, unknown>, typ: string): Promise<string>;
}

/**
 * A signer over the private JWK in `keyFile`; failed_precondition when it cannot be read. A key that a node made for
 * itself says so: its `kid` is the SPIFFE id of the component there, `spiffe://<cluster>/svc/<name>/<node>`, and that
 * is who signs.
 */
export async function createWorkloadSigner(
  options: {
    readonly clusterId: string;
    readonly name: string;
    readonly keyFile: string;
    /** When it is not that of the component: a node's. */
    readonly id?: string;
  },
  deps: { readonly clock: Clock },
): Promise<WorkloadSigner> {
  const { clock } = deps;
  let key: Awaited<ReturnType<typeof importJWK>>;
  let jwk: JWK;
  try {
    jwk = JSON.parse(await Deno.readTextFile(options.keyFile));
    key = await importJWK(jwk, "EdDSA");
  } catch (cause) {
    throw fault(
      "failed_precondition",
      "identity_unreadable",
      `Cannot read the identity key ${options.keyFile}: wanted a private Ed25519 JWK`,
      {
        cause,
      },
    );
  }
  const role = options.id ?? svcId(options.clusterId, options.name);
  const id = jwk.kid?.startsWith(`${role}/`) ? jwk.kid : role;
  const held = new Map<string, { readonly header: Promise<string>; readonly renewAtMs: number }>();
  const make = async (audience: string, nowMs: number) => {
    const token = await new SignJWT({})
      .setProtectedHeader({ alg: "EdDSA", typ: workloadTokenTyp })
      .setIssuer(id)
      .setSubject(id)
      .setAudience(audience)
      .setIssuedAt(Math.floor(nowMs / 1000))
      .setExpirationTime(Math.floor((nowMs + workloadTokenTtlMs) / 1000))
      .sign(key);
    return `Bearer ${token}`;
  };
  return {
    id,
    authorization(callee) {
      const audience = svcId(options.clusterId, callee);
      return () => {
        const nowMs = clock.nowMs();
        let entry = held.get(audience);
        // A clock that stepped back makes a held token look far from its renewal: then it is renewed too.
        if (!entry || nowMs >= entry.renewAtMs || entry.renewAtMs - nowMs > workloadTokenTtlMs) {
          entry = { header: make(audience, nowMs), renewAtMs: nowMs + workloadTokenTtlMs * 2 / 3 };
          held.set(audience, entry);
        }
        return entry.header;
      };
    },
    sign: (payload, typ) => new SignJWT(payload).setProtectedHeader({ alg: "EdDSA", typ }).setIssuer(id).sign(key),
  };
}
