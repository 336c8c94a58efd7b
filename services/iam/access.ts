import { type Authorizer, type Principal } from "@ultracloud/rpc";
import type { TrustStore } from "@ultracloud/authz";
import { fault } from "@ultracloud/base";
import { holds } from "./holding.ts";
import type { PolicyStore } from "./policy_store.ts";

/** Questions handlers ask beyond their row in the authorisation table. */
export class Access {
  readonly #policy: PolicyStore;
  readonly #trust: TrustStore;
  readonly #authorizer: Authorizer;

  constructor(
    deps: { readonly policy: PolicyStore; readonly trust: TrustStore; readonly authorizer: Authorizer },
  ) {
    this.#policy = deps.policy;
    this.#trust = deps.trust;
    this.#authorizer = deps.authorizer;
  }

  async allowed(principal: Principal, permission: string, scope: string): Promise<boolean> {
    return (await this.#authorizer.authorize(principal, permission, scope, false)).allow;
  }

  /** Everything bound to the principal, as it is now. */
  async grantsOf(principal: string) {
    await this.#policy.refresh();
    return this.#policy.present().grantsOf(principal);
  }

  /** Refuses to let a caller give away, or take a share in, what it does not hold itself (permission_denied). */
  async requireHeld(principal: Principal, permissions: readonly string[], scope: string): Promise<void> {
    const grants = (await this.grantsOf(principal.id)).map(({ binding, permissions }) => ({
      scope: binding.scope,
      deny: binding.deny,
      permissions,
    }));
    for (const pattern of permissions) {
      if (holds(grants, pattern, scope)) continue;
      if (principal.kind === "workload" && this.#trust.granted(principal.id, pattern, scope)) continue;
      throw fault(
        "permission_denied",
        "escalation_refused",
        `Cannot give ${pattern} at ${scope === "" ? "the root" : scope}: wanted a caller who holds it there`,
        { metadata: { permission: pattern } },
      );
    }
  }

  /** As `requireHeld` for all that another principal is allowed, where `near` says so. */
  async requireAllOf(
    caller: Principal,
    other: string,
    near: (scope: string) => boolean = () => true,
  ): Promise<void> {
    for (const { binding, permissions } of await this.grantsOf(other)) {
      if (!binding.deny && near(binding.scope)) await this.requireHeld(caller, permissions, binding.scope);
    }
  }
}
