import assert from "node:assert/strict";
import { type Clock, Fault, systemClock } from "@ultracloud/base";
import type { Principal } from "@ultracloud/rpc";
import { exportSPKI, importJWK, SignJWT } from "jose";
import {
  createAuthenticator,
  createWorkloadSigner,
  fixedPolicyView,
  generateIdentity,
  loadTrust,
  type PolicySnapshot,
  svcId,
} from "./mod.ts";

const audience = svcId("test", "prismnet");
const issuer = "http://iam.test";

async function world() {
  const dir = await Deno.makeTempDir();
  const [caller, stranger, userKey] = await Promise.all([generateIdentity(), generateIdentity(), generateIdentity()]);
  const callerId = svcId("test", "plasmavmc");
  await Deno.writeTextFile(
    `${dir}/trust.json`,
    JSON.stringify({ clusterId: "test", principals: { [callerId]: { publicKey: caller.publicKey, grants: [] } } }),
  );
  await Deno.writeTextFile(`${dir}/caller.key`, JSON.stringify(caller.privateKey));
  let offsetMs = 0;
  const clock: Clock = { ...systemClock, nowMs: () => Date.now() + offsetMs };
  const snapshot: PolicySnapshot = {
    version: 1,
    issuedAtMs: 0,
    issuer,
    keys: [{ ...userKey.publicKey, kid: "k1", alg: "EdDSA" }],
    roles: [],
    bindings: [],
    revokedBefore: { "user:revoked": Date.now() + 1_000 },
  };
  const trust = await loadTrust(`${dir}/trust.json`, { clock });
  const authenticator = createAuthenticator({ audience }, { trust, policy: await fixedPolicyView(snapshot), clock });
  const signer = await createWorkloadSigner({ clusterId: "test", name: "plasmavmc", keyFile: `${dir}/caller.key` }, {
    clock,
  });
  return {
    caller,
    callerId,
    stranger,
    userKey,
    signer,
    advance: (ms: number) => offsetMs += ms,
    // As if in the same tick of the clock: the time of the file does not tell.
    async trust(principals: Record<string, unknown>) {
      const { mtime } = await Deno.stat(`${dir}/trust.json`);
      await Deno.writeTextFile(`${dir}/trust.json`, JSON.stringify({ clusterId: "test", principals }));
      await Deno.utime(`${dir}/trust.json`, mtime!, mtime!);
    },
    revoked: (header: string) => authenticator.revoked!(new Headers({ authorization: header })),
    ask: (header?: string): Principal | Promise<Principal> =>
      authenticator.authenticate(new Headers(header === undefined ? {} : { authorization: header }), {
        certificateId: undefined,
      }),
    [Symbol.asyncDispose]: () => Deno.remove(dir, { recursive: true }),
  };
}

type World = Awaited<ReturnType<typeof world>>;

async function userToken(
  w: World,
  change: { claims?: Record<string, unknown>; header?: Record<string, unknown>; key?: unknown } = {},
) {
  const now = Math.floor(Date.now() / 1000);
  const key = (change.key ?? w.userKey.privateKey) as Parameters<typeof importJWK>[0];
  return await new SignJWT({
    iss: issuer,
    aud: "ultracloud",
    sub: "user:u1",
    iat: now,
    exp: now + 900,
    ...change.claims,
  })
    .setProtectedHeader({ alg: "EdDSA", typ: "at+jwt", kid: "k1", ...change.header })
    .sign(await importJWK(key, "EdDSA"));
}

Deno.test("authenticate() takes workload and user tokens, and answers at once the second time", async () => {
  await using w = await world();
  const header = await w.signer.authorization("prismnet")();
  assert.deepEqual(await w.ask(header), { kind: "workload", id: w.callerId });
  assert.ok(!(w.ask(header) instanceof Promise));
  assert.deepEqual(await w.ask(`Bearer ${await userToken(w)}`), { kind: "user", id: "user:u1" });
  assert.deepEqual(await w.ask(), { kind: "anonymous", id: "anonymous" });
});

Deno.test("authenticate() refuses a remembered token once it has expired", async () => {
  await using w = await world();
  const header = await w.signer.authorization("prismnet")();
  await w.ask(header);
  w.advance(70_000);
  await assert.rejects(async () => await w.ask(header), { code: "token_expired" });
});

