import type { JWK } from "jose";
import { z } from "zod";
import { permissionMatches, scopeChain } from "./permission.ts";

const jwkSchema = z.custom<JWK>((value) => typeof value === "object" && value !== null && "kty" in value);

export const policySnapshotSchema = z.strictObject({
  version: z.number().int().nonnegative(),
  issuedAtMs: z.number(),
  /** `iss` of user tokens. */
  issuer: z.string(),
  /** Public keys user tokens are verified with, each with its `kid`. */
  keys: z.array(jwkSchema),
  roles: z.array(z.strictObject({ name: z.string(), org: z.string(), permissions: z.array(z.string()) })),
  bindings: z.array(
    z.strictObject({ id: z.string(), principal: z.string(), role: z.string(), scope: z.string(), deny: z.boolean() }),
  ),
  /** Tokens of the principal issued before this moment are refused. */
  revokedBefore: z.record(z.string(), z.number()),
});

/** Everything a service needs to decide about users by itself, as of one version. */
export type PolicySnapshot = z.infer<typeof policySnapshotSchema>;
export type PolicyBinding = PolicySnapshot["bindings"][number];

/** Roles every cluster has. */
export const builtinRoles: Readonly<Record<string, readonly string[]>> = {
  admin: ["*.*.*"],
  operator: ["*.*.get", "*.*.list", "*.vm.*", "*.node.*", "*.image.*", "*.operation.*", "*.event.watch", "*.console.*"],
  editor: [
    "*.*.get",
    "*.*.list",
    "prismnet.*.*",
    "plasmavmc.vm.*",
    "plasmavmc.image.*",
    "plasmavmc.console.*",
    "*.operation.*",
    "*.event.watch",
    "iam.service_account.*",
    "iam.api_key.*",
  ],
  viewer: ["*.*.get", "*.*.list", "*.operation.wait", "*.event.watch"],
  auditor: ["*.*.get", "*.*.list", "*.audit.*", "*.event.watch", "iam.decision.explain"],
};

/** True for the name of a role every cluster has; custom roles may not take it. */
export function isBuiltinRole(name: string): boolean {
  return Object.hasOwn(builtinRoles, name);
}

export interface Evaluation {
  readonly allow: boolean;
  /** False when the principal has nothing at the scope or above: then the answer must not show that it exists. */
  readonly visible: boolean;
  readonly bindingId?: string;
  readonly reason: string;
}

/** A binding with what its role allows or denies. */
export interface IndexedBinding {
  readonly binding: PolicyBinding;
  readonly permissions: readonly string[];
}

/** A snapshot arranged for decisions: principal, then scope. */
export class PolicyIndex {
  readonly snapshot: PolicySnapshot;
  readonly #byPrincipal = new Map<string, Map<string, IndexedBinding[]>>();

  constructor(snapshot: PolicySnapshot) {
    this.snapshot = snapshot;
    const custom = new Map(snapshot.roles.map((role) => [`${role.org}/${role.name}`, role.permissions]));
    for (const binding of snapshot.bindings) {
      // A role name means the organisation's own role first: built-in names are reserved, so the two never meet.
      const org = binding.scope.split("/")[0]!;
      const permissions = isBuiltinRole(binding.role)
        ? builtinRoles[binding.role]!
        : custom.get(`${org}/${binding.role}`) ?? [];
      let scopes = this.#byPrincipal.get(binding.principal);
      if (!scopes) this.#byPrincipal.set(binding.principal, scopes = new Map());
      const list = scopes.get(binding.scope);
      if (list) list.push({ binding, permissions });
      else scopes.set(binding.scope, [{ binding, permissions }]);
    }
  }

  /** Bindings of the principal, at every scope. */
  bindingsOf(principal: string): PolicyBinding[] {
    return this.grantsOf(principal).map((indexed) => indexed.binding);
  }

  /** Bindings of the principal with the permissions of their roles, at every scope. */
  grantsOf(principal: string): IndexedBinding[] {
    return [...this.#byPrincipal.get(principal)?.values() ?? []].flat();
  }

  /** Decides. A deny that matches wins; else an allow at the scope or above; else no. */
  evaluate(principal: string, permission: string, scope: string): Evaluation {
    const scopes = this.#byPrincipal.get(principal);
    let allowed: PolicyBinding | undefined;
    let visible = scope === "";
    if (scopes) {
      for (const at of scopeChain(scope)) {
        for (const { binding, permissions } of scopes.get(at) ?? []) {
          if (!binding.deny) visible = true;
          if (!permissions.some((pattern) => permissionMatches(pattern, permission))) continue;
          if (binding.deny) {
            return {
              allow: false,
              visible: true,
              bindingId: binding.id,
              reason: `Denied by the binding ${binding.id} (${binding.role})`,
            };
          }
          allowed ??= binding;
        }
      }
    }
    if (allowed) {
      return {
        allow: true,
        visible: true,
        bindingId: allowed.id,
        reason: `Allowed by the binding ${allowed.id} (${allowed.role})`,
      };
    }
    return {
      allow: false,
      visible,
      reason: `No binding of ${principal} allows ${permission} at ${scope === "" ? "the root" : scope}`,
    };
  }
}
