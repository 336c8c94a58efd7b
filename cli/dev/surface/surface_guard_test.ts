import assert from "node:assert/strict";
import { plantTree } from "../_tree_test_support.ts";
import { commandsOf } from "./commands.ts";
import type { Finding } from "./finding.ts";
import { judgeSurface, knownCommands, readTree } from "./guard.ts";

const root = new URL("../../..", import.meta.url).pathname.replace(/\/$/, "");
const tree = await readTree(root);
const known = await knownCommands(root);
/** What the mistakes below are planted into: enough of the tree for each of them, and quick to judge. */
const part = new Map(
  [...tree].filter(([file]) =>
    /^(README\.md|docs\/[^/]+\.md|services\/(deployer|iam)\/|proto\/ultracloud\/(deployer|iam)\/)/.test(file) ||
    file.endsWith("component.json")
  ),
);
const asItIs = new Set(judgeSurface(part, known).map((finding) => JSON.stringify(finding)));

/** What the guard finds in that part with one file changed that it does not find in the tree as it is. */
function planted(file: string, change: (text: string) => string): Finding[] {
  const copy = new Map(part).set(file, change(tree.get(file) ?? ""));
  return judgeSurface(copy, known).filter((finding) => !asItIs.has(JSON.stringify(finding)));
}

const append = (text: string) => (before: string) => `${before}\n${text}\n`;

Deno.test("the tree as it is holds nothing that must not ship", () => {
  assert.deepEqual(judgeSurface(tree, known), []);
});

const mistakes: readonly (readonly [what: string, file: string, change: (text: string) => string, pattern: RegExp])[] =
  [
    [
      "an RPC that nobody serves",
      "proto/ultracloud/iam/v1/zz.proto",
      () => "service PlantedService {\n  rpc GuessPassword(A) returns (B);\n}\n",
      /has no handler guessPassword: it would answer unimplemented/,
    ],
    [
      "an RPC that is answered as unimplemented",
      "services/iam/planted.ts",
      () => `export const x = { listOrgs() { throw fault("unimplemented", "later", "Cannot"); } };`,
      /answers unimplemented/,
    ],
    [
      "an RPC that answers the same whatever it is asked",
      "services/deployer/planted.ts",
      () =>
        `export const x = {\n  async getStatus() {\n    return { writing: true, instance: "a", list: [1, 2] };\n  },\n};`,
      /DeployerService\.GetStatus answers the same whatever it is asked/,
    ],
    [
      "the same as an arrow",
      "services/deployer/planted.ts",
      () =>
        `export const x = { getStatus: (request: unknown) => Promise.resolve({ nodesCount: 3, role: Role.WRITER }) };`,
      /DeployerService\.GetStatus answers the same/,
    ],
    [
      "shipped code that is not there",
      "agents/nix-agent/planted.ts",
      () => `throw new Error("not implemented: rollback");`,
      /says it is not there/,
    ],
    [
      "an unfinished mark in what ships",
      "lib/rpc/planted.ts",
      () => "// TODO: retries",
      /unfinished mark in what ships/,
    ],
    ["best effort in what ships", "services/plasmavmc/planted.ts", () => "// best-effort cleanup", /says nothing/],
    ["a TODO in a page", "docs/testing.md", append("TODO: describe the lane"), /unfinished mark: do it/],
    ["a promise in a page", "README.md", append("Live migration is coming soon."), /promise without a date/],
    ["not yet in a page", "docs/guides/uc.md", append("This is not yet supported."), /not that it may be later/],
    ["a roadmap in a page", "services/iam/DESIGN.md", append("## Future work\n\nPasskeys."), /list of wishes/],
    ["a guess in a page", "docs/rollout-bundle.md", append("This should work on NixOS."), /a guess: run it/],
    ["best effort in a page", "docs/control-plane-ops.md", append("Backups are best-effort."), /what is promised/],
    ["a state outside of the table of states", "README.md", append("unikctl is not built yet."), /table of states/],
    ["an archived component", "services/mvisor/component.json", () => `{ "name": "mvisor" }`, /in the tree again/],
    ["an archived output", "nix/packages/planted.nix", () => `{ netboot-worker = 1; }`, /as if it were part/],
    [
      "an archived name in a page",
      "docs/testing.md",
      append("Run the lightningstor-csi driver first."),
      /as if it were part/,
    ],
    ["a task that is not there", "docs/testing.md", append("```\ndeno task fly --high\n```"), /there is no task fly/],
    [
      "a lane that is not there",
      "docs/testing.md",
      append("Run `deno task cluster fresh-moon`."),
      /no lane or command fresh-moon/,
    ],
    [
      "a command of uc that is not there",
      "docs/guides/compute.md",
      append("```\nnpx -y deno@2.9.6 task uc vm explode web\n```"),
      /there is no command uc vm explode/,
    ],
    [
      "a component without a row in the matrix",
      "services/planted/component.json",
      () => `{ "name": "planted" }`,
      /it has no row in docs\/component-matrix\.md/,
    ],
    [
      "a row of the matrix without a component",
      "docs/component-matrix.md",
      (text) => text.replace("| `iam` ", "| `iamm` "),
      /no component of the tree has this name/,
    ],
  ];

