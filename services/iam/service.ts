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
import { Authorities, type AuthorityOptions, certificateService } from "./authorities.ts";
import { accessKeyService } from "./access_keys.ts";
import { auditService, AuditTrail } from "./audit.ts";
import { MasterKeys, masterKeyService } from "./master_keys.ts";
import { signingKeyService } from "./signing_keys.ts";
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

/** How late a key may be retired. */
const retireEveryMs = 500;

export interface IamOptions extends TokenOptions, AuthorityOptions {
  readonly secrets: Secrets;
  readonly keysMaxAgeMs: number;
  /** Where the next master key appears; absent means it never does. */
  readonly masterKeyNextFile?: string | undefined;
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
  /** Gets a record of every changing call. */
  readonly trail: AuditTrail;
  readonly tokens: TokenMaker;
  readonly masterKeys: MasterKeys;
  /** Seeds the keyring and follows policy until the signal aborts. Before its first success calls are unavailable. */
  run(signal: AbortSignal): Promise<void>;
}

/** Identity, tokens and authorisation over a platform. Any number of replicas share one store. Nothing starts by itself. */
export function createIam(options: IamOptions, deps: IamDeps): Iam {
  const { platform, trust, clock, health } = deps;
  const { secrets } = options;
  const sealer = new Sealer(secrets.masterKey, deps.rng);
  const keyring = new Keyring(options, { platform, sealer, clock });
  const masterKeys = new MasterKeys({ nextFile: options.masterKeyNextFile }, { ...deps, sealer });
  const policy = new PolicyStore(options, { ...deps, keyring, masterKeys });
  const trail = new AuditTrail(deps);
  const tokens = new TokenMaker(options, { ...deps, keyring });
  const authorizer = createAuthorizer({ trust, policy, clock });
  const access = new Access({ policy, trust, authorizer });
  const authorities = new Authorities(options, { ...deps, sealer, access });
  const core: Core = { ...deps, policy, access, tokens, sealer };
  const by = logins(core, { adminToken: secrets.adminToken, trail });
  const authenticator = createAuthenticator({ audience: deps.signer.id }, { trust, policy, clock });
  const clients = oauthClients({ platform, logins: by });
  /** Old keys leave the policy when their time is over, whoever notices first. */
  const retireKeys = async (signal: AbortSignal) => {
    while (!signal.aborted) {
      await clock.sleep(retireEveryMs, signal).catch(() => {});
      try {
        if (await keyring.retire()) await policy.refresh();
      } catch (error) {
        if (!signal.aborted) deps.log.debug("cannot retire keys yet", { error });
      }
    }
  };
  return {
    services: [
      orgService(core),
      projectService(core),
      userService(core, by),
      serviceAccountService(core),
      roleService(core),
      groupService(core),
      boundaryService(core),
      accessKeyService(core),
      signingKeyService({ keyring, policy }),
      masterKeyService(masterKeys),
      certificateService(authorities),
      auditService(trail),
      oauthClientService(core),
      federationService(core),
      tokenService(core, by),
      authorizeService(core),
      policyService(core),
      platform.eventService(views),
    ],
    authenticator,
    authorizer,
    http: oauthRoutes({ core, issuer: options.issuer, logins: by, clients, authenticator }, options),
    policy,
    trail,
    tokens,
    masterKeys,
    async run(signal) {
      const prepare = async () => void await keyring.seed(secrets.signingKey);
      await Promise.all([
        superviseStore(platform.kv, { health, clock }, signal),
        policy.follow(prepare, signal),
        masterKeys.run(signal),
        trail.run(signal),
        retireKeys(signal),
      ]);
    },
  };
}
