import { type Authorizer, type Principal } from "@ultracloud/rpc";
import { permissionMatches, type TrustStore } from "@ultracloud/authz";
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
    // What depends on a condition may be gone in a moment: it can be used, not given away.
    const grants = (await this.grantsOf(principal.id)).filter(({ binding }) =>
      binding.deny || !binding.conditions?.length
    )
      .map(({ binding, permissions }) => ({ scope: binding.scope, deny: binding.deny, permissions }));
    const boundary = this.#policy.present().boundaryOf(principal.id);
    for (const pattern of permissions) {
      const bounded = boundary !== undefined && !boundary.some((most) => permissionMatches(most, pattern));
      if (!bounded && holds(grants, pattern, scope)) continue;
      if (principal.kind === "workload" && this.#trust.granted(principal.id, pattern, scope)) continue;
      throw fault(
        "permission_denied",
        "escalation_refused",
        `Cannot give ${pattern} at ${scope === "" ? "the root" : scope}: wanted a caller who holds it there`,
        { metadata: { permission: pattern } },
      );
    }
  }

  /** As `requireHeld` for all that another principal is allowed, and with `denies` denied, where `near` says so. */
  async requireAllOf(
    caller: Principal,
    other: string,
    o: { readonly near?: (scope: string) => boolean; readonly denies?: boolean } = {},
  ): Promise<void> {
    for (const { binding, permissions } of await this.grantsOf(other)) {
      if (binding.deny && !o.denies) continue;
      if (o.near?.(binding.scope) ?? true) await this.requireHeld(caller, permissions, binding.scope);
    }
  }
}
