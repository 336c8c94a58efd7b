import assert from "node:assert/strict";
import fc from "fast-check";
import { utf8 } from "@ultracloud/base";
import { isKeyGrantScope, keyPrefixScope, keyScope, keyScopeCovers, noKeyScope } from "./key_scope.ts";
import { scopeCovers } from "./permission.ts";

const b = utf8.encode;
const open = new Uint8Array([0]);

Deno.test("keyScope() writes keys and ranges so that people can read them", () => {
  assert.equal(keyScope(b("app/color")), "key:app/color");
  assert.equal(keyScope(b("app/"), b("app0")), "key:app/*");
  assert.equal(keyScope(b("a"), b("c")), "key:a,c");
  assert.equal(keyScope(b("a"), open), "key:a,");
  assert.equal(keyScope(open, open), "key:*");
  assert.equal(keyScope(b('a b,*%"é')), "key:a%20b%2C%2A%25%22%C3%A9");
  assert.equal(keyScope(new Uint8Array([1, 255]), new Uint8Array([2])), "key:%01%FF*");
  assert.equal(keyScope(b("c"), b("a")), "key:c", "an empty range stands for its first key");
  assert.equal(keyPrefixScope("app/"), "key:app/*");
});

Deno.test("scopeCovers() holds a grant of keys to its keys", () => {
  for (const inner of ["key:app/", "key:app/x", "key:app/*", "key:app/a*", "key:app/a,app/b", noKeyScope]) {
    assert.ok(scopeCovers("key:app/*", inner), inner);
    assert.ok(scopeCovers("", inner), inner);
  }
  for (const inner of ["", "key:app", "key:app0", "key:ap*", "key:*", "key:app/a,", "key:app/a,app1", "app/x", "org"]) {
    assert.ok(!scopeCovers("key:app/*", inner), inner);
  }
  assert.ok(!scopeCovers("org", "key:org/x") && !scopeCovers("key", "key:org/x"));
  assert.ok(!scopeCovers(noKeyScope, "key:a"));
});

Deno.test("isKeyGrantScope() knows what a grant may say", () => {
  for (const good of ["key:*", "key:a", "key:a*", "key:a,b", "key:a,"]) assert.ok(isKeyGrantScope(good), good);
  for (const bad of ["key:", "key:a b", "key:b,a", "key:a,a", "key:%zz", "key:a*b", "key:a,b,c", "key:a,b*"]) {
    assert.ok(!isKeyGrantScope(bad), bad);
    assert.ok(!keyScopeCovers(bad, "key:a") && !keyScopeCovers("key:*", bad) || bad === noKeyScope, bad);
  }
});

Deno.test("keyScopeCovers() agrees with looking at every short key", () => {
  // Bytes at both ends of the alphabet, and those that are escaped.
  const byte = fc.constantFrom(0, 1, 0x25, 0x2a, 0x2c, 0x61, 254, 255);
  const key = fc.array(byte, { minLength: 1, maxLength: 2 }).map((bytes) => Uint8Array.from(bytes));
  const range = fc.record({ key, end: fc.oneof(fc.constant(new Uint8Array(0)), fc.constant(open), key) });
  const alphabet = [0, 1, 2, 0x25, 0x26, 0x2a, 0x2b, 0x2c, 0x2d, 0x61, 0x62, 254, 255];
  const keys = alphabet.flatMap((a) => [[a], ...alphabet.flatMap((c) => [[a, c], [a, c, 0], [a, c, 255]])])
    .map((bytes) => Uint8Array.from(bytes));
  const text = (bytes: Uint8Array) => bytes.toHex();
  const has = (r: { key: Uint8Array; end: Uint8Array }, candidate: Uint8Array) => {
    const at = text(candidate), from = text(r.key), to = text(r.end);
    if (to === "" || (to !== "00" && to <= from)) return at === from;
    return at >= from && (to === "00" || at < to);
  };
  const seen = { covered: 0, not: 0 };
  fc.assert(
    fc.property(range, range, (outer, inner) => {
      const covers = keyScopeCovers(keyScope(outer.key, outer.end), keyScope(inner.key, inner.end));
      const escaped = keys.find((candidate) => has(inner, candidate) && !has(outer, candidate));
      if (covers) assert.equal(escaped, undefined, `${text(escaped ?? open)} is not covered`);
      // Longer keys than those looked at may be why a range is not covered, never why one is.
      else if (inner.end.length === 0) assert.ok(!has(outer, inner.key));
      seen[covers ? "covered" : "not"]++;
    }),
    { numRuns: 5_000 },
  );
  assert.ok(seen.covered > 200 && seen.not > 200, JSON.stringify(seen));
});
