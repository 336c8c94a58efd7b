import assert from "node:assert/strict";
import fc from "fast-check";
import { permissionMatches } from "./permission.ts";

/** What it means, said plainly. */
function covers(pattern: string, permission: string): boolean {
  if (pattern === permission) return true;
  const given = pattern.split("."), wanted = permission.split(".");
  return given.length === 3 && wanted.length === 3 && given.every((part, i) => part === "*" || part === wanted[i]);
}

Deno.test("permissionMatches() compares three parts, of which a pattern may leave each open", () => {
  const part = fc.constantFrom("", "*", "**", "a", "b", "ab", "sql", "sq", "kv");
  const text = fc.oneof(
    fc.tuple(part, part, part).map((parts) => parts.join(".")),
    fc.array(part, { maxLength: 5 }).map((parts) => parts.join(".")),
  );
  let yes = 0, no = 0;
  fc.assert(
    fc.property(text, text, (pattern, permission) => {
      // A permission that is asked for has no open part, and three of them.
      if (pattern === "*.*.*" && permission.split(".").length !== 3) return;
      const wanted = covers(pattern, permission);
      if (wanted) yes++;
      else no++;
      assert.equal(permissionMatches(pattern, permission), wanted);
    }),
    { numRuns: 20_000 },
  );
  assert.ok(yes > 100 && no > 100, `${yes} times yes, ${no} times no`);
});
