import assert from "node:assert/strict";
import { scanImports } from "./_imports.ts";
import { formatRoomGraph, readRoomGraph } from "./_room_graph.ts";
import { plantTree } from "./_tree_test_support.ts";
import { loadWorkspace } from "./_workspace.ts";

const members = [
  "proto",
  "lib/base",
  "lib/raft",
  "lib/rpc",
  "lib/strange",
  "lib/testing",
  "services/alpha",
  "services/beta",
  "cli",
];

/** A workspace that keeps every rule, with `files` laid over it. */
function workspaceFiles(files: Record<string, string>): Record<string, string> {
  const tree: Record<string, string> = {
    "deno.json": JSON.stringify({
      workspace: members.map((m) => `./${m}`),
      imports: { zod: "npm:zod@4", hono: "npm:hono@4" },
    }),
  };
  for (const member of members) {
    const name = `@ultracloud/${member.split("/").at(-1)}`;
    const exports = member === "proto" ? { "./beta/v1": "./mod/beta_v1.ts" } : { ".": "./mod.ts" };
    tree[`${member}/deno.json`] = JSON.stringify({ name, exports }, null, 1);
    if (member !== "proto") tree[`${member}/mod.ts`] = "export {};\n";
  }
  tree["proto/mod/beta_v1.ts"] = "export {};\n";
  return { ...tree, ...files };
}

async function violationsOf(files: Record<string, string>): Promise<string[]> {
  await using tree = await plantTree(workspaceFiles(files));
  const graph = await readRoomGraph(await loadWorkspace(tree.root));
  return graph.violations.map((violation) => `${violation.file}:${violation.line}: ${violation.sentence}`);
}

const planted: readonly (readonly [name: string, file: string, text: string, pattern: RegExp])[] = [
  [
    "a service that imports another service",
    "services/alpha/main.ts",
    `// first line\nimport { x } from "@ultracloud/beta";\n`,
    /^services\/alpha\/main\.ts:2: Cannot import services\/beta in services\/alpha: .*over RPC/,
  ],
  ["a path into another room", "services/alpha/main.ts", `import "../../lib/rpc/inner.ts";`, /by path/],
  [
    "a name that is not exported",
    "services/alpha/main.ts",
    `import "@ultracloud/rpc/inner.ts";`,
    /Cannot import @ultracloud\/rpc\/inner/,
  ],
  [
    "base on an npm package besides zod",
    "lib/base/a.ts",
    `import { Hono } from "hono";`,
    /Cannot import hono in lib\/base/,
  ],
  ["base on another room", "lib/base/a.ts", `export * from "@ultracloud/rpc";`, /Cannot import lib\/rpc in lib\/base/],
  ["raft on node", "lib/raft/core/a.ts", `import fs from "node:fs";`, /Cannot import node:fs in lib\/raft/],
  ["raft on npm", "lib/raft/core/a.ts", `import { z } from "zod";`, /Cannot import zod in lib\/raft/],
  [
    "raft on rpc",
    "lib/raft/driver/a.ts",
    `import type { A } from "@ultracloud/rpc";`,
    /Cannot import lib\/rpc in lib\/raft/,
  ],
  [
    "the cli on a service",
    "cli/a.ts",
    `const a = await import("@ultracloud/alpha");`,
    /Cannot import services\/alpha in cli/,
  ],
  ["shipped code on lib/testing", "services/alpha/a.ts", `import "@ultracloud/testing";`, /only tests may/],
  [
    "domain on the wire",
    "services/alpha/domain/a.ts",
    `import { call } from "@ultracloud/rpc";`,
    /in domain\/: wanted lib\/base/,
  ],
  [
    "domain on contracts",
    "services/alpha/domain/a.ts",
    `import { M } from "@ultracloud/proto/beta/v1";`,
    /in domain\//,
  ],
  [
    "domain on its service",
    "services/alpha/domain/a.ts",
    `import { s } from "../service.ts";`,
    /service\.ts in domain\/: wanted main -> service/,
  ],
  ["domain on node", "services/alpha/domain/a.ts", `import fs from "node:fs";`, /Cannot import node:fs in domain/],
  ["an unpinned package", "services/alpha/a.ts", `import x from "left-pad";`, /Cannot import left-pad: wanted/],
  [
    "shipped code on what tests are made of",
    "services/alpha/a.ts",
    `import "./test_world.ts";`,
    /test_world\.ts here: only tests may/,
  ],
  [
    "a room without a rule",
    "lib/strange/a.ts",
    `import "@ultracloud/base";`,
    /^lib\/strange\/a\.ts:1: Cannot place lib\/strange: wanted a row/,
  ],
  [
    "a second export",
    "services/beta/deno.json",
    `{\n"name": "@ultracloud/beta",\n"exports": { ".": "./mod.ts", "./inner": "./inner.ts" } }`,
    /^services\/beta\/deno\.json:3: .*wanted \.\/mod\.ts only/,
  ],
];

