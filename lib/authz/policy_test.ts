import assert from "node:assert/strict";
import fc from "fast-check";
import {
  builtinPermissions,
  builtinRoles,
  permissionMatches,
  PolicyIndex,
  type PolicySnapshot,
  scopeCovers,
} from "./mod.ts";

const base: PolicySnapshot = {
  version: 1,
  issuedAtMs: 0,
  issuer: "i",
  keys: [],
  roles: [],
  bindings: [],
  revokedBefore: {},
};
const bind = (id: string, principal: string, role: string, scope: string, deny = false) => ({
  id,
  principal,
  role,
  scope,
  deny,
});

Deno.test("evaluate() lets an allow reach everything below its scope and nothing beside it", () => {
  const index = new PolicyIndex({ ...base, bindings: [bind("b1", "user:a", "viewer", "acme")] });
  assert.equal(index.evaluate("user:a", "plasmavmc.vm.get", "acme/prod").allow, true);
  assert.deepEqual(index.evaluate("user:a", "plasmavmc.vm.get", "acme2/prod"), {
    allow: false,
    visible: false,
    reason: "No binding of user:a allows plasmavmc.vm.get at acme2/prod",
  });
  assert.equal(index.evaluate("user:a", "plasmavmc.vm.create", "acme/prod").visible, true);
});

Deno.test("evaluate() lets a deny win over every allow and names it", () => {
  const bindings = [bind("b1", "user:a", "admin", ""), bind("b2", "user:a", "viewer", "acme/prod", true)];
  const index = new PolicyIndex({ ...base, bindings });
  assert.equal(index.evaluate("user:a", "plasmavmc.vm.get", "acme/prod").bindingId, "b2");
  assert.equal(index.evaluate("user:a", "plasmavmc.vm.get", "acme/test").allow, true);
});

Deno.test("a role of one service allows there what the role allows, and nothing elsewhere", () => {
  const index = new PolicyIndex({ ...base, bindings: [bind("b1", "user:a", "plasmavmc.editor", "acme")] });
  const may = (permission: string) => index.evaluate("user:a", permission, "acme/prod").allow;
  assert.deepEqual(["plasmavmc.vm.create", "plasmavmc.vm.get", "plasmavmc.event.watch"].map(may), [true, true, true]);
  assert.deepEqual(["prismnet.vpc.create", "prismnet.vpc.get", "iam.service_account.create"].map(may), [
    false,
    false,
    false,
  ]);
  for (const [role, permissions] of Object.entries(builtinRoles)) {
    const own = builtinPermissions(`iam.${role}`)!;
    assert.ok(own.every((p) => p.startsWith("iam.") && permissions.some((all) => permissionMatches(all, p))), role);
  }
  for (const none of ["nosuch.viewer", "plasmavmc.owner", "plasmavmc.viewer.x", "constructor", "iam.constructor", ""]) {
    assert.equal(builtinPermissions(none), undefined, none);
  }
});

Deno.test("evaluate() finds a custom role only in the organisation that owns it", () => {
  const roles = [{ name: "starter", org: "acme", permissions: ["plasmavmc.vm.start"] }];
  const bindings = [bind("b1", "user:a", "starter", "acme/prod"), bind("b2", "user:a", "starter", "other/prod")];
  const index = new PolicyIndex({ ...base, roles, bindings });
  assert.equal(index.evaluate("user:a", "plasmavmc.vm.start", "acme/prod").allow, true);
  assert.equal(index.evaluate("user:a", "plasmavmc.vm.start", "other/prod").allow, false);
});

/** The rule as one reads it, without an index. */
function dumb(snapshot: PolicySnapshot, principal: string, permission: string, scope: string): boolean {
  const matching = snapshot.bindings.filter((b) =>
    b.principal === principal && scopeCovers(b.scope, scope) &&
    (builtinPermissions(b.role) ??
      snapshot.roles.find((r) => r.name === b.role && r.org === b.scope.split("/")[0])?.permissions ?? [])
      .some((p) => permissionMatches(p, permission))
  );
  return matching.some((b) => !b.deny) && !matching.some((b) => b.deny);
}

Deno.test("evaluate() equals the plain reading of the rule on random policies", () => {
  const part = fc.constantFrom("a", "b", "*");
  const permission = fc.tuple(part, part, part).map((p) => p.join("."));
  const scope = fc.constantFrom("", "o", "o/p", "o/q", "r", "r/p", "o/p/plasmavmc/vm/x");
  const principal = fc.constantFrom("user:1", "user:2");
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          name: fc.constantFrom("x", "y"),
          org: fc.constantFrom("o", "r"),
          permissions: fc.array(permission, { maxLength: 3 }),
        }),
        { maxLength: 4 },
      ),
      fc.array(
        fc.record({
          id: fc.uuid(),
          principal,
          role: fc.constantFrom("x", "y", "viewer", "admin", "iam.viewer"),
          scope,
          deny: fc.boolean(),
        }),
        { maxLength: 8 },
      ),
      principal,
      fc.tuple(fc.constantFrom("a", "b", "iam"), fc.constantFrom("a", "b"), fc.constantFrom("a", "get")).map((p) =>
        p.join(".")
      ),
      scope,
      (roles, bindings, who, what, where) => {
        const unique = [...new Map(roles.map((r) => [`${r.org}/${r.name}`, r])).values()];
        const snapshot = { ...base, roles: unique, bindings };
        assert.equal(new PolicyIndex(snapshot).evaluate(who, what, where).allow, dumb(snapshot, who, what, where));
      },
    ),
    { numRuns: 2_000 },
  );
});
