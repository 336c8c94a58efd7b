import assert from "node:assert/strict";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import * as oidc from "openid-client";
import { adminToken, codeOf, password, type World } from "../test_world.ts";
import { oauthWorld, PlainBrowser } from "./test_flow.ts";

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code";
const exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange";
const accessTokenType = "urn:ietf:params:oauth:token-type:access_token";
const alice = { org: "acme", user: "alice", password };

/** The library as a program with this registration would use it. */
async function client(w: World, id: string, secret?: string): Promise<oidc.Configuration> {
  const auth = secret === undefined ? oidc.None() : oidc.ClientSecretBasic(secret);
  const metadata = secret === undefined ? {} : { client_secret: secret };
  return await oidc.discovery(new URL(w.first.url), id, metadata, auth, {
    execute: [oidc.allowInsecureRequests],
    [oidc.customFetch]: wholly,
  });
}

/** The library leaves bodies that it does not need unread, which would keep their connections. */
const wholly: oidc.CustomFetch = async (url, options) => {
  const answer = await fetch(url, options as RequestInit);
  return new Response(await answer.bytes(), answer);
};

/** OAuth's error code of a failed call. */
async function errorOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "ok";
  } catch (error) {
    if (error instanceof oidc.ResponseBodyError || error instanceof oidc.AuthorizationResponseError) return error.error;
    if (error instanceof oidc.WWWAuthenticateChallengeError) return `challenge ${error.status}`;
    throw error;
  }
}

async function startLogin(config: oidc.Configuration, redirect_uri: string, scope = "openid profile email") {
  const verifier = oidc.randomPKCECodeVerifier();
  const [state, nonce] = [oidc.randomState(), oidc.randomNonce()];
  const url = oidc.buildAuthorizationUrl(config, {
    redirect_uri,
    scope,
    state,
    nonce,
    code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
  });
  return { url, checks: { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce } };
}

Deno.test("authorization code with PKCE: a program learns who logged in, and its login can be renewed once a token", async () => {
  await using o = await oauthWorld();
  const { w, root } = o;
  const redirect = "https://app.test/callback";
  const made = await root.clients.createOAuthClient({ org: "acme", name: "app", redirectUris: [redirect] });
  const config = await client(w, made.client!.meta!.id, made.secret);
  const browser = new PlainBrowser();
  const { url, checks } = await startLogin(config, redirect);
  const page = await browser.open(url.href);
  assert.equal(page.status, 200);
  assert.match(page.headers.get("content-security-policy")!, /default-src 'none'/);
  assert.equal((await browser.submit({ ...alice, password: "wrong" })).status, 401);
  assert.match(browser.html, /role="alert"/);
  const back = await browser.submit(alice);
  assert.equal(back.status, 303);
  const callback = new URL(back.headers.get("location")!);
  assert.equal(callback.origin + callback.pathname, redirect);
  const tokens = await oidc.authorizationCodeGrant(config, callback, checks);
  const claims = tokens.claims()!;
  assert.equal(claims.aud, made.client!.meta!.id);
  assert.equal(claims.name, "acme/alice");
  assert.equal(claims.email, "alice@acme.test");
  const info = await oidc.fetchUserInfo(config, tokens.access_token, claims.sub);
  assert.equal(info.preferred_username, "acme/alice");
  assert.equal((await w.as(tokens.access_token).tokens.whoAmI({})).displayName, "acme/alice");
  const renewed = await oidc.refreshTokenGrant(config, tokens.refresh_token!);
  assert.equal(renewed.claims()!.sub, claims.sub);
  // Reuse: whoever comes second ends the login, and the access tokens of it.
  assert.equal(await errorOf(oidc.refreshTokenGrant(config, tokens.refresh_token!)), "invalid_grant");
  assert.equal(await errorOf(oidc.refreshTokenGrant(config, renewed.refresh_token!)), "invalid_grant");
  await w.first.iam.policy.refresh();
  assert.equal(await codeOf(w.as(renewed.access_token).tokens.whoAmI({})), "unauthenticated/token_revoked");
});

