import { fault } from "@ultracloud/base";
import { isKeyScope, keyScopeCovers } from "./key_scope.ts";

const partPattern = /^(\*|[a-z0-9][a-z0-9_-]*)$/;

/** "<service>.<resource>.<action>" where a part may be "*"; invalid_argument otherwise. */
export function checkPermission(text: string, field: string): string {
  const parts = text.split(".");
  if (parts.length === 3 && parts.every((part) => partPattern.test(part))) return text;
  throw fault(
    "invalid_argument",
    "invalid_permission",
    `Cannot use ${JSON.stringify(text.slice(0, 120))} as a permission: wanted service.resource.action`,
    {
      field,
    },
  );
}

/** True when `pattern` covers `permission`, part by part. */
export function permissionMatches(pattern: string, permission: string): boolean {
  if (pattern === permission || pattern === "*.*.*") return true;
  const wanted = permission.split(".");
  const given = pattern.split(".");
  return given.length === 3 && wanted.length === 3 && given.every((part, i) => part === "*" || part === wanted[i]);
}

/** The scope and everything above it, from the root down: "", "org", "org/project", ... */
export function scopeChain(scope: string): string[] {
  const chain = [""];
  if (scope === "") return chain;
  for (let at = scope.indexOf("/"); at !== -1; at = scope.indexOf("/", at + 1)) chain.push(scope.slice(0, at));
  chain.push(scope);
  return chain;
}

/** True when a grant at `outer` reaches `scope`. */
export function scopeCovers(outer: string, scope: string): boolean {
  if (isKeyScope(outer)) return isKeyScope(scope) && keyScopeCovers(outer, scope);
  return outer === "" || scope === outer || scope.startsWith(`${outer}/`);
}
