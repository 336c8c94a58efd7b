import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { nodeGrants, nodePrincipals, standardGrants } from "./grants.ts";
import { scopeCovers } from "./permission.ts";
import { keyScope } from "./key_scope.ts";
import { generateIdentity, nodeSvcId, svcId, type TrustFile } from "./trust.ts";
import { signTrust, trustDocumentTyp, verifyTrust } from "./trust_document.ts";
import { createWorkloadSigner } from "./workload.ts";

const clock = systemClock;

async function signerOf(name: string, kid?: string) {
  const { publicKey, privateKey } = await generateIdentity();
  const keyFile = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(keyFile, JSON.stringify({ ...privateKey, ...(kid === undefined ? {} : { kid }) }));
    return { publicKey, signer: await createWorkloadSigner({ clusterId: "test", name, keyFile }, { clock }) };
  } finally {
    await Deno.remove(keyFile);
  }
}

Deno.test("a trust document counts when the deployer in force signed it, and never backwards", async () => {
  const deployer = await signerOf("deployer"), other = await signerOf("deployer");
  const present: TrustFile = {
    clusterId: "test",
    revision: 5,
    principals: { [svcId("test", "deployer")]: { publicKey: deployer.publicKey, grants: [] } },
  };
  const node = await signerOf("node-agent");
  const id = nodeSvcId("test", "node-agent", "node07");
  const next: TrustFile = {
    ...present,
    revision: 6,
    principals: { ...present.principals, [id]: { publicKey: node.publicKey, grants: [], node: "node07" } },
  };
  assert.deepEqual(await verifyTrust(await signTrust(next, deployer.signer), present, { clock }), next);
  const refused = async (document: string, why: RegExp, inForce = present) =>
    await assert.rejects(verifyTrust(document, inForce, { clock }), { code: "trust_untrusted", message: why });
  await refused(await signTrust(next, other.signer), /not signed with the deployer's key/);
  await refused(await signTrust({ ...next, revision: 4 }, deployer.signer), /its revision is 4, and 5 is in force/);
  await refused(await signTrust({ ...next, clusterId: "other" }, deployer.signer), /it is about other/);
  await refused(await deployer.signer.sign({ trust: { clusterId: "test" } }, trustDocumentTyp), /principals/);
  // What else the deployer signs is no trust document.
  await refused(await deployer.signer.sign({ trust: next }, "wl+jwt"), /not signed with the deployer's key/);
  await refused(await signTrust(next, deployer.signer), /has no spiffe:\/\/test\/svc\/deployer/, {
    ...present,
    principals: {},
  });
});

Deno.test("a node's own key says whose it is; one that claims another component does not", async () => {
  const own = nodeSvcId("test", "node-agent", "node07");
  assert.equal((await signerOf("node-agent", own)).signer.id, own);
  assert.equal((await signerOf("node-agent")).signer.id, svcId("test", "node-agent"));
  assert.equal((await signerOf("nix-agent", own)).signer.id, svcId("test", "nix-agent"));
});

Deno.test("an agent with its node's own key has the keys of its node in chainfire, and no other node's", () => {
  const covers = (key: string, permission: string) =>
    nodeGrants("nix-agent", "node07").some((grant) =>
      grant.permission === permission && scopeCovers(grant.scope, keyScope(new TextEncoder().encode(key)))
    );
  assert.ok(covers("/ultracloud/drain/requests/node07", "chainfire.kv.*"));
  assert.ok(covers("/ultracloud/systems/observed/node07", "chainfire.kv.*"));
  assert.ok(covers("/ultracloud/systems/desired/node07", "chainfire.kv.get"));
  for (const key of ["/ultracloud/drain/requests/node08", "/ultracloud/drain/requests/node070"]) {
    assert.equal(covers(key, "chainfire.kv.*"), false, key);
  }
  assert.equal(covers("/ultracloud/drain/answers/node07", "chainfire.kv.*"), false);
  for (const name of nodePrincipals) assert.ok(standardGrants(name).length > 0, name);
});
