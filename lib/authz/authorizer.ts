import type { Authorizer } from "@ultracloud/rpc";
import { type Clock, fault, systemClock } from "@ultracloud/base";
import type { PolicyView } from "./policy_view.ts";
import type { TrustStore } from "./trust.ts";

/** Decides by trust grants for workloads and by the policy snapshot for users and service accounts. */
export function createAuthorizer(
  deps: { readonly trust: TrustStore; readonly policy?: PolicyView; readonly clock?: Clock },
): Authorizer {
  const { trust, policy, clock = systemClock } = deps;
  const now = () => ({ nowMs: clock.nowMs() });
  return {
    authorize(principal, permission, scope, mutating) {
      switch (principal.kind) {
        case "anonymous":
          return { allow: false, visible: true, reason: "Nobody is logged in" };
        case "workload": {
          if (trust.granted(principal.id, permission, scope)) return { allow: true };
          // A binding may name a component too: what one organisation lends it, beyond what the cluster grants.
          const lent = policy?.index()?.evaluate(principal.id, permission, scope, now());
          if (lent?.allow && !(mutating && policy!.stale())) return { allow: true };
          return { allow: false, visible: true, reason: `${principal.id} has no grant for ${permission}` };
        }
        case "user":
        case "service_account": {
          const index = policy?.index();
          if (!policy || !index) {
            throw fault("unavailable", "policy_missing", "Cannot decide yet: no policy has come from iam");
          }
          if (mutating && policy.stale()) {
            throw fault(
              "unavailable",
              "policy_stale",
              "Cannot change anything now: iam has not been heard for too long",
              { retryAfterMs: 1_000 },
            );
          }
          return index.evaluate(principal.id, permission, scope, now());
        }
      }
    },
  };
}