Deno.test("an authorization code is good once, for its program, its verifier and its address", async () => {
  await using o = await oauthWorld();
  const config = await client(o.w, "uc");
  const redirect = "http://127.0.0.1:49152/callback";
  const login = async () => {
    const browser = new PlainBrowser();
    const started = await startLogin(config, redirect, "openid");
    await browser.open(started.url.href);
    const back = await browser.submit(alice);
    return { ...started, callback: new URL(back.headers.get("location")!) };
  };
  const first = await login();
  const other = { ...first.checks, pkceCodeVerifier: oidc.randomPKCECodeVerifier() };
  assert.equal(await errorOf(oidc.authorizationCodeGrant(config, first.callback, other)), "invalid_grant");
  const tokens = await oidc.authorizationCodeGrant(config, first.callback, first.checks);
  // Somebody has the code as well: the login it made is over.
  assert.equal(await errorOf(oidc.authorizationCodeGrant(config, first.callback, first.checks)), "invalid_grant");
  assert.equal(await errorOf(oidc.refreshTokenGrant(config, tokens.refresh_token!)), "invalid_grant");
  const late = await login();
  o.w.advance(61_000);
  assert.equal(await errorOf(oidc.authorizationCodeGrant(config, late.callback, late.checks)), "invalid_grant");
});

Deno.test("the authorization endpoint sends nobody to a stranger and takes no login without PKCE or from a foreign page", async () => {
  await using o = await oauthWorld();
  const config = await client(o.w, "uc");
  const { url } = await startLogin(config, "http://127.0.0.1:5000/callback");
  const browser = new PlainBrowser();
  const changed = (change: Record<string, string | undefined>) => {
    const copy = new URL(url);
    for (const [name, value] of Object.entries(change)) {
      if (value === undefined) copy.searchParams.delete(name);
      else copy.searchParams.set(name, value);
    }
    return copy.href;
  };
  for (
    const redirect_uri of [
      "https://evil.test/callback",
      "http://127.0.0.1:5000/other",
      "http://127.0.0.1.evil.test/callback",
      "http://user@127.0.0.1:5000/callback",
      "javascript:alert(1)",
      undefined,
    ]
  ) {
    const answer = await browser.open(changed({ redirect_uri }));
    assert.deepEqual([answer.status, answer.headers.get("location")], [400, null], redirect_uri);
  }
  assert.equal((await browser.open(changed({ client_id: "ocl_nobody" }))).status, 400);
  assert.equal((await browser.open(`${url.href}&client_id=uc`)).status, 400);
  const error = async (change: Record<string, string | undefined>) => {
    const answer = await browser.open(changed(change));
    assert.equal(answer.status, 303);
    return new URL(answer.headers.get("location")!).searchParams.get("error");
  };
  assert.equal(await error({ code_challenge: undefined }), "invalid_request");
  assert.equal(await error({ code_challenge_method: "plain" }), "invalid_request");
  assert.equal(await error({ response_type: "token" }), "unsupported_response_type");
  assert.equal(await error({ prompt: "none" }), "login_required");
  assert.equal(await error({ request: "x" }), "request_not_supported");
  // A page that another browser was shown.
  await browser.open(url.href);
  browser.forgetCookies();
  assert.equal((await browser.submit(alice)).status, 403);
  await browser.open(url.href);
  const denied = await browser.submit({ decision: "deny" });
  assert.equal(new URL(denied.headers.get("location")!).searchParams.get("error"), "access_denied");
  // What a program is called is text, not markup.
  const evil = await o.root.clients.createOAuthClient({
    org: "",
    name: "evil",
    redirectUris: ["https://e.test/"],
    public: true,
  });
  const page = await browser.open(
    changed({ client_id: evil.client!.meta!.id, redirect_uri: "https://e.test/", state: '"><script>' }),
  );
  assert.equal(page.status, 200);
  assert.ok(!browser.html.includes("<script"));
  assert.match(page.headers.get("content-security-policy")!, /form-action 'self' https:\/\/e\.test;/);
  // A program of one organisation is not for users of another.
  await o.root.orgs.createOrg({ name: "other" });
  const theirs = await o.root.clients.createOAuthClient({
    org: "other",
    name: "app",
    redirectUris: ["https://o.test/"],
    public: true,
  });
  await browser.open(changed({ client_id: theirs.client!.meta!.id, redirect_uri: "https://o.test/" }));
  assert.equal((await browser.submit(alice)).status, 403);
});

