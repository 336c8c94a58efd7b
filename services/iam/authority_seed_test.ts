import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { createTestCa } from "@ultracloud/testing";
import { systemClock } from "@ultracloud/base";
import { loadAuthoritySeed } from "./mod.ts";
import { codeOf, world } from "./test_world.ts";

Deno.test("loadAuthoritySeed() takes both halves of an authority and names the file that is wrong", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const [ca, other] = [await createTestCa(), await createTestCa()];
    const leaf = await ca.issue();
    const files: Record<string, string> = {
      "ca.crt": ca.caPem,
      "ca.key": ca.keyPem,
      "other.key": other.keyPem,
      "leaf.crt": leaf.certPem,
      "leaf.key": leaf.keyPem,
      "both.crt": ca.caPem + other.caPem,
      "nothing.crt": "nothing",
    };
    for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(`${dir}/${name}`, text, { mode: 0o600 });
    await Deno.writeTextFile(`${dir}/open.key`, ca.keyPem, { mode: 0o644 });
    const load = (cert: string | undefined, key: string | undefined, clock = { nowMs: () => Date.now() }) =>
      loadAuthoritySeed({
        authorityCertFile: cert && `${dir}/${cert}`,
        authorityKeyFile: key && `${dir}/${key}`,
      }, { clock });
    assert.equal(await load(undefined, undefined), undefined);
    assert.equal((await load("ca.crt", "ca.key"))!.certPem, ca.caPem);
    const wrong: [cert: string | undefined, key: string | undefined, says: RegExp][] = [
      ["ca.crt", undefined, /wanted authorityKeyFile, too/],
      [undefined, "ca.key", /wanted authorityCertFile, too/],
      ["ca.crt", "other.key", /other\.key .* wanted the key of .*ca\.crt/],
      ["leaf.crt", "leaf.key", /leaf\.crt .*CA:TRUE/],
      ["both.crt", "ca.key", /both\.crt .* wanted one certificate/],
      ["nothing.crt", "ca.key", /nothing\.crt .* wanted a certificate in PEM/],
      ["ca.crt", "nothing.crt", /nothing\.crt .* wanted a private key in PEM/],
      ["ca.crt", "open.key", /open\.key of mode 644/],
      ["ca.crt", "absent.key", /Cannot read secret .*absent\.key/],
    ];
    for (const [cert, key, says] of wrong) await assert.rejects(load(cert, key), { message: says });
    await assert.rejects(load("ca.crt", "ca.key", { nowMs: () => Date.now() + 48 * 3_600_000 }), /valid now/);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("an authority made before iam is its first one, and leaves with a rotation as any other", async () => {
  const dir = await Deno.makeTempDir();
  const ca = await createTestCa("made before");
  await Deno.writeTextFile(`${dir}/ca.crt`, ca.caPem);
  await Deno.writeTextFile(`${dir}/ca.key`, ca.keyPem, { mode: 0o600 });
  const seed = await loadAuthoritySeed({ authorityCertFile: `${dir}/ca.crt`, authorityKeyFile: `${dir}/ca.key` }, {
    clock: systemClock,
  });
  await Deno.remove(dir, { recursive: true });
  await using w = await world({ authoritySeed: seed! });
  const list = async () => (await (await w.admin()).certificates.listAuthorities({})).authorities;
  const [first, ...more] = await list();
  assert.deepEqual([first!.certificatePem, first!.phase, more], [ca.caPem, "signing", []]);
  // Another replica, started with the same file, adds none.
  const second = await w.replica();
  const { accessToken } = await second.as("").tokens.bootstrapToken({
    adminToken: "an-admin-token-of-the-tests-0123456789",
  });
  assert.equal((await second.as(accessToken).certificates.listAuthorities({})).authorities.length, 1);
  assert.equal(await codeOf((await w.admin()).certificates.rotateAuthority({ authority: first!.id })), "ok");
  w.advance(3_600_000 + 86_400_000 + 6_000);
  const left = await list();
  assert.equal(left.length, 1);
  assert.match(new X509Certificate(left[0]!.certificatePem).subject, /CN=test /);
});
