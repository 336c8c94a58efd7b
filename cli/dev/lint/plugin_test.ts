/// <reference lib="deno.unstable" />
import assert from "node:assert/strict";
import plugin from "./plugin.ts";

function rulesHit(filename: string, source: string): string[] {
  return Deno.lint.runPlugin(plugin, filename, source).map((diagnostic) => diagnostic.id.replace("ultracloud/", ""));
}

const domain = "/repo/services/chainfire/domain/lease.ts";
const core = "/repo/lib/raft/core/step.ts";
const driver = "/repo/lib/raft/driver/driver.ts";
const plain = "/repo/lib/rpc/server.ts";
const test = "/repo/lib/rpc/server_test.ts";

const pureCases: readonly (readonly [string, string])[] = [
  ["Deno.readTextFileSync('a');", "pure-no-deno"],
  ["globalThis.Deno.cwd();", "pure-no-deno"],
  ["await fetch('http://a');", "pure-no-fetch"],
  ["const t = Date.now();", "pure-no-time"],
  ["const t = globalThis.Date.now();", "pure-no-time"],
  ["const f = Date['now'];", "pure-no-time"],
  ["const t = new Date();", "pure-no-time"],
  ["const t = Date();", "pure-no-time"],
  ["const t = performance.now();", "pure-no-time"],
  ["setTimeout(() => {}, 1);", "pure-no-timers"],
  ["globalThis.setInterval(() => {}, 1);", "pure-no-timers"],
  ["const r = Math.random();", "pure-no-random"],
  ["const r = crypto.randomUUID();", "pure-no-random"],
  ["crypto.getRandomValues(new Uint8Array(1));", "pure-no-random"],
];

for (const [source, rule] of pureCases) {
  Deno.test(`${rule} refuses ${source} in domain/ and lib/raft, and nowhere else`, () => {
    assert.deepEqual(rulesHit(domain, source), [rule]);
    assert.deepEqual(rulesHit(driver, source), [rule]);
    assert.deepEqual(rulesHit(plain, source), []);
    assert.deepEqual(rulesHit(domain.replace(".ts", "_test.ts"), source), []);
  });
}

Deno.test("pure rooms may build a date from a given time and name what they forbid in text", () => {
  assert.deepEqual(rulesHit(domain, "const d = new Date(ms); const s = 'Date.now()'; // Math.random()"), []);
  assert.deepEqual(rulesHit(domain, "deps.clock.nowMs(); store.fetch(1); timers.setTimeout;"), []);
});

Deno.test("core-no-async refuses every way to wait in the core and allows it in the driver", () => {
  const sources = [
    "async function f() {}",
    "const f = async () => {};",
    "class A { async m() {} }",
    "const p = new Promise(() => {});",
    "const p = Promise.resolve(1);",
    "interface A { m(): Promise<void> }",
    "queueMicrotask(() => {});",
  ];
  for (const source of sources) {
    assert.ok(rulesHit(core, source).includes("core-no-async"), source);
    assert.deepEqual(rulesHit(driver, source), [], source);
  }
});

Deno.test("no-remote-import refuses jsr and http specifiers in every form of import", () => {
  for (const specifier of ["jsr:@std/path", "https://deno.land/x.ts", "http://a/b.ts"]) {
    assert.deepEqual(rulesHit(plain, `import a from "${specifier}";`), ["no-remote-import"]);
    assert.deepEqual(rulesHit(plain, `export * from "${specifier}";`), ["no-remote-import"]);
    assert.deepEqual(rulesHit(plain, `export { a } from "${specifier}";`), ["no-remote-import"]);
    assert.deepEqual(rulesHit(plain, `const a = await import("${specifier}");`), ["no-remote-import"]);
  }
  assert.deepEqual(rulesHit(plain, `import { z } from "zod"; export { z }; export const u = "https://a";`), []);
});

Deno.test("no-inline-npm wants versions pinned in the root deno.json", () => {
  assert.deepEqual(rulesHit(plain, `import { z } from "npm:zod@4";`), ["no-inline-npm"]);
});

Deno.test("no-node-http2 refuses the module that aborts the process", () => {
  assert.deepEqual(rulesHit(plain, `import http2 from "node:http2";`), ["no-node-http2"]);
  assert.deepEqual(rulesHit(plain, `import https from "node:https";`), []);
});

Deno.test("no-hidden-skip refuses skips without a reason in tests", () => {
  const sources = [
    `Deno.test.ignore("a", () => {});`,
    `Deno.test.only("a", () => {});`,
    `Deno.test({ name: "a", ignore: true, fn() {} });`,
    `describe.skip("a", () => {});`,
  ];
  for (const source of sources) assert.deepEqual(rulesHit(test, source), ["no-hidden-skip"], source);
  assert.deepEqual(rulesHit(test, `reader.skip(4); const o = { ignore: false };`), []);
});

Deno.test("no-sanitizer-off refuses a test that hides a leak", () => {
  assert.deepEqual(rulesHit(test, `Deno.test({ name: "a", sanitizeOps: false, fn() {} });`), ["no-sanitizer-off"]);
  assert.deepEqual(rulesHit(test, `Deno.test({ name: "a", sanitizeOps: true, fn() {} });`), []);
});

Deno.test("every rule says what to do instead", () => {
  const source = `import a from "jsr:a"; Deno.cwd(); fetch("a"); Date.now(); Math.random(); setTimeout(a, 1);`;
  const found = Deno.lint.runPlugin(plugin, core, source);
  assert.equal(found.length, 6);
  for (const diagnostic of found) assert.ok(diagnostic.hint, diagnostic.id);
});
