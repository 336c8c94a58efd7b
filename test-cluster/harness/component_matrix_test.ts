import assert from "node:assert/strict";
import { loadFleet, parseClusterFile } from "@ultracloud/launch";
import { workspaceRoot } from "@ultracloud/testing";
import { assertBuilt, assertKnownComponents, judgeComponents, matrixTable } from "./component_matrix.ts";

const doc = `${workspaceRoot}/docs/component-matrix.md`;
const profilesDir = `${workspaceRoot}/test-cluster/profiles`;

const cluster = (components: Record<string, readonly string[]>) =>
  parseClusterFile(
    JSON.stringify({
      version: 1,
      clusterId: "test",
      profile: "ha-control-plane",
      network: { cidr: "10.77.0.0/24", operatorAddress: "10.77.0.1" },
      nodes: Object.fromEntries(
        Object.entries(components).map(([name, list], i) => [name, {
          role: "control-plane",
          address: `10.77.0.${i + 11}`,
          member: i + 1,
          components: list,
        }]),
      ),
    }),
    "c.json",
  );

const core = ["chainfire", "flaredb", "iam", "nix-agent"];

Deno.test("judgeComponents() wants the core on each control-plane node, and the rest of what is required on one", () => {
  assert.deepEqual(judgeComponents(cluster({ a: [...core, "deployer"], b: core })).missing, []);
  assert.deepEqual(judgeComponents(cluster({ a: [...core, "deployer"], b: ["chainfire", "flaredb", "iam"] })).missing, [
    { component: "nix-agent", where: "on b" },
  ]);
  assert.deepEqual(judgeComponents(cluster({ a: core, b: core })).missing, [
    { component: "deployer", where: "on no node" },
  ]);
});

Deno.test("judgeComponents() knows what is optional, and agents by the service they come with", () => {
  const { optional, foreign } = judgeComponents(cluster({ a: [...core, "plasmavmc", "vm-agent"], b: ["vm-agent"] }));
  assert.deepEqual(optional, { "plasmavmc": ["a"], "vm-agent": ["a", "b"] });
  assert.deepEqual(foreign, []);
});

Deno.test("assertKnownComponents() refuses what the profile does not know, by name and node", () => {
  const wrong = cluster({ a: [...core, "etcd"] });
  assert.throws(() => assertKnownComponents(wrong, "c.json"), /etcd on a is no part of ha-control-plane/);
});

Deno.test("assertBuilt() refuses what this release does not have, by name and node", () => {
  const wanted = cluster({ a: core, b: [...core, "nightlight"] });
  assert.throws(
    () => assertBuilt(wanted, new Set(core)),
    /Cannot start nightlight on b: this release does not have it/,
  );
  assertBuilt(wanted, new Set([...core, "nightlight"]));
});

Deno.test("every cluster file of the test cluster has only what its profile knows", async () => {
  for await (const { name, isFile } of Deno.readDir(profilesDir)) {
    if (!isFile) continue;
    const path = `${profilesDir}/${name}`;
    assertKnownComponents(parseClusterFile(await Deno.readTextFile(path), path), path);
  }
});

Deno.test("docs/component-matrix.md holds the matrix as it is", async () => {
  const text = await Deno.readTextFile(doc);
  const [head, rest] = text.split("<!-- matrix -->\n\n") as [string, string];
  const tail = rest.slice(rest.indexOf("\n\n<!-- end -->"));
  const fleet = await loadFleet(workspaceRoot);
  const homes = new Map([...fleet].map(([name, { dir }]) => [name, dir.slice(workspaceRoot.length + 1)]));
  const wanted = `${head}<!-- matrix -->\n\n${matrixTable(homes)}${tail}`;
  if (Deno.env.get("UC_UPDATE_GOLDEN") === "1") return await Deno.writeTextFile(doc, wanted);
  assert.equal(text, wanted, "run UC_UPDATE_GOLDEN=1 deno test -A test-cluster/harness/component_matrix_test.ts");
});
