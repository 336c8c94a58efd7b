import assert from "node:assert/strict";
import { permissionMatches, scopeCovers } from "@ultracloud/authz";
import fc from "fast-check";
import { type HeldGrant, holds, patternsMeet } from "../holding.ts";
import { afterFailure, type FailedLogins, forgetMs, freeFailures, lockFailures, lockMs, waitMsOf } from "./lockout.ts";
import { ownerOf, parseScope } from "./scope.ts";

const scopes = ["", "a", "b", "a/x", "a/y", "a/x/s/k/n"];
const parts = ["p", "q", "*"];
const pattern = fc.tuple(...[0, 1, 2].map(() => fc.constantFrom(...parts))).map((p) => p.join("."));
const grant: fc.Arbitrary<HeldGrant> = fc.record({
  scope: fc.constantFrom(...scopes),
  deny: fc.boolean(),
  permissions: fc.array(pattern, { minLength: 1, maxLength: 3 }),
});

/** Every permission over two letters. */
const concrete = ["p", "q"].flatMap((a) => ["p", "q"].flatMap((b) => ["p", "q"].map((c) => `${a}.${b}.${c}`)));

function allowed(grants: readonly HeldGrant[], permission: string, scope: string): boolean {
  const here = grants.filter((g) =>
    scopeCovers(g.scope, scope) && g.permissions.some((p) => permissionMatches(p, permission))
  );
  return here.some((g) => !g.deny) && !here.some((g) => g.deny);
}

Deno.test("holds() says yes only where every permission of the pattern is allowed at and below the scope", () => {
  fc.assert(
    fc.property(fc.array(grant, { maxLength: 5 }), pattern, fc.constantFrom(...scopes), (grants, wanted, at) => {
      if (!holds(grants, wanted, at)) return;
      for (const scope of scopes.filter((s) => scopeCovers(at, s))) {
        for (const permission of concrete.filter((p) => permissionMatches(wanted, p))) {
          assert.ok(allowed(grants, permission, scope), `${permission} at ${scope}`);
        }
      }
    }),
  );
});

Deno.test("holds() says yes to who holds it plainly", () => {
  const admin = [{ scope: "a", deny: false, permissions: ["*.*.*"] }];
  assert.ok(holds(admin, "*.*.*", "a/x"));
  assert.ok(!holds(admin, "p.q.p", ""));
  assert.ok(!holds([...admin, { scope: "a/x", deny: true, permissions: ["p.q.p"] }], "p.*.*", "a"));
  assert.ok(holds([...admin, { scope: "a/x", deny: true, permissions: ["p.q.p"] }], "p.*.*", "a/y"));
});

Deno.test("patternsMeet() is true exactly when some permission fits both", () => {
  fc.assert(fc.property(pattern, pattern, (a, b) => {
    assert.equal(patternsMeet(a, b), concrete.some((p) => permissionMatches(a, p) && permissionMatches(b, p)));
  }));
});

Deno.test("waitMsOf() is free at first, doubles, locks, and forgets", () => {
  let failed: FailedLogins | undefined;
  let nowMs = 1_000_000;
  const waits: number[] = [];
  for (let i = 0; i < lockFailures; i++) {
    failed = afterFailure(failed, nowMs);
    const wait = waitMsOf(failed, nowMs);
    waits.push(wait);
    nowMs += wait;
    assert.equal(waitMsOf(failed, nowMs), 0);
  }
  assert.deepEqual(waits.slice(0, freeFailures - 1), [0, 0]);
  assert.deepEqual(waits.slice(freeFailures - 1), [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, lockMs]);
  assert.equal(afterFailure(failed, nowMs + forgetMs + 1).count, 1);
});

Deno.test("parseScope() reads the four forms and refuses the rest", () => {
  assert.deepEqual(["", "acme", "acme/prod", "acme/prod/plasmavmc/vm/web"].map((s) => ownerOf(parseScope(s))), [
    "",
    "acme",
    "acme/prod",
    "acme/prod",
  ]);
  for (const bad of ["/", "acme/", "Acme", "a/b/c", "a/b/c/d", "a/b/c/d/e/f", "a|b", "a/b/c/d/e|f", "a".repeat(400)]) {
    assert.throws(() => parseScope(bad), { code: "invalid_scope" });
  }
});
