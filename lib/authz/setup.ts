import type { Clock, Rng } from "@ultracloud/base";
import type { BaseConfig } from "@ultracloud/config";
import type { Health, Logger } from "@ultracloud/observe";
import type { Authenticator, Authorizer } from "@ultracloud/rpc";
import { createAuthenticator } from "./authenticator.ts";
import { createAuthorizer } from "./authorizer.ts";
import { openPolicyClient } from "./policy_client.ts";
import type { PolicyView } from "./policy_view.ts";
import { loadTrust, svcId, type TrustStore } from "./trust.ts";
import { createWorkloadSigner, type WorkloadSigner } from "./workload.ts";

/** The part of a component's boot that authentication needs. */
export interface AuthBoot {
  readonly config: BaseConfig;
  readonly log: Logger;
  readonly health: Health;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly stack: AsyncDisposableStack;
}

export interface Auth {
  readonly trust: TrustStore;
  readonly signer: WorkloadSigner;
  readonly authenticator: Authenticator;
  readonly authorizer: Authorizer;
  readonly policy?: PolicyView;
}

/**
 * Everything a component needs to know who calls and to say who it is. Without `policy` only the cluster's own
 * components are let in, by the trust file.
 */
export async function setupAuth(
  boot: AuthBoot,
  options: {
    /** Component name. */ readonly name: string;
    readonly policy?: { readonly endpoints: readonly string[] };
  },
): Promise<Auth> {
  const { config, clock } = boot;
  const trust = await loadTrust(config.trustFile, { clock });
  const signer = await createWorkloadSigner({
    clusterId: config.clusterId,
    name: options.name,
    keyFile: config.identityKeyFile,
  }, { clock });
  const policy = options.policy &&
    boot.stack.use(
      await openPolicyClient({
        endpoints: options.policy.endpoints,
        tls: config.rpc.tls,
        file: `${config.stateDir}/policy.jws`,
      }, { ...boot, signer, trust }),
    );
  const view = policy ? { policy } : {};
  return {
    trust,
    signer,
    authenticator: createAuthenticator({ audience: svcId(config.clusterId, options.name) }, { trust, clock, ...view }),
    authorizer: createAuthorizer({ trust, clock, ...view }),
    ...view,
  };
}
