import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { Redacted } from "@ultracloud/base";
import { buckets } from "@ultracloud/platform";
import { decodeProtectedHeader } from "jose";
import { fingerprintOf } from "./seal.ts";
import { adminToken, codeOf, password, until, type World, world } from "./test_world.ts";

const keysMaxAgeMs = 300_000;
const accessTtlMs = 900_000;

async function phases(w: World): Promise<Record<string, string>> {
  const { keys } = await (await w.admin()).signingKeys.listSigningKeys({});
  return Object.fromEntries(keys.map((key) => [key.id, key.phase]));
}

const kidOf = (token: string) => decodeProtectedHeader(token).kid!;

Deno.test("a signing key is published, signs after one cache life, and the one before it is trusted one token life longer", async () => {
  await using w = await world();
  const second = await w.replica();
  const root = await w.admin();
  const login = async (at = w.first) => (await at.as("").tokens.bootstrapToken({ adminToken })).accessToken;
  const old = kidOf(await login());
  const { keys } = await root.signingKeys.rotateSigningKey({ signingKey: old });
  const fresh = keys.find((key) => key.phase === "published")!.id;
  assert.deepEqual(await phases(w), { [old]: "signing", [fresh]: "published" });
  // Verifiers have the new key before anything is signed with it, and nobody rotates on top.
  assert.deepEqual(w.first.iam.policy.present().snapshot.keys.map((k) => k.kid), [old, fresh]);
  assert.equal(
    await codeOf(root.signingKeys.rotateSigningKey({ signingKey: old })),
    "failed_precondition/rotation_under_way",
  );
  assert.equal(
    await codeOf(root.signingKeys.rotateSigningKey({ signingKey: fresh })),
    "invalid_argument/signing_key_other",
  );
  w.advance(keysMaxAgeMs - 1_000);
  const last = await login();
  assert.equal(kidOf(last), old);
  w.advance(1_000);
  await until("the other replica knows", () => second.iam.policy.version === w.first.iam.policy.version);
  assert.equal(kidOf(await login()), fresh);
  assert.equal(kidOf(await login(second)), fresh);
  assert.deepEqual(await phases(w), { [old]: "verifying", [fresh]: "signing" });
  w.advance(accessTtlMs - 2_000);
  assert.equal(await codeOf(w.as(last).tokens.whoAmI({})), "ok");
  w.advance(10_000);
  await until("the old key is gone", async () => {
    const held = w.first.iam.policy.present().snapshot.keys.map((k) => k.kid);
    return held.length === 1 && held[0] === fresh && Object.keys(await phases(w)).length === 1;
  });
  assert.equal(await codeOf(w.as(last).tokens.whoAmI({})), "unauthenticated/key_unknown");
});

Deno.test("an emergency rotation trusts no key but the new one, at once", async () => {
  await using w = await world();
  const root = await w.admin();
  const stolen = (await w.as("").tokens.bootstrapToken({ adminToken })).accessToken;
  await root.signingKeys.rotateSigningKey({ emergency: true, signingKey: kidOf(stolen) });
  assert.equal(await codeOf(w.as(stolen).tokens.whoAmI({})), "unauthenticated/key_unknown");
  assert.equal(await codeOf((await w.admin()).tokens.whoAmI({})), "ok");
  assert.equal(Object.keys(await phases(w)).length, 1);
});

Deno.test("a rotated API key works beside the new one until its overlap ends", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  const ask = { project: "acme/prod", serviceAccount: "ci" };
  await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" });
  const old = await root.accounts.createApiKey(ask);
  const rotated = await root.accounts.rotateApiKey({ ...ask, keyId: old.key!.id, overlapMs: 60_000n });
  const login = (key: { key?: { id: string } | undefined; secret: string }) =>
    codeOf(w.as("").tokens.exchangeApiKey({ keyId: key.key!.id, secret: key.secret }));
  assert.deepEqual([await login(old), await login(rotated)], ["ok", "ok"]);
  w.advance(60_000);
  assert.deepEqual([await login(old), await login(rotated)], ["unauthenticated/api_key_refused", "ok"]);
});

