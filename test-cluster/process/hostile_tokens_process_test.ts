import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { DeployerService } from "@ultracloud/proto/deployer/v1";
import { FleetNodeService } from "@ultracloud/proto/fleetscheduler/v1";
import { OrgService } from "@ultracloud/proto/iam/v1";
import { VmService } from "@ultracloud/proto/plasmavmc/v1";
import { VpcService } from "@ultracloud/proto/prismnet/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { exportSPKI, importJWK, type JWK, type JWTHeaderParameters, SignJWT } from "jose";
import { startTestCloud } from "../cloud.ts";

const encode = (value: unknown) =>
  new TextEncoder().encode(JSON.stringify(value)).toBase64({ alphabet: "base64url", omitPadding: true });

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "ok";
  } catch (error) {
    if (error instanceof Fault) return `${error.kind}/${error.code}`;
    throw error;
  }
}

Deno.test("every service that lets people in refuses hostile tokens with the code of what is wrong", async () => {
  await using cloud = await startTestCloud(["fleet-scheduler", "deployer"]);
  const { stack, session } = cloud;
  // The key that iam really signs with, so that everything but the one thing is right.
  const jwk: JWK = JSON.parse(await Deno.readTextFile(`${stack.placement("iam").stateDir}/signing.key`));
  const key = await importJWK(jwk, "EdDSA");
  const { keys } = await (await fetch(`${stack.endpoint("iam")}/oauth2/jwks`)).json() as { keys: JWK[] };
  const kid = keys[0]!.kid!;
  const good = (await session.bearer()).slice("Bearer ".length);
  const claims = JSON.parse(
    new TextDecoder().decode(Uint8Array.fromBase64(good.split(".")[1]!, { alphabet: "base64url" })),
  );
  const nowSeconds = Math.floor(Date.now() / 1000);
  const sign = (change: Record<string, unknown> = {}, header: Partial<JWTHeaderParameters> = {}) =>
    new SignJWT({ ...claims, ...change }).setProtectedHeader({ alg: "EdDSA", typ: "at+jwt", kid, ...header }).sign(key);
  const publicKey = await importJWK({ kty: jwk.kty!, crv: jwk.crv!, x: jwk.x! }, "EdDSA", {
    extractable: true,
  }) as CryptoKey;
  const secret = new TextEncoder().encode(await exportSPKI(publicKey));
  const hostile: [what: string, token: string, code: string][] = [
    ["alg none", `${encode({ alg: "none", typ: "at+jwt", kid })}.${encode(claims)}.`, "token_malformed"],
    [
      "HS256 with the public key",
      await new SignJWT(claims).setProtectedHeader({ alg: "HS256", typ: "at+jwt", kid }).sign(secret),
      "token_malformed",
    ],
    ["another issuer", await sign({ iss: "http://evil.test" }), "issuer_untrusted"],
    ["another audience", await sign({ aud: "elsewhere" }), "token_invalid"],
    ["an unknown kid", await sign({}, { kid: "other" }), "key_unknown"],
    ["expired", await sign({ iat: nowSeconds - 7_200, exp: nowSeconds - 3_600 }), "token_expired"],
    ["not yet valid", await sign({ nbf: nowSeconds + 3_600 }), "token_invalid"],
    ["no expiry", await sign({ exp: undefined }), "token_invalid"],
    ["an ID token's typ", await sign({}, { typ: "JWT" }), "token_invalid"],
    ["truncated", good.slice(0, -8), "token_invalid"],
    [
      "changed",
      good.replace(/\.[^.]+\./, `.${encode({ ...claims, sub: "user:usr_01J00000000000000000000000" })}.`),
      "token_invalid",
    ],
    ["a few kilobytes of nothing", "a".repeat(10_000), "token_too_long"],
  ];
  type At = Parameters<typeof createRpcClient>[1];
  const readers: Record<string, (at: At, closing: DisposableStack) => Promise<unknown>> = {
    iam: (at, closing) => closing.use(createRpcClient(OrgService, at)).listOrgs({}),
    prismnet: (at, closing) => closing.use(createRpcClient(VpcService, at)).listVpcs({ project: "a/b" }),
    plasmavmc: (at, closing) => closing.use(createRpcClient(VmService, at)).listVms({ project: "a/b" }),
    "fleet-scheduler": (at, closing) => closing.use(createRpcClient(FleetNodeService, at)).listNodes({}),
    deployer: (at, closing) => closing.use(createRpcClient(DeployerService, at)).getStatus({}),
  };
  for (const [component, read] of Object.entries(readers)) {
    const ask = async (token: string) => {
      using closing = new DisposableStack();
      const at = { endpoints: [stack.endpoint(component)], authorization: () => `Bearer ${token}`, retries: 0 };
      return await codeOf(read(at, closing));
    };
    assert.equal(await ask(await sign()), "ok", `${component} refuses the token that the others are made from`);
    for (const [what, token, code] of hostile) {
      assert.equal(await ask(token), `unauthenticated/${code}`, `${component}: ${what}`);
    }
    // A header of a mebibyte is refused by the HTTP server itself, or the connection is closed.
    const huge = await fetch(`${stack.endpoint(component)}/ultracloud.iam.v1.OrgService/ListOrgs`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${"a".repeat(2 ** 20)}` },
      body: "{}",
    }).then(async (response) => {
      await response.body?.cancel();
      return response.status;
    }, () => 0);
    assert.ok([0, 400, 431].includes(huge), `${component} answered ${huge} to a token of 1 MiB`);
    assert.equal(await ask(await sign()), "ok", `${component} no longer answers`);
  }
});
