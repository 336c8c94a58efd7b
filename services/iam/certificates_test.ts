import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import "reflect-metadata";
import { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension } from "@peculiar/x509";
import { codeOf, until, world } from "./test_world.ts";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

async function csr(
  names: readonly { type: "url" | "dns" | "ip"; value: string }[],
  named = algorithm.namedCurve as string,
) {
  const own = { ...algorithm, namedCurve: named };
  const keys = await crypto.subtle.generateKey(own, true, ["sign", "verify"]) as CryptoKeyPair;
  const extensions = names.length > 0 ? [new SubjectAlternativeNameExtension([...names])] : [];
  const made = await Pkcs10CertificateRequestGenerator.create({
    name: "CN=x",
    keys,
    signingAlgorithm: own,
    extensions,
  });
  return made.toString("pem");
}
const uri = (value: string) => ({ type: "url" as const, value });
const own = "spiffe://test/svc/plasmavmc";

Deno.test("IssueCertificate() gives a component certificates of its own identity and allowed names, and nothing else", async () => {
  await using w = await world();
  const root = await w.admin();
  const plasmavmc = w.as((await w.signer("plasmavmc")).authorization("iam"));
  const ask = async (names: Parameters<typeof csr>[0], ttlMs = 0n) =>
    await plasmavmc.certificates.issueCertificate({ csrPem: await csr(names), ttlMs });
  const answer = await ask([uri(own), { type: "dns", value: "localhost" }], 60_000n);
  const certificate = new X509Certificate(answer.certificatePem);
  const authority = new X509Certificate(answer.bundlePem);
  assert.ok(certificate.verify(authority.publicKey) && certificate.checkIssued(authority));
  assert.equal(certificate.ca, false);
  assert.equal(certificate.subjectAltName, `URI:${own}, DNS:localhost`);
  assert.ok(Math.abs(new Date(certificate.validTo).getTime() - Date.now() - 60_000) < 30_000);
  assert.equal(await codeOf(ask([uri(`${own}/1`)])), "ok");
  const denied = "permission_denied/permission_denied";
  assert.equal(await codeOf(ask([uri("spiffe://test/svc/iam")])), denied);
  assert.equal(await codeOf(ask([uri("spiffe://test/svc/plasmavmc2")])), denied);
  assert.equal(await codeOf(ask([uri("spiffe://other/svc/plasmavmc")])), "invalid_argument/invalid_spiffe_id");
  assert.equal(await codeOf(ask([])), "invalid_argument/invalid_csr");
  assert.equal(await codeOf(ask([uri(own), uri("spiffe://test/svc/iam")])), "invalid_argument/invalid_csr");
  assert.equal(await codeOf(ask([uri(own)], 999_999_999_999n)), "invalid_argument/invalid_field");
  const web = [uri(own), { type: "dns" as const, value: "vm.example" }];
  assert.equal(await codeOf(ask(web)), "permission_denied/name_not_allowed");
  await root.certificates.setCertificateNames({ spiffeId: own, names: ["vm.example"] });
  assert.equal(await codeOf(ask(web)), "ok");
  assert.equal(
    await codeOf(plasmavmc.certificates.setCertificateNames({ spiffeId: own, names: ["a.test"] })),
    denied,
  );
  const weak = await csr([uri(own)], "P-384");
  assert.equal(await codeOf(plasmavmc.certificates.issueCertificate({ csrPem: weak })), "invalid_argument/invalid_csr");
  const good = await csr([uri(own)]);
  const changed = good.replace(/[A-Za-z](?=[A-Za-z0-9+/=]*\n-----END)/, (c) => c === "A" ? "B" : "A");
  assert.equal(
    await codeOf(plasmavmc.certificates.issueCertificate({ csrPem: changed })),
    "invalid_argument/invalid_csr",
  );
  // Whoever may issue, issues for anybody of the cluster.
  assert.equal(
    await codeOf(root.certificates.issueCertificate({ csrPem: await csr([uri("spiffe://test/node/n1")]) })),
    "ok",
  );
  assert.match(await codeOf((await w.user("", "bob")).certificates.issueCertificate({ csrPem: good })), /denied/);
});

Deno.test("an authority is published, signs, and is trusted until its last certificate has ended", async () => {
  await using w = await world();
  const phases = async () =>
    Object.fromEntries(
      (await (await w.admin()).certificates.listAuthorities({})).authorities.map((a) => [a.id, a.phase]),
    );
  const [old] = Object.keys(await phases());
  const rotate = async (authority: string) =>
    await codeOf((await w.admin()).certificates.rotateAuthority({ authority }));
  assert.equal(await rotate("other"), "invalid_argument/authority_other");
  assert.equal(await rotate(old!), "ok");
  const fresh = Object.keys(await phases()).find((id) => id !== old)!;
  assert.deepEqual(await phases(), { [old!]: "signing", [fresh]: "published" });
  assert.equal(await rotate(old!), "failed_precondition/rotation_under_way");
  w.advance(3_600_000);
  assert.deepEqual(await phases(), { [old!]: "verifying", [fresh]: "signing" });
  const again = await w.admin();
  const { certificatePem, bundlePem } = await again.certificates.issueCertificate({ csrPem: await csr([uri(own)]) });
  assert.equal(bundlePem.split("BEGIN CERTIFICATE").length, 3);
  assert.match(new X509Certificate(certificatePem).issuer, new RegExp(fresh));
  w.advance(86_400_000 + 6_000);
  await until("the old one is gone", async () => Object.keys(await phases()).length === 1);
  assert.deepEqual(await phases(), { [fresh]: "signing" });
});

Deno.test("a first authority and a first key that another clock dated ahead are used at once", async () => {
  await using w = await world();
  await (await w.admin()).certificates.listAuthorities({});
  w.advance(-60_000);
  const plasmavmc = w.as((await w.signer("plasmavmc")).authorization("iam"));
  assert.equal(await codeOf(plasmavmc.certificates.issueCertificate({ csrPem: await csr([uri(own)]) })), "ok");
  assert.equal((await (await w.admin()).certificates.listAuthorities({})).authorities[0]!.phase, "signing");
});
