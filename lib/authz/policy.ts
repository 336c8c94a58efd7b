import type { JWK } from "jose";
import { z } from "zod";
import { conditionSchema, conditionsHold, type DecisionContext } from "./conditions.ts";
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
    z.strictObject({
      id: z.string(),
      /** A user, a service account, a SPIFFE id, or "group:<id>". */
      principal: z.string(),
      role: z.string(),
      scope: z.string(),
      deny: z.boolean(),
      /** All must hold; absent means always. */
      conditions: z.array(conditionSchema).optional(),
    }),
  ),
  /** Members of each group, by "group:<id>". */
  groups: z.record(z.string(), z.array(z.string())).optional(),
  /** The most a principal may do, whatever it is bound to: its permission boundary. */
  boundaries: z.record(z.string(), z.array(z.string())).optional(),
  /** Tokens of the principal issued before this moment are refused. */
  revokedBefore: z.record(z.string(), z.number()),
  /** Tokens, logins and keys (`jti`, `sid`, `client_id`) that are refused, each with when it may be forgotten. */
  revokedIds: z.record(z.string(), z.number()).optional(),
});

/** Everything a service needs to decide about users by itself, as of one version. */
export type PolicySnapshot = z.infer<typeof policySnapshotSchema>;
export type PolicyBinding = PolicySnapshot["bindings"][number];

/** Roles every cluster has. */
export const builtinRoles: Readonly<Record<string, readonly string[]>> = {
  admin: ["*.*.*"],
  operator: [
    "*.*.get",
    "*.*.list",
    ...["vm", "node", "image", "volume", "snapshot", "migration", "flavor", "operation", "console"]
      .map((resource) => `*.${resource}.*`),
    "*.event.watch",
  ],
  editor: [
    "*.*.get",
    "*.*.list",
    // Address pools and hosts are the cluster's, whatever the scope of the binding.
    ...["vpc", "subnet", "port", "security_group", "network_acl", "router", "nat_gateway", "floating_ip", "peering"]
      .map((resource) => `prismnet.${resource}.*`),
    // Which worker a VM is on is the cluster's business: migrations are the operator's.
    ...[
      "vm",
      "image",
      "image_alias",
      "volume",
      "snapshot",
      "snapshot_schedule",
      "ssh_key",
      "placement_group",
      "console",
    ].map((resource) => `plasmavmc.${resource}.*`),
    "*.operation.*",
    "*.event.watch",
    "iam.service_account.*",
    "iam.api_key.*",
  ],
  viewer: ["*.*.get", "*.*.list", "*.operation.wait", "*.event.watch"],
  auditor: ["*.*.get", "*.*.list", "*.audit.*", "*.event.watch", "iam.decision.explain"],
};

/** Services that people call: each has the roles for itself alone, as in "plasmavmc.viewer". */
const roleServices = ["iam", "prismnet", "plasmavmc", "deployer", "fleetscheduler"] as const;

const rolesOfOneService: ReadonlyMap<string, readonly string[]> = new Map(
  roleServices.flatMap((service) =>
    Object.entries(builtinRoles).map(([role, permissions]) => {
      const own = permissions.map((p) => p.replace(/^\*\./, `${service}.`)).filter((p) => p.startsWith(`${service}.`));
      return [`${service}.${role}`, [...new Set(own)]] as const;
    })
  ),
);