Deno.test("authorization() renews its token before the old one ends", async () => {
  await using w = await world();
  const authorization = w.signer.authorization("prismnet");
  const first = await authorization();
  assert.equal(await authorization(), first);
  w.advance(45_000);
  assert.notEqual(await authorization(), first);
});

Deno.test("a component that leaves the trust file is refused soon, though its token is remembered", async () => {
  await using w = await world();
  const header = await w.signer.authorization("prismnet")();
  await w.ask(header);
  assert.equal(w.revoked(header), undefined);
  await w.trust({});
  const codeOf = async () => {
    try {
      await w.ask(header);
      return "ok";
    } catch (error) {
      return (error as Fault).code;
    }
  };
  for (const end = Date.now() + 20_000; await codeOf() === "ok";) {
    assert.ok(Date.now() < end, "it is still let in");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(await codeOf(), "issuer_untrusted");
  assert.equal((w.revoked(header) as Fault).code, "issuer_untrusted");
});

const encode = (value: unknown) =>
  btoa(JSON.stringify(value)).replaceAll("=", "").replaceAll("+", "-").replaceAll("/", "_");

const hostile: Readonly<Record<string, readonly [(w: World) => Promise<string> | string, string]>> = {
  "no scheme": [() => "abc", "scheme_unknown"],
  "not a JWT": [() => "Bearer abc", "token_malformed"],
  "alg none": [
    (w) =>
      `Bearer ${encode({ alg: "none" })}.${encode({ iss: w.callerId, sub: w.callerId, aud: audience, exp: 9e9 })}.`,
    "token_malformed",
  ],
  "HS256 with the public key": [async (w) => {
    const secret = new TextEncoder().encode(
      await exportSPKI(await importJWK(w.userKey.publicKey, "EdDSA", { extractable: true }) as CryptoKey),
    );
    const token = await new SignJWT({ iss: issuer, sub: "user:u1", aud: "ultracloud" }).setProtectedHeader({
      alg: "HS256",
      typ: "at+jwt",
      kid: "k1",
    })
      .setIssuedAt().setExpirationTime("5m").sign(secret);
    return `Bearer ${token}`;
  }, "token_malformed"],
  "a stranger's key": [async (w) => `Bearer ${await userToken(w, { key: w.stranger.privateKey })}`, "token_invalid"],
  "an unknown kid": [async (w) => `Bearer ${await userToken(w, { header: { kid: "k2" } })}`, "key_unknown"],
  "another issuer": [
    async (w) => `Bearer ${await userToken(w, { claims: { iss: "http://evil.test" } })}`,
    "issuer_untrusted",
  ],
  "an untrusted workload": [
    async (w) => `Bearer ${await userToken(w, { claims: { iss: "spiffe://test/svc/evil" } })}`,
    "issuer_untrusted",
  ],
  "another audience": [async (w) => `Bearer ${await userToken(w, { claims: { aud: "other" } })}`, "token_invalid"],
  "expired": [async (w) => `Bearer ${await userToken(w, { claims: { iat: 1, exp: 2 } })}`, "token_expired"],
  "not yet valid": [
    async (w) => `Bearer ${await userToken(w, { claims: { nbf: Math.floor(Date.now() / 1000) + 600 } })}`,
    "token_invalid",
  ],
  "no expiry": [async (w) => `Bearer ${await userToken(w, { claims: { exp: undefined } })}`, "token_invalid"],
  "an id token's typ": [async (w) => `Bearer ${await userToken(w, { header: { typ: "JWT" } })}`, "token_invalid"],
  "truncated": [async (w) => `Bearer ${(await userToken(w)).slice(0, -10)}`, "token_invalid"],
  "revoked": [async (w) => `Bearer ${await userToken(w, { claims: { sub: "user:revoked" } })}`, "token_revoked"],
  "a subject of no kind": [async (w) => `Bearer ${await userToken(w, { claims: { sub: "root" } })}`, "token_invalid"],
  "1 MiB": [() => `Bearer ${"a".repeat(2 ** 20)}`, "token_too_long"],
  "a workload token for somebody else": [(w) => w.signer.authorization("iam")(), "token_invalid"],
};

for (const [name, [make, code]] of Object.entries(hostile)) {
  Deno.test(`authenticate() refuses a token: ${name}`, async () => {
    await using w = await world();
    const header = await make(w);
    await assert.rejects(
      async () => await w.ask(header),
      (error) => error instanceof Fault && error.kind === "unauthenticated" && error.code === code,
    );
  });
}
