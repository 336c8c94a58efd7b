import assert from "node:assert/strict";
import { createAuthenticator, openPolicyClient, svcId } from "@ultracloud/authz";
import { systemRng, utf8 } from "@ultracloud/base";
import { startPace } from "@ultracloud/testing";
import { Health, noopLogger } from "@ultracloud/observe";
import { buckets } from "@ultracloud/platform";
import { createLocalJWKSet, jwtVerify } from "jose";
import { adminToken, clusterId, codeOf, issuer, password, until, type World, world } from "./test_world.ts";

async function tenant(w: World) {
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  return root;
}

/** All that the store holds, as text. */
async function stored(w: World): Promise<string> {
  let text = "";
  for (const bucket of Object.values(buckets)) {
    for (const item of await w.kv.scan(bucket, { limit: 10_000 })) text += `${item.key} ${utf8.decode(item.value)}\n`;
  }
  return text;
}

Deno.test("Login() takes the right password only, slows guesses down and locks the account for a while", async () => {
  await using w = await world({ stillClock: true });
  const root = await tenant(w);
  await root.users.createUser({ org: "acme", name: "alice", password });
  const { tokens } = w.as("");
  const login = (word: string, user = "alice") => codeOf(tokens.login({ org: "acme", user, password: word }));
  assert.equal(await login(password), "ok");
  for (let i = 0; i < 3; i++) assert.equal(await login("wrong"), "unauthenticated/login_failed");
  // From here on even the right password waits: else the answer would tell.
  assert.equal(await login(password), "resource_exhausted/login_slowed");
  for (let i = 3; i < 10; i++) {
    w.advance(70_000);
    assert.equal(await login("wrong"), "unauthenticated/login_failed");
  }
  w.advance(120_000);
  assert.equal(await login(password), "resource_exhausted/login_locked");
  w.advance(14 * 60_000);
  assert.equal(await login(password), "ok");
  assert.equal(await login("wrong"), "unauthenticated/login_failed");
  // Nobody learns who has an account.
  assert.equal(await login("wrong", "nobody"), "unauthenticated/login_failed");
  assert.equal(await login("wrong", "../x|y"), "unauthenticated/login_failed");
});

Deno.test("Login() locks strangers, never a device that has logged in before, and an administrator unlocks", async () => {
  await using w = await world({ stillClock: true });
  const root = await tenant(w);
  await root.users.createUser({ org: "acme", name: "alice", password });
  const { tokens } = w.as("");
  const alice = { org: "acme", user: "alice" };
  const { deviceToken } = await tokens.login({ ...alice, password });
  assert.match(deviceToken, /^ucd_/);
  const login = (word: string, device = "") => codeOf(tokens.login({ ...alice, password: word, deviceToken: device }));
  for (let i = 0; i < 10; i++) {
    assert.equal(await login("guess"), "unauthenticated/login_failed");
    w.advance(130_000);
  }
  // Whoever goes on guessing keeps strangers out for as long as they like, and only them.
  assert.equal(await login(password), "resource_exhausted/login_locked");
  const again = await tokens.login({ ...alice, password, deviceToken });
  assert.equal(again.deviceToken, deviceToken);
  assert.equal(await login(password, `${deviceToken.slice(0, -1)}!`), "resource_exhausted/login_locked");
  // A stolen device token is a device to be slowed by itself.
  for (let i = 0; i < 3; i++) assert.equal(await login("guess", deviceToken), "unauthenticated/login_failed");
  assert.equal(await login(password, deviceToken), "resource_exhausted/login_slowed");
  await (await w.admin()).users.unlockUser(alice);
  assert.equal(await login(password), "ok");
  assert.equal(await login(password, deviceToken), "ok");
});

Deno.test("Login() counts guesses that are sent at once one by one", async () => {
  await using w = await world({ stillClock: true });
  const root = await tenant(w);
  await root.users.createUser({ org: "acme", name: "alice", password });
  const { tokens } = w.as("");
  const answers = await Promise.all(
    Array.from({ length: 12 }, (_, i) => codeOf(tokens.login({ org: "acme", user: "alice", password: `guess ${i}` }))),
  );
  assert.equal(answers.filter((a) => a === "unauthenticated/login_failed").length, 3);
});

Deno.test("Refresh() works once per token; a second use ends the login for both holders", async () => {
  await using w = await world();
  const { tokens } = w.as("");
  const first = await tokens.bootstrapToken({ adminToken });
  const second = await tokens.refresh({ refreshToken: first.refreshToken });
  assert.equal((await w.as(second.accessToken).tokens.whoAmI({})).principal, first.principal);
  assert.equal(await codeOf(tokens.refresh({ refreshToken: first.refreshToken })), "unauthenticated/refresh_refused");
  assert.equal(await codeOf(tokens.refresh({ refreshToken: second.refreshToken })), "unauthenticated/refresh_refused");
  for (const refreshToken of ["", "x", "ucr_", `${first.refreshToken}x`]) {
    assert.equal(await codeOf(tokens.refresh({ refreshToken })), "unauthenticated/refresh_refused");
  }
  const other = await tokens.bootstrapToken({ adminToken });
  w.advance(25 * 3_600_000);
  assert.equal(await codeOf(tokens.refresh({ refreshToken: other.refreshToken })), "unauthenticated/refresh_refused");
});

