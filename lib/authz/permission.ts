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

/** True when `pattern` covers `permission`, part by part. Asked for every grant at every call: it splits nothing. */
export function permissionMatches(pattern: string, permission: string): boolean {
  if (pattern === permission || pattern === "*.*.*") return true;
  let given = 0, wanted = 0;
  for (let part = 1; part <= 3; part++) {
    const givenEnd = endOfPart(pattern, given, part), wantedEnd = endOfPart(permission, wanted, part);
    if (givenEnd < 0 || wantedEnd < 0) return false;
    const length = givenEnd - given;
    if (length !== 1 || pattern[given] !== "*") {
      if (length !== wantedEnd - wanted) return false;
      for (let i = 0; i < length; i++) {
        if (pattern.charCodeAt(given + i) !== permission.charCodeAt(wanted + i)) return false;
      }
    }
    given = givenEnd + 1;
    wanted = wantedEnd + 1;
  }
  return true;
}

/** Where the part that begins at `start` ends; -1 when it is not one of three. */
function endOfPart(text: string, start: number, part: number): number {
  const dot = text.indexOf(".", start);
  if (part < 3) return dot;
  return dot < 0 ? text.length : -1;
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
