// The certificate library injects its algorithms through it.
import "reflect-metadata";
import assert from "node:assert/strict";
import { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension } from "@peculiar/x509";
import { createWorkloadSigner, generateIdentity, nodeSvcId, type TrustFile } from "@ultracloud/authz";
import { type Fault, systemClock } from "@ultracloud/base";
import { X509Certificate } from "node:crypto";
import { AgentService, DeployerService, NodeService } from "@ultracloud/proto/deployer/v1";
import { FleetNodeService } from "@ultracloud/proto/fleetscheduler/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { startTestStack } from "@ultracloud/testing";
import { clusterOf, factsOf } from "./test_world.ts";

const hangMsMax = 90_000;
const clusterId = "test";

async function until<T>(what: string, look: () => Promise<T | undefined | false>): Promise<T> {
  for (const end = performance.now() + hangMsMax;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) throw new Error(`Waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

Deno.test("a machine that enrols is believed by the others under its own keys, gets certificates, and is nobody once removed", async () => {
  await using test = await startTestStack({
    components: ["chainfire", "flaredb", "iam", "deployer", "fleet-scheduler", "mtls-agent"],
    timeoutMs: 90_000,
  });
  const { stack } = test;
  await using closing = new AsyncDisposableStack();
  const signerOf = async (name: string, keyFile: string) =>
    await createWorkloadSigner({ clusterId, name, keyFile }, { clock: systemClock });
  const operator = await signerOf("operator", stack.operatorKeyFile);
  const at = (callee: string, signer = operator) => ({
    endpoints: [stack.endpoint(callee)],
    authorization: signer.authorization(callee),
    retries: 5,
  });
  const deployer = closing.use(createRpcClient(DeployerService, at("deployer")));
  const nodes = closing.use(createRpcClient(NodeService, at("deployer")));
  await until("a writer", () => deployer.getStatus({}).then(({ writing }) => writing, () => false));
  await deployer.applyClusterState({ stateJson: JSON.stringify(clusterOf(2)) });

  // The machine: it has its token and nothing else, and makes its keys itself.
  const post = async (path: string, body: unknown, token: string) => {
    const url = `http://${stack.placement("deployer").listen.bootstrap}${path}`;
    const headers = { authorization: `Bearer ${token}` };
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
    // deno-lint-ignore no-explicit-any -- each call knows what it asked for
    return { status: response.status, body: await response.json() as any };
  };
  const { token } = await nodes.preRegister({ node: "worker1", serial: "SN-1" });
  assert.equal((await post("/api/v1/phone-home", { facts: factsOf("SN-1") }, token)).status, 200);
  const home = await Deno.makeTempDir();
  closing.defer(() => Deno.remove(home, { recursive: true }));
  const agents = ["node-agent", "nix-agent", "mtls-agent"] as const;
  const identities: Record<string, unknown> = {};
  for (const name of agents) {
    const { publicKey, privateKey } = await generateIdentity();
    const { kty, crv, x } = publicKey;
    identities[name] = { kty, crv, x };
    const key = JSON.stringify({ ...privateKey, kid: nodeSvcId(clusterId, name, "worker1") });
    await Deno.writeTextFile(`${home}/${name}.key`, key, { mode: 0o600 });
  }
  const own = async (name: string) => await signerOf(name, `${home}/${name}.key`);
  const scheduler = closing.use(createRpcClient(FleetNodeService, at("fleet-scheduler", await own("node-agent"))));
  const register = async (node: string) => {
    try {
      const capacity = { cpuMillis: 1_000n, memoryBytes: 2n ** 30n };
      await scheduler.registerNode({ node: { name: node, agentUrl: "http://127.0.0.1:1", capacity } });
      return "ok";
    } catch (error) {
      return (error as Fault).code;
    }
  };
  assert.equal(await register("worker1"), "issuer_untrusted");
  const answer = await post("/api/v1/identity", { node: "worker1", identities }, token);
  assert.equal(answer.status, 200);

  // What it gets holds the others and itself, and the others get the same from the deployer, by their own mtls-agent.
  const trust = answer.body.trust as TrustFile;
  for (const name of agents) assert.ok(nodeSvcId(clusterId, name, "worker1") in trust.principals);
  assert.ok(`spiffe://${clusterId}/svc/fleet-scheduler` in trust.principals);
  await until("that the scheduler believes it", async () => (await register("worker1")) === "ok");
  assert.equal(await register("worker2"), "node_other");
  const { trustFile } = stack.placement("fleet-scheduler");
  assert.deepEqual(JSON.parse(await Deno.readTextFile(trustFile)).principals, trust.principals);
  assert.equal((await Deno.stat(trustFile)).mode! & 0o777, 0o600);

  // Its nix-agent reads its own node and no other.
  const reader = closing.use(createRpcClient(AgentService, at("deployer", await own("nix-agent"))));
  await until(
    "that the deployer believes it",
    () => reader.getDesired({ node: "worker1" }).then(() => true, () => false),
  );
  await assert.rejects(reader.getDesired({ node: "worker2" }), { code: "permission_denied" });

  // A certificate from iam, which it cannot reach without one: in its own name, for itself alone.
  const certificate = async (spiffeId: string) => {
    const authorization = await (await own("mtls-agent")).authorization("iam")();
    const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
    const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]) as CryptoKeyPair;
    const csr = await Pkcs10CertificateRequestGenerator.create({
      keys,
      signingAlgorithm: algorithm,
      extensions: [new SubjectAlternativeNameExtension([{ type: "url", value: spiffeId }])],
    });
    const body = { node: "worker1", csr_pem: csr.toString("pem"), authorization };
    return await post("/api/v1/certificate", body, token);
  };
  const id = nodeSvcId(clusterId, "mtls-agent", "worker1");
  const issued = await certificate(id);
  assert.deepEqual([issued.status, issued.body.code], [200, undefined]);
  const leaf = new X509Certificate(issued.body.certificate_pem);
  assert.equal(leaf.subjectAltName, `URI:${id}`);
  assert.ok(leaf.verify(new X509Certificate(issued.body.authorities_pem).publicKey));
  assert.equal((await certificate(`spiffe://${clusterId}/svc/deployer`)).status, 403);

  // Removed: the others hear of it, too.
  await nodes.removeNode({ node: "worker1" });
  await until("that it is nobody", async () => (await register("worker1")) === "issuer_untrusted");
  assert.equal((await post("/api/v1/identity", { node: "worker1", identities }, token)).body.code, "token_unknown");
});
