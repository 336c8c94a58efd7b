import assert from "node:assert/strict";
import process from "node:process";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import { proposeCompletions } from "@stricli/core";
import { buildUc } from "../app.ts";
import { conditionText, parseAttribute, parseCondition } from "./_iam_conditions.ts";
import { Desk } from "./test_desk.ts";

Deno.test("parseCondition() reads keys, operators, lists and dates, and refuses what it would have to guess", () => {
  assert.deepEqual(parseCondition("time before 2026-04-01T00:00:00Z"), {
    key: "time",
    operator: "before",
    values: ["1775001600000"],
  });
  const name = parseCondition(" resource.name  starts_with web-, db- ");
  assert.deepEqual(name, { key: "resource.name", operator: "starts_with", values: ["web-", "db-"] });
  assert.equal(conditionText(name), "resource.name starts_with web-,db-");
  assert.equal(conditionText(parseCondition("time after 0")), "time after 1970-01-01T00:00:00.000Z");
  for (const bad of ["", "time", "time before", "time near 5", "time before soon", "resource.name equals a,,b"]) {
    assert.throws(() => parseCondition(bad), /^Error: Cannot /, bad);
  }
  assert.deepEqual(parseAttribute("ip=10.0.0.1=x"), ["ip", "10.0.0.1=x"]);
  assert.throws(() => parseAttribute("=x"), /wanted name=value/);
});

Deno.test("uc iam: access keys, federations, conditions, boundaries, groups and certificates, as the API has them", async () => {
  await using desk = await Desk.openIam();
  const { ok } = { ok: desk.ok.bind(desk) };
  const json = async (...words: string[]) => JSON.parse(await ok(...words, "-o", "json"));
  await ok("org", "create", "acme");
  await ok("project", "create", "acme/prod");
  const updated = await json("project", "update", "acme/prod", "--display-name", "Production", "--label", "tier=one");
  assert.deepEqual([updated.displayName, updated.meta.labels], ["Production", { tier: "one" }]);
  await desk.fails(2, ["project", "update", "acme/prod"], /Cannot change nothing/);
  const account = await json("service-account", "create", "ci");
  assert.equal((await json("service-account", "show", "ci")).meta.id, account.meta.id);

  const made = await json("iam", "access-key", "create", "ci");
  assert.match(made.secret, /^[A-Za-z0-9_-]{43}$/);
  assert.deepEqual((await json("iam", "access-key", "list", "ci")).map((k: { id: string }) => k.id), [made.id]);
  const derive = ["--date", "20260401", "--region", "us-east-1", "--service", "s3"];
  const derived = await json("iam", "access-key", "derive", made.id, ...derive);
  assert.equal(derived.principal, `service_account:${account.meta.id}`);
  assert.equal(Uint8Array.fromBase64(derived.signingKey).length, 32);
  await desk.fails(3, ["iam", "access-key", "list", "nobody"], /Cannot find .*nobody/);
  await desk.fails(2, ["iam", "access-key", "delete", "ci", made.id], /wanted --yes/);
  await ok("iam", "access-key", "delete", "ci", made.id, "--yes");
  assert.deepEqual(await json("iam", "access-key", "list", "ci"), []);

  const pair = await generateKeyPair("ES256", { extractable: true });
  const jwksFile = `${desk.dir}/jwks.json`;
  await Deno.writeTextFile(jwksFile, JSON.stringify({ keys: [{ ...await exportJWK(pair.publicKey), kid: "k" }] }));
  const claims = ["--issuer", "https://ci.test", "--audience", "uc", "--subject", "repo:acme/*"];
  await desk.fails(
    2,
    ["iam", "federation", "create", "ci", "pipeline", ...claims, "--jwks-file", "/nowhere"],
    /Cannot use the file \/nowhere/,
  );
  await ok("iam", "federation", "create", "ci", "pipeline", ...claims, "--jwks-file", jwksFile);
  assert.match(await ok("iam", "federation", "list", "ci"), /pipeline .*https:\/\/ci\.test .*repo:acme\/\*/);
  // What was set up is what the token endpoint goes by.
  const subjectToken = await new SignJWT({}).setProtectedHeader({ alg: "ES256", kid: "k" }).setIssuer("https://ci.test")
    .setAudience("uc").setSubject("repo:acme/web").setIssuedAt().setExpirationTime("5m").sign(pair.privateKey);
  const exchange = async () => {
    const response = await fetch(`${desk.url}/oauth2/token`, {
      method: "POST",
      body: new URLSearchParams({
        grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
        subject_token: subjectToken,
        subject_token_type: "urn:ietf:params:oauth:token-type:jwt",
        requested_subject: `service_account:${account.meta.id}`,
        client_id: "uc",
      }),
    });
    const { access_token, error } = await response.json();
    return access_token === undefined ? error : "ok";
  };
  assert.equal(await exchange(), "ok");
  await ok("iam", "federation", "delete", "ci", "pipeline", "--yes");
  assert.notEqual(await exchange(), "ok");

  const principal = `service_account:${account.meta.id}`;
  const binding = ["binding", "create", principal, "viewer", "--scope", "acme"];
  await ok(...binding, "--condition", "context.ip equals 10.0.0.1", "--condition", "time after 2020-01-01");
  assert.match(
    await ok("binding", "list", "--scope", "acme"),
    /context\.ip equals 10\.0\.0\.1; time after 2020-01-01T/,
  );
  const explain = ["iam", "explain", principal, "plasmavmc.vm.get", "--scope", "acme/prod"];
  assert.equal((await json(...explain)).allowed, false);
  assert.equal((await json(...explain, "--attribute", "ip=10.0.0.1")).allowed, true);
  await desk.fails(2, [...binding, "--condition", "shoe equals 43"], /Cannot compare "shoe"/);

  await ok("iam", "boundary", "set", principal, "--org", "acme", "--permission", "prismnet.*.*");
  assert.equal((await json(...explain, "--attribute", "ip=10.0.0.1")).allowed, false);
  await ok("iam", "boundary", "delete", principal, "--org", "acme", "--yes");
  assert.equal((await json(...explain, "--attribute", "ip=10.0.0.1")).allowed, true);
  await ok("iam", "group", "create", "crew", "--org", "acme");
  await ok("iam", "group", "add", "crew", principal, "--org", "acme");
  assert.deepEqual((await json("iam", "group", "show", "crew", "--org", "acme")).members, [principal]);

  await ok("iam", "keys", "make", `${desk.dir}/signing.key`);
  assert.equal((await Deno.stat(`${desk.dir}/signing.key`)).mode! & 0o777, 0o600);
  assert.equal(JSON.parse(await Deno.readTextFile(`${desk.dir}/signing.key`)).crv, "Ed25519");
  await desk.fails(5, ["iam", "keys", "make", `${desk.dir}/signing.key`], /wanted a file that does not exist yet/);
  await desk.fails(2, ["iam", "ca", "issue", jwksFile], /Cannot use the certificate request/);
  const app = await buildUc(["service-account", "show", ""]);
  const env = Deno.env.get("UC_CONFIG");
  Deno.env.set("UC_CONFIG", `${desk.dir}/uc.json`);
  try {
    const proposed = await proposeCompletions(app, ["service-account", "show", ""], { process } as never);
    assert.ok(proposed.some(({ completion }) => completion === "ci"), JSON.stringify(proposed));
  } finally {
    if (env === undefined) Deno.env.delete("UC_CONFIG");
    else Deno.env.set("UC_CONFIG", env);
  }
});
