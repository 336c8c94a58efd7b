import { backoffMs, type Clock, fault, type Rng } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import type { Health, Logger } from "@ultracloud/observe";
import { PolicyService } from "@ultracloud/proto/iam/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { compactVerify, importJWK } from "jose";
import { PolicyIndex, type PolicySnapshot, policySnapshotSchema } from "./policy.ts";
import type { PolicyView } from "./policy_view.ts";
import { svcId, type TrustStore, type VerifyKey } from "./trust.ts";
import type { WorkloadSigner } from "./workload.ts";

/** After this long without iam, mutations by users are refused (DECISIONS: policyStaleMsMax). */
export const policyStaleMsMax = 60_000;
/** iam answers a long poll after this at the latest: a dead connection is noticed in twice that. */
const pollWaitMs = 10_000;
/** Header `typ` of a signed snapshot. */
export const policySnapshotTyp = "policy+jws";
const backoff = { baseMs: 50, maxMs: 2_000, tries: Number.MAX_SAFE_INTEGER };

export interface PolicyClientOptions {
  readonly endpoints: readonly string[];
  readonly tls?: TlsFiles | undefined;
  /** Kept here, so that a restart decides at once. */
  readonly file: string;
  readonly staleMsMax?: number;
}

interface Held {
  readonly index: PolicyIndex;
  readonly keys: ReadonlyMap<string, VerifyKey>;
}

/** The snapshot in a JWS of iam; unauthenticated when its signature or content is wrong. */
export async function readSnapshot(jws: string, trust: TrustStore): Promise<PolicySnapshot> {
  const key = trust.key(svcId(trust.clusterId, "iam"));
  if (!key) {
    throw fault(
      "unauthenticated",
      "policy_unsigned",
      "Cannot check a policy snapshot: the trust file has no key of iam",
    );
  }
  let payload: Uint8Array;
  try {
    const verified = await compactVerify(jws, key, { algorithms: ["EdDSA"] });
    if (verified.protectedHeader.typ !== policySnapshotTyp) throw new Error(`typ ${verified.protectedHeader.typ}`);
    payload = verified.payload;
  } catch (cause) {
    throw fault("unauthenticated", "policy_unsigned", "Cannot accept a policy snapshot: its signature is not iam's", {
      cause,
    });
  }
  // The claims of the signature itself (iss) stand beside the snapshot.
  const { snapshot } = JSON.parse(new TextDecoder().decode(payload)) as { snapshot: unknown };
  return policySnapshotSchema.parse(snapshot);
}

async function hold(snapshot: PolicySnapshot): Promise<Held> {
  const keys = new Map<string, VerifyKey>();
  for (const jwk of snapshot.keys) if (jwk.kid !== undefined) keys.set(jwk.kid, await importJWK(jwk, "EdDSA"));
  return { index: new PolicyIndex(snapshot), keys };
}

/** A view of a snapshot that never changes; for iam itself and for tests. */
export async function fixedPolicyView(snapshot: PolicySnapshot): Promise<PolicyView> {
  const held = await hold(snapshot);
  return { index: () => held.index, version: snapshot.version, key: (kid) => held.keys.get(kid), stale: () => false };
}

/**
 * Follows iam's policy by long poll. Starts from the snapshot on disk, which lets reads through until iam answers;
 * never throws while iam is away.
 */
export async function openPolicyClient(
  options: PolicyClientOptions,
  deps: { signer: WorkloadSigner; trust: TrustStore; clock: Clock; rng: Rng; log: Logger; health: Health },
): Promise<PolicyView & AsyncDisposable> {
  const { trust, clock, log, health } = deps;
  const staleMsMax = options.staleMsMax ?? policyStaleMsMax;
  const stop = new AbortController();
  let held: Held | undefined;
  let heardAtMs = -Infinity;
  try {
    held = await hold(await readSnapshot(await Deno.readTextFile(options.file), trust));
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) log.warn("policy snapshot on disk is not usable", { error });
  }
  health.set("policy", "starting", "no contact with iam yet");
  const client = createRpcClient(PolicyService, {
    endpoints: options.endpoints,
    tls: options.tls,
    authorization: deps.signer.authorization("iam"),
    timeoutMs: pollWaitMs * 2,
    retries: 0,
  });

  const poll = async () => {
    for (let failures = 0; !stop.signal.aborted;) {
      try {
        const first = heardAtMs === -Infinity;
        const answer = await client.getPolicySnapshot(
          { afterVersion: BigInt(first ? 0 : held?.index.snapshot.version ?? 0), waitMs: first ? 0 : pollWaitMs },
          { signal: stop.signal },
        );
        if (answer.snapshotJws !== "") {
          const snapshot = await readSnapshot(answer.snapshotJws, trust);
          // An older one would bring revoked tokens back, whoever plays it.
          if (snapshot.version >= (held?.index.snapshot.version ?? 0)) {
            const next = await hold(snapshot);
            await keep(options.file, answer.snapshotJws);
            held = next;
          } else throw fault("failed_precondition", "policy_older", "Cannot go back to an older policy snapshot");
        }
        heardAtMs = clock.monotonicMs();
        if (failures > 0 || first) health.set("policy", "ready");
        failures = 0;
      } catch (error) {
        if (stop.signal.aborted) return;
        failures++;
        await trust.refresh();
        if (failures === 3) {
          log.warn("iam does not answer the policy poll", { error });
          health.set("policy", held ? "degraded" : "starting", "iam does not answer");
        }
        await clock.sleep(backoffMs(backoff, Math.min(failures, 8), deps.rng), stop.signal).catch(() => {});
      }
    }
  };
  const polling = poll();
  return {
    index: () => held?.index,
    get version() {
      return held?.index.snapshot.version ?? 0;
    },
    key: (kid) => held?.keys.get(kid),
    stale: () => clock.monotonicMs() - heardAtMs > staleMsMax,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await polling;
    },
  };
}

async function keep(file: string, jws: string): Promise<void> {
  await Deno.writeTextFile(`${file}.new`, jws, { mode: 0o600 });
  await Deno.rename(`${file}.new`, file);
}