Deno.test("a disabled user is out at once: access tokens, logins and passwords", async () => {
  await using w = await world();
  const root = await tenant(w);
  const alice = await w.user("acme", "alice", { acme: "viewer" });
  const { tokens } = w.as("");
  const held = await tokens.login({ org: "acme", user: "alice", password });
  assert.equal((await root.users.setUserDisabled({ org: "acme", user: "alice", disabled: true })).disabled, true);
  assert.equal(await codeOf(alice.tokens.whoAmI({})), "unauthenticated/token_revoked");
  assert.equal(await codeOf(tokens.refresh({ refreshToken: held.refreshToken })), "unauthenticated/refresh_refused");
  assert.equal(await codeOf(tokens.login({ org: "acme", user: "alice", password })), "unauthenticated/login_failed");
  await root.users.setUserDisabled({ org: "acme", user: "alice", disabled: false });
  assert.equal(await codeOf(alice.tokens.whoAmI({})), "unauthenticated/token_revoked");
  const again = await tokens.login({ org: "acme", user: "alice", password });
  assert.equal((await w.as(again.accessToken).tokens.whoAmI({})).displayName, "acme/alice");
  await root.users.deleteUser({ org: "acme", user: "alice" });
  assert.equal(await codeOf(w.as(again.accessToken).tokens.whoAmI({})), "unauthenticated/token_revoked");
});

Deno.test("another service refuses a revoked token within two seconds, through its policy client", async () => {
  await using w = await world();
  const root = await tenant(w);
  const alice = await w.user("acme", "alice", { acme: "viewer" });
  const { accessToken } = await w.as("").tokens.login({ org: "acme", user: "alice", password });
  const health = new Health();
  await using policy = await openPolicyClient({ endpoints: [w.first.url], file: `${w.dir}/policy.jws` }, {
    signer: await w.signer("plasmavmc"),
    trust: w.trust,
    clock: w.clock,
    rng: systemRng,
    log: noopLogger,
    health,
  });
  await until("policy has come", () => policy.version > 0);
  const elsewhere = createAuthenticator({ audience: svcId(clusterId, "plasmavmc") }, {
    trust: w.trust,
    policy,
    clock: w.clock,
  });
  const headers = new Headers({ authorization: `Bearer ${accessToken}` });
  const ask = async () => await elsewhere.authenticate(headers, { certificateId: undefined });
  assert.deepEqual(await ask(), { kind: "user", id: alice.principal });
  assert.equal(policy.index()!.evaluate(alice.principal, "plasmavmc.vm.get", "acme/prod").allow, true);
  // How slow this machine is meanwhile; on an idle one next to nothing.
  await using pace = startPace([async () => void await (await fetch(`${w.first.url}/readyz`)).body?.cancel()]);
  const start = performance.now();
  const { policyVersion } = await root.tokens.revokeTokens({ org: "acme", principal: alice.principal });
  await until("the token is refused", async () => await codeOf(ask()) === "unauthenticated/token_revoked");
  const ms = performance.now() - start;
  assert.ok(ms < 2_000 + 3 * pace.slowestMs, `${ms.toFixed(0)} ms, where calls took ${pace.slowestMs.toFixed(0)} ms`);
  assert.ok(BigInt(policy.version) >= policyVersion);
  assert.equal(((await Deno.stat(`${w.dir}/policy.jws`)).mode! & 0o777).toString(8), "600");
});

Deno.test("RevokeTokens() reaches only principals of the organisation", async () => {
  await using w = await world();
  const root = await tenant(w);
  await root.orgs.createOrg({ name: "other" });
  const alice = await w.user("acme", "alice", { acme: "admin" });
  const bob = await w.user("other", "bob", { other: "viewer" });
  const revoke = (principal: string, org = "acme") => codeOf(alice.tokens.revokeTokens({ org, principal }));
  assert.equal(await revoke(bob.principal), "not_found/principal_not_found");
  assert.equal(await revoke("user:nobody"), "not_found/principal_not_found");
  assert.match(await revoke(bob.principal, "other"), /^not_found/);
  assert.equal(await codeOf(bob.tokens.whoAmI({})), "ok");
});

