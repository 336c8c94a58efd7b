import assert from "node:assert/strict";
import { prepareStack } from "./mod.ts";

const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");

Deno.test("a stack goes without a callee that its caller does not need, and says which one it lacks of the others", async () => {
  const dataDir = await Deno.makeTempDir();
  const ports: Record<string, number> = {};
  for (const [i, name] of ["chainfire", "flaredb", "iam", "prismnet", "plasmavmc", "vm-agent"].entries()) {
    ports[`${name}.rpc`] = 20_000 + i;
  }
  const components = ["plasmavmc"];
  try {
    const options = { root, dataDir, clusterId: "test", components };
    await using stack = await prepareStack({ ...options, ports });
    const { callees } = stack.placement("plasmavmc");
    assert.deepEqual(callees["fetcher.rpc"], []);
    assert.deepEqual(callees["iam.rpc"], ["127.0.0.1:20002"]);
    assert.doesNotMatch(await Deno.readTextFile(`${dataDir}/etc/plasmavmc/config.toml`), /fetcher/);
    const { "iam.rpc": _, ...less } = ports;
    await assert.rejects(prepareStack({ ...options, ports: less }), /Cannot place iam\.rpc: it has no port/);
  } finally {
    await Deno.remove(dataDir, { recursive: true });
  }
});
