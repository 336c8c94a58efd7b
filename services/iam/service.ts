import { createAuthenticator, createAuthorizer, type TrustStore, type WorkloadSigner } from "@ultracloud/authz";
import type { Clock, Rng } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import { type Platform, superviseStore } from "@ultracloud/platform";
import type { Authenticator, Authorizer, BoundService } from "@ultracloud/rpc";
import { Access } from "./access.ts";
import { authorizeService, policyService } from "./authorize.ts";
import type { Secrets } from "./bootstrap.ts";
import type { Core } from "./core.ts";
import { Keyring } from "./keyring.ts";
import { logins } from "./logins.ts";
import { oauthClients } from "./oauth/clients.ts";
import { oauthRoutes } from "./oauth/routes.ts";
import { boundaryService } from "./boundaries.ts";
import { groupService } from "./groups.ts";
import { federationService } from "./federations.ts";
import { oauthClientService } from "./oauth_clients.ts";
import { orgService } from "./orgs.ts";
import { PolicyStore } from "./policy_store.ts";
import { projectService } from "./projects.ts";
import { roleService } from "./roles.ts";
import { Sealer } from "./seal.ts";
import { serviceAccountService } from "./service_accounts.ts";
import { tokenService } from "./token_service.ts";
import { TokenMaker, type TokenOptions } from "./tokens.ts";
import { userService } from "./users.ts";
import { views } from "./wire.ts";

/** New signing keys are in the published set this long before they are used. */
export const keysMaxAgeMs = 300_000;

export interface IamOptions extends TokenOptions {
  readonly secrets: Secrets;
}

export interface IamDeps {
  readonly platform: Platform;
  readonly trust: TrustStore;
  /** iam's own identity: signs policy snapshots. */
  readonly signer: WorkloadSigner;
  readonly health: Health;
  readonly log: Logger;
  readonly clock: Clock;
  readonly rng: Rng;
}

export interface Iam {
  readonly services: readonly BoundService[];
  readonly authenticator: Authenticator;
  readonly authorizer: Authorizer;
  /** Discovery, keys and token endpoint. */
  readonly http: (request: Request) => Response | Promise<Response> | undefined;
  readonly policy: PolicyStore;
  /** Seeds the keyring and follows policy until the signal aborts. Before its first success calls are unavailable. */
  run(signal: AbortSignal): Promise<void>;
}

/** Identity, tokens and authorisation over a platform. Any number of replicas share one store. Nothing starts by itself. */
export function createIam(options: IamOptions, deps: IamDeps): Iam {
  const { platform, trust, clock, health } = deps;
  const { secrets } = options;
  const sealer = new Sealer(secrets.masterKey, deps.rng);
  const keyring = new Keyring({ platform, sealer });
  const policy = new PolicyStore(options, { ...deps, keyring });
  const tokens = new TokenMaker(options, { ...deps, keyring });
  const authorizer = createAuthorizer({ trust, policy, clock });
  const access = new Access({ policy, trust, authorizer });
  const core: Core = { ...deps, policy, access, tokens, sealer };
  const by = logins(core, secrets);
  const authenticator = createAuthenticator({ audience: deps.signer.id }, { trust, policy, clock });
  const clients = oauthClients({ platform, logins: by });
  return {
    services: [
      orgService(core),
      projectService(core),
      userService(core),
      serviceAccountService(core),
      roleService(core),
      groupService(core),
      boundaryService(core),
      oauthClientService(core),
      federationService(core),
      tokenService(core, by),
      authorizeService(core),
      policyService(core),
      platform.eventService(views),
    ],
    authenticator,
    authorizer,
    http: oauthRoutes({ core, issuer: options.issuer, logins: by, clients, authenticator }, { keysMaxAgeMs }),
    policy,
    async run(signal) {
      const prepare = async () => void await keyring.seed(secrets.signingKey);
      await Promise.all([
        superviseStore(platform.kv, { health, clock }, signal),
        policy.follow(prepare, signal),
      ]);
    },
  };
}