/** What a role of every cluster allows, of all services or of one; undefined where the name is no such role's. */
export function builtinPermissions(role: string): readonly string[] | undefined {
  return Object.hasOwn(builtinRoles, role) ? builtinRoles[role] : rolesOfOneService.get(role);
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
  readonly #groupsOf = new Map<string, string[]>();
  readonly #boundaries: ReadonlyMap<string, readonly string[]>;

  constructor(snapshot: PolicySnapshot) {
    this.snapshot = snapshot;
    const custom = new Map(snapshot.roles.map((role) => [`${role.org}/${role.name}`, role.permissions]));
    for (const binding of snapshot.bindings) {
      // Built-in names are reserved, and names of one service's have a dot: they never meet an organisation's own.
      const org = binding.scope.split("/")[0]!;
      const permissions = builtinPermissions(binding.role) ?? custom.get(`${org}/${binding.role}`) ?? [];
      let scopes = this.#byPrincipal.get(binding.principal);
      if (!scopes) this.#byPrincipal.set(binding.principal, scopes = new Map());
      const list = scopes.get(binding.scope);
      if (list) list.push({ binding, permissions });
      else scopes.set(binding.scope, [{ binding, permissions }]);
    }
    for (const [group, members] of Object.entries(snapshot.groups ?? {})) {
      for (const member of members) {
        const groups = this.#groupsOf.get(member);
        if (groups) groups.push(group);
        else this.#groupsOf.set(member, [group]);
      }
    }
    this.#boundaries = new Map(Object.entries(snapshot.boundaries ?? {}));
  }

  /** Bindings of the principal and of its groups, at every scope. */
  bindingsOf(principal: string): PolicyBinding[] {
    return this.grantsOf(principal).map((indexed) => indexed.binding);
  }

  /** Bindings of the principal and of its groups with the permissions of their roles, at every scope. */
  grantsOf(principal: string): IndexedBinding[] {
    return this.#held(principal).flatMap((scopes) => [...scopes.values()]).flat();
  }

  /** Groups the principal is in. */
  groupsOf(principal: string): readonly string[] {
    return this.#groupsOf.get(principal) ?? [];
  }

  /** The permission boundary of the principal; undefined when it has none. */
  boundaryOf(principal: string): readonly string[] | undefined {
    return this.#boundaries.get(principal);
  }

  /**
   * Decides. A deny that matches wins; else an allow at the scope or above that the principal's boundary does not cut
   * off; else no.
   */
  evaluate(
    principal: string,
    permission: string,
    scope: string,
    context: DecisionContext = { nowMs: Date.now() },
  ): Evaluation {
    const held = this.#held(principal);
    let allowed: PolicyBinding | undefined;
    let unmet: PolicyBinding | undefined;
    let visible = scope === "";
    if (held.length > 0) {
      for (const at of scopeChain(scope)) {
        for (const scopes of held) {
          for (const { binding, permissions } of scopes.get(at) ?? []) {
            if (!binding.deny) visible = true;
            if (!permissions.some((pattern) => permissionMatches(pattern, permission))) continue;
            if (!conditionsHold(binding.conditions, binding.deny, scope, context)) {
              unmet ??= binding;
              continue;
            }
            if (binding.deny) {
              return { allow: false, visible: true, bindingId: binding.id, reason: `Denied by ${named(binding)}` };
            }
            allowed ??= binding;
          }
        }
      }
    }
    if (allowed) {
      const boundary = this.#boundaries.get(principal);
      if (boundary === undefined || boundary.some((pattern) => permissionMatches(pattern, permission))) {
        return { allow: true, visible: true, bindingId: allowed.id, reason: `Allowed by ${named(allowed)}` };
      }
      return {
        allow: false,
        visible: true,
        reason: `Refused by the permission boundary of ${principal}: ${named(allowed)} would allow it`,
      };
    }
    const where = scope === "" ? "the root" : scope;
    return {
      allow: false,
      visible,
      reason: unmet && !unmet.deny
        ? `No binding of ${principal} allows ${permission} at ${where}: the conditions of ${named(unmet)} do not hold`
        : `No binding of ${principal} allows ${permission} at ${where}`,
    };
  }

  #held(principal: string): Map<string, IndexedBinding[]>[] {
    const own = this.#byPrincipal.get(principal);
    const groups = this.#groupsOf.get(principal);
    if (groups === undefined) return own ? [own] : [];
    const held = own ? [own] : [];
    for (const group of groups) {
      const scopes = this.#byPrincipal.get(group);
      if (scopes) held.push(scopes);
    }
    return held;
  }
}

function named(binding: PolicyBinding): string {
  const through = binding.principal.startsWith("group:") ? `, through ${binding.principal}` : "";
  return `the binding ${binding.id} (${binding.role}${through})`;
}