for (const [name, file, text, pattern] of planted) {
  Deno.test(`rooms finds ${name}`, async () => {
    const found = await violationsOf({ [file]: text });
    assert.equal(found.length, 1, found.join("\n"));
    assert.match(found[0] ?? "", pattern);
  });
}

Deno.test("rooms finds nothing in a tree that keeps the rules, and draws its edges", async () => {
  await using tree = await plantTree(workspaceFiles({
    "lib/base/a.ts": `import { z } from "zod";`,
    "lib/raft/core/a.ts": `import { assert } from "@ultracloud/base";`,
    "services/alpha/service.ts":
      `import { M } from "@ultracloud/proto/beta/v1";\nimport "@ultracloud/rpc";\nimport "hono";`,
    "services/alpha/domain/a.ts":
      `import { fault } from "@ultracloud/base";\nimport "./b.ts";\nimport type { M } from "@ultracloud/proto/beta/v1";`,
    "services/alpha/a_test.ts":
      `import "@ultracloud/testing";\nimport "@ultracloud/beta";\nimport assert from "node:assert/strict";`,
  }));
  const graph = await readRoomGraph(await loadWorkspace(tree.root));
  assert.deepEqual(graph.violations, []);
  const lines = formatRoomGraph(graph).split("\n");
  assert.ok(lines.includes("services/alpha -> lib/base lib/rpc proto npm:hono"), lines.join("\n"));
  assert.ok(lines.includes("lib/raft -> lib/base"));
  assert.ok(lines.includes("lib/rpc -> nothing"));
});

Deno.test("scanImports() sees every form of import and nothing in text or comments", () => {
  const source = [
    `import a from "a1";`,
    `import type { B } from "b2";`,
    `import { type C, type D } from "c3";`,
    `import { type C, d } from "d4";`,
    `import * as e from "e5";`,
    `import "f6";`,
    `export * from "g7";`,
    `export { h } from "h8";`,
    `export type { i } from "i9";`,
    `const j = await import("j10");`,
    `// import "no1";`,
    `const text = 'import "no2"'; /* import "no3" */`,
    'const t = `import "no4" ${ await import("k13") } export * from "no5"`;',
    `export const from = "no6"; const r = /import "no7"/; import.meta.url;`,
    `import {`,
    `  l,`,
    `} from "l16";`,
    `export default function f() { return 4 / 2; }`,
    `import type from "m19";`,
  ].join("\n");
  const found = scanImports(source).map((ref) => `${ref.specifier}:${ref.line}${ref.typeOnly ? ":type" : ""}`);
  assert.deepEqual(found, [
    "a1:1",
    "b2:2:type",
    "c3:3:type",
    "d4:4",
    "e5:5",
    "f6:6",
    "g7:7",
    "h8:8",
    "i9:9:type",
    "j10:10",
    "k13:13",
    "l16:17",
    "m19:19",
  ]);
});