for (const [what, file, change, pattern] of mistakes) {
  Deno.test(`the guard finds ${what}`, () => {
    const findings = planted(file, change);
    const found = findings.find(({ reason }) => pattern.test(reason));
    assert.ok(found !== undefined, JSON.stringify(findings));
    assert.ok(found.file === file || file.endsWith("component.json"), `it points at ${found.file}`);
  });
}

Deno.test("an entry of the allow-list needs a finding and a reason", () => {
  const unused = [{ file: "README.md", text: "nothing like this", reason: "it was there once" }];
  assert.ok(judgeSurface(part, known, unused).some(({ reason }) => /matches nothing/.test(reason)));
  const bare = [{ file: "README.md", text: "UltraCloud", reason: " " }];
  assert.throws(() => judgeSurface(part, known, bare), /Cannot allow UltraCloud: wanted a reason/);
});

Deno.test("what is right is not found: a refusal that is documented, a handler that asks, an archived name that is out", () => {
  const right: readonly (readonly [string, (text: string) => string])[] = [
    ["docs/testing.md", append("netboot-worker is archived and no part of this product.")],
    ["services/deployer/planted.ts", () => "export const x = { async getStatus() { return await core.status(); } };"],
    ["services/deployer/planted.ts", () => "export const x = { getStatus: (r: R) => ({ instance: r.instance }) };"],
    ["docs/testing.md", append("`deno task cluster fresh-LANE`, `uc vm list -o wide`, `uc deployer|node ...`")],
    ["services/iam/planted_test.ts", () => "// TODO in a test is no promise to a reader"],
  ];
  for (const [file, change] of right) assert.deepEqual(planted(file, change), [], file);
});

Deno.test("commands are read from fences, from backticks and over line ends", () => {
  const page =
    "Run `deno task test`, or\n\n```sh\n$ UC_TOKEN=x uc vm list # all\nnpx -y deno@2.9.6 task uc \\\n  node list\n```\n";
  assert.deepEqual(commandsOf(page).map(({ line, words }) => `${line} ${words.join(" ")}`), [
    "1 deno task test",
    "4 uc vm list",
    "5 deno task uc node list",
  ]);
});

Deno.test("the same is found in files on a disk", async () => {
  const pages = [...tree].filter(([file]) => file.startsWith("docs/"));
  const mistakes = { "lib/rpc/planted.ts": "// FIXME\n", "work/lib/planted.ts": "// FIXME\n" };
  await using copy = await plantTree({ ...Object.fromEntries(pages), ...mistakes });
  const findings = judgeSurface(await readTree(copy.root), known, []).filter(({ file }) => file.endsWith(".ts"));
  assert.deepEqual(findings.map(({ file, line, text }) => `${file}:${line} ${text}`), ["lib/rpc/planted.ts:1 FIXME"]);
});
