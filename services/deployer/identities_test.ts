import assert from "node:assert/strict";
import { generateIdentity, type TrustFile } from "@ultracloud/authz";
import { fault } from "@ultracloud/base";
import { clusterOf, openWorld } from "./test_world.ts";

const operator = "spiffe://test/svc/operator", agent = "spiffe://test/svc/node-agent/worker1";

async function publicKey() {
  const { x } = (await generateIdentity()).publicKey;
  return { kty: "OKP", crv: "Ed25519", x: x! } as const;
}

/** A world with one machine that is let in, and the base of its trust file. */
async function enrolled(more: Partial<Parameters<typeof openWorld>[0]> = {}) {
  const file: TrustFile = {
    clusterId: "test",
    principals: {
      [operator]: { publicKey: await publicKey(), grants: [] },
      // As the renewed file of this deployer's own node has it: the node is long gone.
      "spiffe://test/svc/node-agent/gone": { publicKey: await publicKey(), grants: [], node: "gone" },
    },
  };
  const sign = (file: TrustFile) => Promise.resolve(`signed ${JSON.stringify(file)}`);
  const w = await openWorld({ identities: { trust: { file }, sign }, ...more });
  await w.apply(clusterOf(2));
  const { token } = await w.nodes.preRegister({ node: "worker1", serial: "SN-1" });
  assert.equal((await w.phoneHome("SN-1", token)).status, 200);
  const post = (body: unknown, secret: string | undefined = token) =>
    w.call("/api/v1/identity", { body, ...(secret === undefined ? {} : { token: secret }) });
  return { w, token, post, file };
}

Deno.test("a node's keys are trusted from its enrolment to its removal, and only those that its machine brought", async () => {
  const { w, token, post } = await enrolled();
  await using _ = w;
  const none = await w.trust.getTrust({});
  assert.doesNotMatch(none.document, /worker1|svc\/node-agent\/gone/);
  const own = await publicKey();
  const kept = await post({ node: "worker1", identities: { "node-agent": own, "nix-agent": await publicKey() } });
  assert.equal(kept.status, 200);
  assert.deepEqual(
    Object.keys(kept.body.trust.principals).sort(),
    [
      operator,
      "spiffe://test/svc/nix-agent/worker1",
      agent,
    ].sort(),
  );
  const { publicKey: key, grants, node } = kept.body.trust.principals[agent];
  assert.deepEqual([key, node], [own, "worker1"]);
  assert.ok(grants.some(({ permission }: { permission: string }) => permission === "fleetscheduler.node.register"));
  const told = await w.trust.getTrust({ knownVersion: none.version, waitMs: 20_000 });
  assert.equal(told.document, kept.body.trust_document);
  assert.deepEqual((await w.nodes.getNode({ node: "worker1" })).identities, ["node-agent", "nix-agent"]);
  assert.equal((await w.trust.getTrust({ knownVersion: told.version })).document, "");

  // Nobody else can bring keys for the node, and nobody can bring those of a service.
  const refused = async (code: string, body: unknown, secret: string | undefined = token) =>
    assert.equal((await post(body, secret)).body.code, code);
  await refused("token_used", { node: "worker2", identities: { "node-agent": own } });
  await refused("token_unknown", { node: "worker1", identities: { "node-agent": own } }, "ucb_forged");
  assert.equal(
    (await w.call("/api/v1/identity", { body: { node: "worker1", identities: { "node-agent": own } } })).body.code,
    "token_missing",
  );
  await refused("body_invalid", { node: "worker1", identities: { operator: own } });
  await refused("body_invalid", { node: "worker1", identities: {} });
  await refused("body_invalid", { node: "worker1", identities: { "node-agent": { ...own, d: "private" } } });

  await w.nodes.removeNode({ node: "worker1" });
  const after = await w.trust.getTrust({ knownVersion: told.version, waitMs: 20_000 });
  assert.doesNotMatch(after.document, /worker1/);
  assert.ok(revisionOf(after) > revisionOf(told) && revisionOf(told) > revisionOf(none));
});

const revisionOf = ({ version }: { version: string }) => Number(version.split("-")[0]);

Deno.test("the revision of what is trusted goes on after a restore into an empty store, and a standby names the writer", async () => {
  const { w, post } = await enrolled();
  await using _ = w;
  await post({ node: "worker1", identities: { "node-agent": await publicKey() } });
  const before = await w.trust.getTrust({});
  const { exportJson } = await w.deployer.export({});
  await using fresh = await openWorld({});
  await fresh.deployer.restore({ exportJson });
  const after = await fresh.trust.getTrust({});
  assert.match(after.document, /svc\/node-agent\/worker1/);
  assert.ok(revisionOf(after) >= revisionOf(before));
  await using standby = await openWorld({ kv: w.kv, instance: "b", lead: false });
  await assert.rejects(standby.trust.getTrust({}), { code: "not_leader" });
});

Deno.test("a machine's request for a certificate goes to iam in the machine's own name", async () => {
  const asked: unknown[] = [];
  const answers = { certificatePem: "CERT", bundlePem: "CA" };
  const { token, ...rest } = await enrolled();
  await rest.w[Symbol.asyncDispose]();
  assert.ok(token);
  const trust = { file: { clusterId: "test", principals: {} } };
  const sign = () => Promise.resolve("");
  const issueCertificate = (request: { csrPem?: string }, o?: { headers?: HeadersInit }) => {
    asked.push([request.csrPem, new Headers(o?.headers).get("authorization")]);
    if (request.csrPem === "bad") return Promise.reject(fault("permission_denied", "permission_denied", "Cannot"));
    // deno-lint-ignore no-explicit-any -- as much of the answer as is read
    return Promise.resolve(answers as any);
  };
  const { w, token: own } = await enrolled({ identities: { trust, sign, certificates: { issueCertificate } } });
  await using _ = w;
  const ask = (csr_pem: string, secret = own) =>
    w.call("/api/v1/certificate", { body: { node: "worker1", csr_pem, authorization: "Bearer a.b.c" }, token: secret });
  assert.deepEqual((await ask("CSR")).body, { node: "worker1", certificate_pem: "CERT", authorities_pem: "CA" });
  assert.deepEqual(asked, [["CSR", "Bearer a.b.c"]]);
  assert.equal((await ask("bad")).status, 403);
  assert.equal((await ask("CSR", "ucb_forged")).status, 401);
  assert.equal(asked.length, 2);
  const { w: alone, token: other } = await enrolled();
  await using __ = alone;
  const body = { node: "worker1", csr_pem: "CSR", authorization: "Bearer a.b.c" };
  assert.equal((await alone.call("/api/v1/certificate", { body, token: other })).body.code, "no_iam");
});
