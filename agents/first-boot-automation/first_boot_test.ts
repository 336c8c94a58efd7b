import assert from "node:assert/strict";
import { systemClock, systemRng } from "@ultracloud/base";
import { readHandover, writeHandover } from "@ultracloud/bootstrap";
import { decodeJwt } from "jose";
import { parse } from "smol-toml";
import { configSchema } from "./config.ts";
import { runFirstBoot } from "./first_boot.ts";

const node = "worker1";
const id = "spiffe://test/svc/nix-agent/worker1";

async function world() {
  const dir = await Deno.makeTempDir({ prefix: "uc-first-boot-" });
  const calls: { path: string; token: string | null; body: Record<string, unknown> }[] = [];
  const failures: Response[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
    const { pathname: path } = new URL(request.url);
    calls.push({ path, token: request.headers.get("authorization"), body: await request.json() });
    const failure = failures.shift();
    if (failure !== undefined) return failure;
    if (path === "/api/v1/certificate") {
      return Response.json({ node, certificate_pem: "CERT", authorities_pem: "CA" });
    }
    const peers = { deployer: ["https://10.0.0.1:7150"], chainfire: ["https://10.0.0.1:7100"] };
    return Response.json({ node, cluster_id: "test", trust: { clusterId: "test", principals: {} }, peers });
  });
  await writeHandover(`${dir}/handover`, {
    version: 1,
    node,
    hostname: node,
    cluster_id: "test",
    deployer_url: `http://127.0.0.1:${(server.addr as Deno.NetAddr).port}`,
    bootstrap_token: "token",
    system: "/nix/store/x",
  });
  const config = configSchema.parse({
    handoverDir: `${dir}/handover`,
    credentialsDir: `${dir}/credentials`,
    agents: ["nix-agent"],
    retryMsMin: 10,
    retryMsMax: 20,
    agent: { launcher: "setsid" },
  });
  const said: string[] = [];
  return {
    dir,
    calls,
    failures,
    said,
    run: () =>
      runFirstBoot(
        config,
        { clock: systemClock, rng: systemRng, say: (text) => said.push(text) },
        AbortSignal.timeout(20_000),
      ),
    async [Symbol.asyncDispose]() {
      await server.shutdown();
      await Deno.remove(dir, { recursive: true });
    },
  };
}

Deno.test("the agent gets a key that never leaves, a certificate in its own name and a configuration; the token goes", async () => {
  await using w = await world();
  assert.equal(await w.run(), true);
  const [identity, certificate] = w.calls;
  assert.deepEqual([identity!.path, identity!.token], ["/api/v1/identity", "Bearer token"]);
  const brought = (identity!.body.identities as Record<string, object>)["nix-agent"]!;
  assert.deepEqual(Object.keys(brought).sort(), ["crv", "kty", "x"]);
  const token = decodeJwt(String(certificate!.body.authorization).slice("Bearer ".length));
  assert.deepEqual([token.iss, token.aud], [id, "spiffe://test/svc/iam"]);
  const own = `${w.dir}/credentials/nix-agent`;
  const text = (name: string) => Deno.readTextFile(`${own}/${name}`);
  assert.deepEqual([await text("tls.crt"), await text("tls-ca.crt")], ["CERT", "CA"]);
  assert.match(await text("tls.key"), /^-----BEGIN PRIVATE KEY-----\n/);
  for (const name of ["identity.key", "tls.key"]) {
    assert.equal((await Deno.stat(`${own}/${name}`)).mode! & 0o777, 0o600);
  }
  assert.ok(!JSON.stringify(w.calls).includes(JSON.parse(await text("identity.key")).d));
  const config = parse(await text("config.toml")) as Record<string, unknown>;
  assert.deepEqual([config.nodeName, config.launcher], [node, "setsid"]);
  assert.equal((await readHandover(`${w.dir}/handover`)).bootstrap_token, undefined);
  assert.equal(await w.run(), false);
  assert.equal(w.calls.length, 2);
});

Deno.test("what fails is tried again with the same key", async () => {
  await using w = await world();
  const failure = (code: string, status: number) => Response.json({ code, message: `Cannot: ${code}` }, { status });
  w.failures.push(failure("not_writing", 503), failure("unused", 503));
  assert.equal(await w.run(), true);
  const keys = w.calls.filter(({ path }) => path === "/api/v1/identity").map(({ body }) => JSON.stringify(body));
  assert.equal(keys.length, 3);
  assert.equal(new Set(keys).size, 1);
  assert.equal(w.said.length, 2);
});
