import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { createTestCa, startTestStack } from "@ultracloud/testing";
import { seededRng, systemClock } from "@ultracloud/base";
import { Health as HealthParts, noopLogger, Registry } from "@ultracloud/observe";
import { Health } from "@ultracloud/proto/grpc/health/v1";
import { CertificateService, TokenService } from "@ultracloud/proto/iam/v1";
import { anonymous, createRpcClient, startRpcServer } from "@ultracloud/rpc";
import { parse, stringify } from "smol-toml";

const authorityPublishMs = 6_000;
const certificateTtlMsMax = 12_000;
const hangMsMax = 90_000;

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (const end = performance.now() + hangMsMax; !(await holds());) {
    if (performance.now() > end) throw new Error(`Waited too long until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

Deno.test("the agent gets certificates, and a new authority takes over under mutual TLS without a failed call", async () => {
  const overrides = { iam: { authorityPublishMs, certificateTtlMsMax } };
  const { stack, ...test } = await startTestStack({
    components: ["flaredb", "iam", "mtls-agent"],
    start: false,
    overrides,
  });
  await using closing = new AsyncDisposableStack();
  closing.defer(() => test[Symbol.asyncDispose]());
  let failed = true;
  const configFile = `${stack.placement("mtls-agent").configDir}/config.toml`;
  const dirOf = (name: string) => `${stack.placement(name).configDir}/tls`;
  const certificates = ["flaredb", "iam"].map((name) => ({
    identity: `svc/${name}`,
    identityKeyFile: `${stack.placement(name).configDir}/identity.key`,
    dir: dirOf(name),
  }));
  const config = parse(await Deno.readTextFile(configFile));
  await Deno.writeTextFile(configFile, stringify({ ...config, certificates, pollMs: 500 }));
  await stack.startAll({ timeoutMs: 60_000 });
  closing.defer(async () => {
    if (failed) console.log(await Deno.readTextFile(stack.logFile("mtls-agent")));
  });
  const filesOf = (name: string) => ({
    certFile: `${dirOf(name)}/tls.crt`,
    keyFile: `${dirOf(name)}/tls.key`,
    caFile: `${dirOf(name)}/ca.crt`,
  });
  const certOf = async (name: string) => new X509Certificate(await Deno.readTextFile(filesOf(name).certFile));
  for (const name of ["flaredb", "iam"]) {
    await until(`${name} has its certificate`, () => Deno.stat(filesOf(name).certFile).then(() => true, () => false));
    const certificate = await certOf(name);
    assert.match(certificate.subjectAltName!, new RegExp(`URI:spiffe://test/svc/${name}(,|$)`));
    assert.ok(certificate.verify(new X509Certificate(await Deno.readTextFile(filesOf(name).caFile)).publicKey));
    assert.equal((await Deno.stat(filesOf(name).keyFile)).mode! & 0o777, 0o600);
  }

  // A server and a client with these files, as components have them.
  const server = closing.use(
    await startRpcServer({ name: "mtls-test", version: "0", listen: "127.0.0.1:0", tls: filesOf("flaredb") }, {
      services: [],
      authenticator: { authenticate: () => anonymous },
      authorizer: { authorize: () => ({ allow: true }) },
      registry: new Registry(),
      health: new HealthParts(),
      log: noopLogger,
      clock: systemClock,
      rng: seededRng(1),
    }),
  );
  const client = closing.use(createRpcClient(Health, { endpoints: [server.url], tls: filesOf("iam"), retries: 0 }));
  const failures: string[] = [];
  let answered = 0;
  let over = false;
  const load = (async () => {
    while (!over) {
      try {
        await client.check({});
        answered++;
      } catch (error) {
        failures.push(String(error));
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  })();
  const oldDir = await Deno.makeTempDir();
  closing.defer(() => Deno.remove(oldDir, { recursive: true }));
  try {
    for (const [name, path] of Object.entries(filesOf("iam"))) await Deno.copyFile(path, `${oldDir}/${name}`);
    const before = (await certOf("flaredb")).issuer;
    const iam = { endpoints: [stack.endpoint("iam")] };
    const adminToken = (await Deno.readTextFile(stack.adminTokenFile)).trim();
    const { accessToken } = await closing.use(createRpcClient(TokenService, iam)).bootstrapToken({ adminToken });
    const authorization = () => `Bearer ${accessToken}`;
    const authorities = closing.use(createRpcClient(CertificateService, { ...iam, authorization }));
    const [old] = (await authorities.listAuthorities({})).authorities;
    await authorities.rotateAuthority({ authority: old!.id });
    await until(
      "both trust the new authority",
      async () => (await Deno.readTextFile(filesOf("iam").caFile)).split("BEGIN CERTIFICATE").length === 3,
    );
    await until("certificates are of the new authority", async () => (await certOf("flaredb")).issuer !== before);
    await until(
      "the old authority is trusted no more",
      async () => (await Deno.readTextFile(filesOf("flaredb").caFile)).split("BEGIN CERTIFICATE").length === 2,
    );
  } finally {
    over = true;
    await load;
  }
  console.log(`${answered} calls answered over mutual TLS, ${failures.length} failed`);
  assert.deepEqual(failures, []);
  assert.ok(answered > 100);
  const old = { certFile: `${oldDir}/certFile`, keyFile: `${oldDir}/keyFile`, caFile: filesOf("iam").caFile };
  const forger = await (await createTestCa()).issueFiles(oldDir, "forged", { spiffeId: "spiffe://test/svc/iam" });
  for (const tls of [old, { ...forger, caFile: old.caFile }]) {
    using stranger = createRpcClient(Health, { endpoints: [server.url], tls, retries: 0 });
    await assert.rejects(stranger.check({}), { kind: "unavailable" });
  }
  failed = false;
});
