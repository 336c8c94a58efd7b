import { permissionMatches, scopeCovers } from "@ultracloud/authz";

/** What one binding allows or denies. */
export interface HeldGrant {
  readonly scope: string;
  readonly deny: boolean;
  readonly permissions: readonly string[];
}

/** True when some permission is covered by both patterns. */
export function patternsMeet(a: string, b: string): boolean {
  const left = a.split(".");
  const right = b.split(".");
  return left.every((part, i) => part === "*" || right[i] === "*" || part === right[i]);
}

/**
 * True when the grants allow everything the pattern covers, everywhere in the scope: one allow at the scope or above
 * covers it whole, and no deny above, at or below the scope touches any of it. Errs towards no: two allows that only
 * together cover a pattern do not count.
 */
export function holds(grants: readonly HeldGrant[], pattern: string, scope: string): boolean {
  let allowed = false;
  for (const grant of grants) {
    if (grant.deny) {
      const near = scopeCovers(grant.scope, scope) || scopeCovers(scope, grant.scope);
      if (near && grant.permissions.some((denied) => patternsMeet(denied, pattern))) return false;
    } else if (!allowed && scopeCovers(grant.scope, scope)) {
      allowed = grant.permissions.some((given) => permissionMatches(given, pattern));
    }
  }
  return allowed;
}