Deno.test("an API key logs its service account in; its secret is shown once and stored nowhere", async () => {
  await using w = await world();
  const root = await tenant(w);
  const account = await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" });
  const principal = `service_account:${account.meta!.id}`;
  await root.roles.createBinding({ scope: "acme/prod", role: "editor", principal });
  const ask = { project: "acme/prod", serviceAccount: "ci" };
  const headers = { "idempotency-key": "once" };
  const { key, secret } = await root.accounts.createApiKey(ask, { headers });
  assert.equal((await root.accounts.createApiKey(ask, { headers })).secret, secret);
  assert.ok(!(await stored(w)).includes(secret));
  const { tokens } = w.as("");
  const token = await tokens.exchangeApiKey({ keyId: key!.id, secret });
  assert.equal(token.refreshToken, "");
  assert.equal((await w.as(token.accessToken).tokens.whoAmI({})).principal, principal);
  const refused = "unauthenticated/api_key_refused";
  assert.equal(await codeOf(tokens.exchangeApiKey({ keyId: key!.id, secret: "wrong" })), refused);
  assert.equal(await codeOf(tokens.exchangeApiKey({ keyId: "key_nope", secret })), refused);
  assert.deepEqual((await root.accounts.listApiKeys(ask)).keys.map((k) => k.id), [key!.id]);
  await root.accounts.deleteApiKey({ ...ask, keyId: key!.id });
  assert.equal(await codeOf(tokens.exchangeApiKey({ keyId: key!.id, secret })), refused);
  const short = await root.accounts.createApiKey({ ...ask, ttlMs: 60_000n });
  w.advance(60_000);
  assert.equal(await codeOf(tokens.exchangeApiKey({ keyId: short.key!.id, secret: short.secret })), refused);
  assert.equal(
    await codeOf(root.projects.deleteProject({ project: "acme/prod" })),
    "failed_precondition/project_not_empty",
  );
  await root.accounts.deleteServiceAccount(ask);
  assert.equal(await codeOf(w.as(token.accessToken).tokens.whoAmI({})), "unauthenticated/token_revoked");
});

Deno.test("the OAuth endpoint gives an API key a token that the published keys verify", async () => {
  await using w = await world();
  const root = await tenant(w);
  const account = await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" });
  const { key, secret } = await root.accounts.createApiKey({ project: "acme/prod", serviceAccount: "ci" });
  const get = async (path: string) => await (await fetch(w.first.url + path)).json();
  const discovery = await get("/.well-known/openid-configuration");
  assert.equal(discovery.issuer, issuer);
  const jwks = await get("/oauth2/jwks");
  assert.ok(jwks.keys.every((k: { d?: string }) => k.d === undefined));
  const ask = async (body: Record<string, string>, headers: Record<string, string> = {}) => {
    const answer = await fetch(`${w.first.url}/oauth2/token`, {
      method: "POST",
      body: new URLSearchParams(body),
      headers,
    });
    return { status: answer.status, body: await answer.json() };
  };
  const basic = { authorization: `Basic ${btoa(`${key!.id}:${secret}`)}` };
  const good = await ask({ grant_type: "client_credentials" }, basic);
  assert.equal(good.status, 200);
  const { payload } = await jwtVerify(good.body.access_token, createLocalJWKSet(jwks), {
    issuer,
    audience: "ultracloud",
    typ: "at+jwt",
  });
  assert.equal(payload.sub, `service_account:${account.meta!.id}`);
  const posted = { grant_type: "client_credentials", client_id: key!.id, client_secret: secret };
  assert.equal((await ask(posted)).status, 200);
  assert.deepEqual((await ask({ ...posted, client_secret: "x" })).body.error, "invalid_client");
  assert.equal((await ask({ grant_type: "password" })).body.error, "unsupported_grant_type");
  assert.equal((await ask({ ...posted, junk: "x".repeat(70_000) })).status, 400);
  const { refreshToken } = await w.as("").tokens.bootstrapToken({ adminToken });
  const renew = { grant_type: "refresh_token", client_id: "uc", refresh_token: refreshToken };
  assert.equal((await ask({ ...renew, client_id: "ocl_nobody" })).body.error, "invalid_client");
  assert.equal((await ask(renew)).status, 200);
  assert.equal((await ask(renew)).body.error, "invalid_grant");
});

Deno.test("no log line and no stored row holds a password, a token or a secret", async () => {
  await using w = await world();
  const root = await tenant(w);
  await w.user("acme", "alice", { acme: "viewer" });
  await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" });
  const { key, secret } = await root.accounts.createApiKey({ project: "acme/prod", serviceAccount: "ci" });
  const { tokens } = w.as("");
  const issued = [
    await tokens.exchangeApiKey({ keyId: key!.id, secret }),
    await tokens.login({ org: "acme", user: "alice", password }),
    await tokens.bootstrapToken({ adminToken }),
  ];
  await codeOf(tokens.refresh({ refreshToken: issued[2]!.refreshToken }));
  await codeOf(tokens.refresh({ refreshToken: issued[2]!.refreshToken }));
  const secrets = [password, secret, adminToken, ...issued.flatMap((t) => [t.accessToken, t.refreshToken])]
    .filter((s) => s !== "");
  const logged = w.lines.join("\n");
  assert.match(logged, /event: "login"/);
  assert.match(logged, /used twice/);
  const rows = await stored(w);
  for (const text of secrets) {
    assert.ok(!logged.includes(text), "a log line holds a secret");
    assert.ok(!rows.includes(text), "a row holds a secret");
  }
});