Deno.test("device code: the terminal waits, the person decides elsewhere", async () => {
  await using o = await oauthWorld();
  const config = await client(o.w, "uc");
  const poll = (device_code: string) => errorOf(oidc.genericGrantRequest(config, deviceGrant, { device_code }));
  const started = await oidc.initiateDeviceAuthorization(config, { scope: "openid profile" });
  assert.match(started.user_code, /^[B-Z]{4}-[B-Z]{4}$/);
  assert.equal(await poll(started.device_code), "authorization_pending");
  assert.equal(await poll(started.device_code), "slow_down");
  const browser = new PlainBrowser();
  await browser.open(started.verification_uri_complete!);
  assert.equal((await browser.submit({ ...alice, password: "wrong" })).status, 401);
  assert.equal((await browser.submit({ ...alice, user_code: "BBBB-BBBB" })).status, 404);
  assert.equal((await browser.submit({ ...alice, user_code: started.user_code.toLowerCase() })).status, 200);
  const tokens = await oidc.genericGrantRequest(config, deviceGrant, { device_code: started.device_code });
  assert.equal((await o.w.as(tokens.access_token).tokens.whoAmI({})).displayName, "acme/alice");
  assert.ok(tokens.refresh_token);
  assert.equal(await poll(started.device_code), "expired_token");

  const refused = await oidc.initiateDeviceAuthorization(config, {});
  await browser.open(refused.verification_uri);
  await browser.submit({ ...alice, user_code: refused.user_code, decision: "deny" });
  assert.equal(await poll(refused.device_code), "access_denied");
  const old = await oidc.initiateDeviceAuthorization(config, {});
  o.w.advance(601_000);
  assert.equal(await poll(old.device_code), "expired_token");
  assert.equal(await poll("unknown"), "expired_token");
});

Deno.test("client credentials, introspection and revocation through the library", async () => {
  await using o = await oauthWorld();
  const { w, root } = o;
  const account = await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" });
  const key = await root.accounts.createApiKey({ project: "acme/prod", serviceAccount: "ci" });
  const ci = await client(w, key.key!.id, key.secret);
  const { access_token } = await oidc.clientCredentialsGrant(ci);
  const told = await oidc.tokenIntrospection(ci, access_token);
  assert.deepEqual([told.active, told.sub, told.iss], [true, `service_account:${account.meta!.id}`, w.first.url]);
  const mine = await w.as("").tokens.bootstrapToken({ adminToken });
  // Of others' tokens it learns nothing, until it is allowed to.
  assert.deepEqual(await oidc.tokenIntrospection(ci, mine.accessToken), { active: false });
  await root.roles.createBinding({ scope: "", role: "admin", principal: `service_account:${account.meta!.id}` });
  assert.equal((await oidc.tokenIntrospection(ci, mine.accessToken)).active, true);
  assert.equal((await oidc.tokenIntrospection(ci, mine.refreshToken)).active, true);
  assert.deepEqual(await oidc.tokenIntrospection(ci, "rubbish"), { active: false });
  const wrong = await client(w, key.key!.id, "wrong");
  assert.equal(await errorOf(oidc.clientCredentialsGrant(wrong)), "challenge 401");
  assert.equal(await errorOf(oidc.tokenIntrospection(await client(w, "uc"), access_token)), "challenge 401");

  await oidc.tokenRevocation(ci, access_token);
  assert.deepEqual(await oidc.tokenIntrospection(ci, access_token), { active: false });
  assert.equal(await codeOf(w.as(access_token).tokens.whoAmI({})), "unauthenticated/token_revoked");
  // Nobody revokes what another program got.
  await oidc.tokenRevocation(ci, mine.refreshToken);
  const uc = await client(w, "uc");
  const renewed = await oidc.refreshTokenGrant(uc, mine.refreshToken);
  await oidc.tokenRevocation(uc, renewed.refresh_token!);
  assert.equal(await errorOf(oidc.refreshTokenGrant(uc, renewed.refresh_token!)), "invalid_grant");
  assert.equal(await codeOf(w.as(renewed.access_token).tokens.whoAmI({})), "unauthenticated/token_revoked");
  // A deleted key takes its tokens with it.
  const again = await oidc.clientCredentialsGrant(ci);
  await root.accounts.deleteApiKey({ project: "acme/prod", serviceAccount: "ci", keyId: key.key!.id });
  assert.equal(await codeOf(w.as(again.access_token).tokens.whoAmI({})), "unauthenticated/token_revoked");
});