Deno.test("an access key's secret is shown once, kept sealed, and gives services only the key of a day", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  const account = await root.accounts.createServiceAccount({ project: "acme/prod", name: "s3" });
  const ask = { project: "acme/prod", serviceAccount: "s3" };
  const { key, secret } = await root.accessKeys.createAccessKey(ask);
  const rows = (await w.kv.scan(buckets.records, { limit: 10_000 })).map((r) => new TextDecoder().decode(r.value))
    .join();
  assert.ok(!rows.includes(secret));
  const derive = { keyId: key!.id, date: "20260401", region: "us-east-1", service: "s3" };
  const answer = await root.accessKeys.deriveSigningKey(derive);
  const mac = (k: string | Uint8Array, text: string) => new Uint8Array(createHmac("sha256", k).update(text).digest());
  const wanted = ["20260401", "us-east-1", "s3", "aws4_request"].reduce<string | Uint8Array>(mac, `AWS4${secret}`);
  assert.deepEqual(answer.signingKey, wanted);
  assert.equal(answer.principal, `service_account:${account.meta!.id}`);
  assert.equal(
    await codeOf(root.accessKeys.deriveSigningKey({ ...derive, date: "today" })),
    "invalid_argument/invalid_field",
  );
  await root.accessKeys.deleteAccessKey({ ...ask, keyId: key!.id });
  assert.match(await codeOf(root.accessKeys.deriveSigningKey(derive)), /^not_found/);
});

Deno.test("everything is sealed with the next master key while replicas go on; one with the old key alone says so", async () => {
  const [first, next] = [0, 1].map(() => new Redacted(crypto.getRandomValues(new Uint8Array(32))));
  await using w = await world({ masterKey: first!.expose() });
  const second = await w.replica();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  await root.accounts.createServiceAccount({ project: "acme/prod", name: "s3" });
  const { key } = await root.accessKeys.createAccessKey({ project: "acme/prod", serviceAccount: "s3" });
  const derive = () =>
    codeOf(root.accessKeys.deriveSigningKey({ keyId: key!.id, date: "20260401", region: "r", service: "s3" }));
  const [oldId, newId] = [fingerprintOf(first!), fingerprintOf(next!)];
  assert.deepEqual((await root.masterKeys.getMasterKeyStatus({})).sealed, { [oldId]: 2n });
  assert.equal(await codeOf(root.masterKeys.reseal({ masterKey: newId })), "invalid_argument/master_key_other");
  w.first.iam.masterKeys.addNext(next!);
  await second.iam.masterKeys.tell();
  // A replica that could not open what the others seal would be lost.
  assert.equal(await codeOf(root.masterKeys.reseal({ masterKey: newId })), "failed_precondition/master_key_missing");
  second.iam.masterKeys.addNext(next!);
  await second.iam.masterKeys.tell();
  const status = await root.masterKeys.reseal({ masterKey: newId });
  assert.deepEqual([status.current, status.next, status.sealed], [newId, "", { [newId]: 2n }]);
  assert.equal(await derive(), "ok");
  await until("the other replica seals with it", () => second.iam.policy.version === w.first.iam.policy.version);
  assert.equal(await codeOf(second.as("").tokens.bootstrapToken({ adminToken })), "ok");
  const fresh = await w.replica({ masterKey: next!.expose() });
  assert.equal(await codeOf(fresh.as("").tokens.bootstrapToken({ adminToken })), "ok");
  const late = await w.replica({ masterKey: first!.expose(), waitReady: false });
  await until("it says why", () => /master key/.test(late.health.snapshot().parts.policy?.reason ?? ""));
});

