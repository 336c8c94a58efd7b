import { loadTrust, svcId } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import assert from "node:assert/strict";
import { parseClusterFile } from "./cluster_file.ts";
import { makeClusterKeys } from "./cluster_keys.ts";

const cluster = (components: readonly string[]) =>
  parseClusterFile(
    JSON.stringify({
      version: 1,
      clusterId: "lab",
      profile: "single-node-dev",
      network: { cidr: "127.0.0.0/8", operatorAddress: "127.0.0.2" },
      nodes: { one: { role: "control-plane", address: "127.0.0.1", member: 1, components } },
    }),
    "c.json",
  );

async function withDir(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    await work(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("makeClusterKeys() makes private files, and a trust file that components take", () =>
  withDir(async (dir) => {
    const { made, kept } = await makeClusterKeys(cluster(["chainfire", "iam"]), dir);
    assert.deepEqual(made, [
      "chainfire/identity.key",
      "iam/identity.key",
      "operator/identity.key",
      "iam/admin.token",
      "iam/master.key",
      "iam/signing.key",
    ]);
    assert.deepEqual(kept, []);
    for (const path of [...made, "trust.json"]) assert.equal((await Deno.stat(`${dir}/${path}`)).mode! & 0o777, 0o600);
    assert.equal((await Deno.stat(`${dir}/iam`)).mode! & 0o777, 0o700);
    await loadTrust(`${dir}/trust.json`, { clock: systemClock });
    const { principals } = JSON.parse(await Deno.readTextFile(`${dir}/trust.json`));
    assert.deepEqual(Object.keys(principals), ["chainfire", "iam", "operator"].map((name) => svcId("lab", name)));
    assert.ok(!JSON.stringify(principals).includes('"d":'), "a private key is in the trust file");
  }));

Deno.test("makeClusterKeys() keeps what is there, and adds what is new", () =>
  withDir(async (dir) => {
    await makeClusterKeys(cluster(["chainfire"]), dir);
    const before = await Deno.readTextFile(`${dir}/chainfire/identity.key`);
    const { made, kept } = await makeClusterKeys(cluster(["chainfire", "flaredb"]), dir);
    assert.deepEqual(made, ["flaredb/identity.key"]);
    assert.deepEqual(kept, ["chainfire/identity.key", "operator/identity.key"]);
    assert.equal(await Deno.readTextFile(`${dir}/chainfire/identity.key`), before);
    const { principals } = JSON.parse(await Deno.readTextFile(`${dir}/trust.json`));
    assert.equal(principals[svcId("lab", "chainfire")].publicKey.x, JSON.parse(before).x);
  }));

Deno.test("makeClusterKeys() refuses a key that is none, and leaves the trust file alone", () =>
  withDir(async (dir) => {
    await Deno.mkdir(`${dir}/chainfire`);
    await Deno.writeTextFile(`${dir}/chainfire/identity.key`, "not a key");
    await assert.rejects(makeClusterKeys(cluster(["chainfire"]), dir), { code: "key_invalid" });
    await assert.rejects(Deno.stat(`${dir}/trust.json`), Deno.errors.NotFound);
  }));