Deno.test("token exchange: an actor, a service account for who may, and an outside issuer's tokens", async () => {
  await using o = await oauthWorld();
  const { w, root } = o;
  const account = await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" });
  const ci = `service_account:${account.meta!.id}`;
  await root.roles.createBinding({ scope: "acme/prod", role: "viewer", principal: ci });
  const uc = await client(w, "uc");
  const admin = await w.as("").tokens.bootstrapToken({ adminToken });
  const person = await w.as("").tokens.login(alice);
  const exchange = (parameters: Record<string, string>) => oidc.genericGrantRequest(uc, exchangeGrant, parameters);
  const of = (token: string, more: Record<string, string> = {}) =>
    exchange({ subject_token: token, subject_token_type: accessTokenType, ...more });
  const acted = await of(person.accessToken, { actor_token: admin.accessToken, actor_token_type: accessTokenType });
  assert.equal(acted.issued_token_type, accessTokenType);
  assert.equal((await w.as(acted.access_token).tokens.whoAmI({})).displayName, "acme/alice");
  assert.equal(await errorOf(of(acted.access_token)), "invalid_request");
  assert.equal(await errorOf(of(person.accessToken, { requested_subject: ci })), "access_denied");
  const lent = await of(admin.accessToken, { requested_subject: ci });
  assert.equal((await w.as(lent.access_token).tokens.whoAmI({})).principal, ci);
  assert.equal(await errorOf(of(person.accessToken, { audience: "elsewhere" })), "invalid_target");
  assert.equal(await errorOf(of("rubbish")), "invalid_request");
  // The lender's end is the end of what was lent.
  await root.tokens.revokeTokens({ org: "", principal: admin.principal });
  assert.equal(await codeOf(w.as(lent.access_token).tokens.whoAmI({})), "unauthenticated/token_revoked");

  const outside = await generateKeyPair("ES256");
  const jwks = JSON.stringify({ keys: [{ ...await exportJWK(outside.publicKey), kid: "o1", alg: "ES256" }] });
  const again = await w.admin();
  const trust = {
    project: "acme/prod",
    serviceAccount: "ci",
    issuer: "https://ci.test",
    audience: "ultracloud",
    subject: "repo:acme/*",
  };
  await again.federations.createFederation({ ...trust, name: "ci", jwks });
  assert.equal(
    await codeOf(
      again.federations.createFederation({ ...trust, name: "bad", jwks: '{"keys":[{"kty":"oct","k":"x"}]}' }),
    ),
    "invalid_argument/invalid_jwks",
  );
  const foreign = (claims: Record<string, string>, key = outside.privateKey) =>
    new SignJWT({ iss: trust.issuer, aud: trust.audience, sub: "repo:acme/web", ...claims })
      .setProtectedHeader({ alg: "ES256", kid: "o1" }).setIssuedAt().setExpirationTime("5m").sign(key);
  const jwt = { subject_token_type: "urn:ietf:params:oauth:token-type:jwt", requested_subject: ci };
  const good = await exchange({ ...jwt, subject_token: await foreign({}) });
  assert.equal((await w.as(good.access_token).tokens.whoAmI({})).principal, ci);
  assert.ok(good.expires_in! <= 300);
  const stranger = await generateKeyPair("ES256");
  for (
    const token of [
      await foreign({ sub: "repo:other/web" }),
      await foreign({ iss: "https://evil.test" }),
      await foreign({ aud: "other" }),
      await foreign({}, stranger.privateKey),
    ]
  ) assert.equal(await errorOf(exchange({ ...jwt, subject_token: token })), "invalid_request");
});