Deno.test("the audit trail tells who changed what and what was refused, page by page", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  const bob = await w.user("acme", "bob");
  assert.match(await codeOf(bob.orgs.createOrg({ name: "mine" })), /denied|not_found/);
  await codeOf(w.as("").tokens.login({ org: "acme", user: "bob", password: `${password}x` }));
  await w.first.iam.trail.flush();
  const all = [];
  for (let pageToken = "";;) {
    const answer = await root.audit.listAuditEvents({ page: { pageSize: 2, pageToken } });
    all.push(...answer.events);
    pageToken = answer.page!.nextPageToken;
    if (pageToken === "") break;
  }
  const told = all.map((e) => `${e.principal.split(":")[0]} ${e.method.split("/")[2]} ${e.outcome}`);
  assert.ok(told.includes("user CreateOrg ok"), told.join("\n"));
  assert.ok(told.some((line) => /^user CreateOrg (permission_denied|not_found)$/.test(line)), told.join("\n"));
  assert.ok(told.includes("user Login login_failed"), told.join("\n"));
  const tried = await root.audit.listAuditEvents({ principal: bob.principal });
  assert.deepEqual(tried.events.map((e) => [e.method.split("/")[2], e.scope]), [["CreateOrg", ""], ["Login", "acme"]]);
  assert.match(await codeOf(bob.audit.listAuditEvents({})), /^(not_found|permission_denied)/);
});

Deno.test("failed logins stand in the audit trail, and strangers cannot fill it with them", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  const bob = await w.user("acme", "bob");
  const { tokens } = w.as("");
  for (let i = 0; i < 7; i++) await codeOf(tokens.login({ org: "acme", user: `nobody-${i}`, password }));
  for (let i = 0; i < 5; i++) await codeOf(tokens.login({ org: "acme", user: "bob", password: "a wrong password" }));
  await codeOf(tokens.exchangeApiKey({ keyId: "key_nope", secret: "wrong" }));
  await codeOf(tokens.bootstrapToken({ adminToken: "x".repeat(40) }));
  const failed = async () => {
    await w.first.iam.trail.flush();
    const { events } = await root.audit.listAuditEvents({ page: { pageSize: 1_000 } });
    return events.filter((e) => /refused|^login_/.test(e.outcome));
  };
  const before = await failed();
  const of = (principal: string) => before.filter((e) => e.principal === principal).map((e) => e.outcome);
  // The first guesses were looked at, the others slowed and counted with those of strangers.
  const looked = of(bob.principal);
  assert.ok(looked.length >= 3 && looked.every((outcome) => outcome === "login_failed"), looked.join());
  assert.equal(of("anonymous").length, 6);
  w.advance(60_000);
  const after = await failed();
  assert.deepEqual(after.slice(before.length).map((e) => [e.principal, e.outcome]), [
    ["anonymous", `login_failed (${7 + 5 - looked.length + 2 - 6} more)`],
  ]);
});

Deno.test("an answer kept for its idempotency key is sealed anew with the master key, and is answered as before", async () => {
  const [first, next] = [0, 1].map(() => new Redacted(crypto.getRandomValues(new Uint8Array(32))));
  await using w = await world({ masterKey: first!.expose() });
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  const ask = { project: "acme/prod", serviceAccount: "ci" };
  await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" }, {
    headers: { "idempotency-key": "plain" },
  });
  const headers = { "idempotency-key": "once" };
  const { secret } = await root.accounts.createApiKey(ask, { headers });
  const [oldId, newId] = [fingerprintOf(first!), fingerprintOf(next!)];
  // The signing key and the kept answer.
  assert.deepEqual((await root.masterKeys.getMasterKeyStatus({})).sealed, { [oldId]: 2n });
  w.first.iam.masterKeys.addNext(next!);
  assert.deepEqual((await root.masterKeys.reseal({ masterKey: newId })).sealed, { [newId]: 2n });
  const fresh = await w.replica({ masterKey: next!.expose() });
  const { accessToken } = await fresh.as("").tokens.bootstrapToken({ adminToken });
  assert.equal((await fresh.as(accessToken).accounts.createApiKey(ask, { headers })).secret, secret);
});
