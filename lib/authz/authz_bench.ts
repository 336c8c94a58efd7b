import { systemClock } from "@ultracloud/base";
import { importJWK, SignJWT } from "jose";
import {
  createAuthenticator,
  fixedPolicyView,
  generateIdentity,
  loadTrust,
  PolicyIndex,
  type PolicySnapshot,
} from "./mod.ts";

// Targets: verify and authorise in a service below 0.2 ms at the median, with 1 000 principals and 1 000 bindings.
const { publicKey, privateKey } = await generateIdentity();
const snapshot: PolicySnapshot = {
  version: 1,
  issuedAtMs: 0,
  issuer: "http://iam.test",
  keys: [{ ...publicKey, kid: "k1" }],
  roles: [],
  bindings: Array.from({ length: 1_000 }, (_, i) => ({
    id: `bind_${i}`,
    principal: `user:${i}`,
    role: i % 2 === 0 ? "editor" : "viewer",
    scope: `org${i % 100}/prod`,
    deny: false,
  })),
  revokedBefore: {},
};
const index = new PolicyIndex(snapshot);
const trustFile = await Deno.makeTempFile();
await Deno.writeTextFile(trustFile, JSON.stringify({ clusterId: "test", principals: {} }));
const trust = await loadTrust(trustFile, { clock: systemClock });
await Deno.remove(trustFile);
const key = await importJWK(privateKey, "EdDSA");
const nowSeconds = Math.floor(Date.now() / 1000);
const token = (id: number) =>
  new SignJWT({ sub: `user:${id}` }).setProtectedHeader({ alg: "EdDSA", typ: "at+jwt", kid: "k1" })
    .setIssuer(snapshot.issuer).setAudience("ultracloud").setIssuedAt(nowSeconds).setExpirationTime(nowSeconds + 900)
    .sign(key);
const headers = await Promise.all(
  Array.from({ length: 256 }, async (_, i) => new Headers({ authorization: `Bearer ${await token(i)}` })),
);
const peer = { certificateId: undefined };
const cached = createAuthenticator({ audience: "a" }, {
  trust,
  policy: await fixedPolicyView(snapshot),
  clock: systemClock,
});
const fresh = createAuthenticator({ audience: "a", cacheMax: 1 }, {
  trust,
  policy: await fixedPolicyView(snapshot),
  clock: systemClock,
});
for (const header of headers) await cached.authenticate(header, peer);

let i = 0;
Deno.bench("evaluate, allowed", () => {
  i = (i + 2) % 1_000;
  index.evaluate(`user:${i}`, "plasmavmc.vm.create", `org${i % 100}/prod/plasmavmc/vm/web`);
});
Deno.bench("evaluate, nothing there", () => {
  i = (i + 1) % 1_000;
  index.evaluate(`user:${i}`, "plasmavmc.vm.create", `org${(i + 1) % 100}/prod`);
});
Deno.bench("authenticate, remembered token", () => {
  i = (i + 1) % 256;
  cached.authenticate(headers[i]!, peer);
});
Deno.bench("authenticate, new token", async () => {
  i = (i + 1) % 256;
  await fresh.authenticate(headers[i]!, peer);
});
