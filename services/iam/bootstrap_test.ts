import assert from "node:assert/strict";
import { seededRng, systemRng } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { loadSecrets, type SecretSources } from "./mod.ts";
import { hashPassword, verifyPassword } from "./passwords.ts";
import { equalSecrets, parseMasterKey, Sealer } from "./seal.ts";

async function withDir(
  work: (dir: string, load: (o: Partial<SecretSources>) => ReturnType<typeof loadSecrets>) => Promise<void>,
) {
  const stateDir = await Deno.makeTempDir();
  try {
    await work(
      stateDir,
      (o) => loadSecrets({ mode: "dev", stateDir, env: () => undefined, ...o }, { rng: systemRng, log: noopLogger }),
    );
  } finally {
    await Deno.remove(stateDir, { recursive: true });
  }
}

Deno.test("a production start names each secret that is missing", () =>
  withDir(async (dir, load) => {
    const missing = /admin token.*signing key.*32-byte master key/;
    await assert.rejects(load({ mode: "production" }), { code: "secrets_missing", message: missing });
    await assert.rejects(load({ mode: "production", adminTokenFile: "x", signingKeyFile: "y" }), (error: Error) => {
      assert.match(
        error.message,
        /without a 32-byte master key \(IAM_CRED_MASTER_KEY, IAM_CRED_MASTER_KEY_FILE or masterKeyFile\)$/,
      );
      return true;
    });
    assert.deepEqual([...Deno.readDirSync(dir)], []);
  }));

Deno.test("a dev start makes its secrets once, readable by the owner only", () =>
  withDir(async (dir, load) => {
    const first = await load({});
    const again = await load({});
    assert.equal(again.adminToken.expose(), first.adminToken.expose());
    assert.deepEqual(again.masterKey.expose(), first.masterKey.expose());
    assert.deepEqual(again.signingKey.expose(), first.signingKey.expose());
    for (const name of ["admin.token", "signing.key", "master.key"]) {
      assert.equal(((await Deno.stat(`${dir}/${name}`)).mode! & 0o777).toString(8), "600");
    }
    // In production the same files do, when they are named.
    const env = (name: string) => name === "IAM_CRED_MASTER_KEY_FILE" ? `${dir}/master.key` : undefined;
    const files = { adminTokenFile: `${dir}/admin.token`, signingKeyFile: `${dir}/signing.key` };
    assert.equal((await load({ mode: "production", ...files, env })).adminToken.expose(), first.adminToken.expose());
    await Deno.chmod(`${dir}/admin.token`, 0o644);
    await assert.rejects(load({ mode: "production", ...files, env }), { code: "secret_exposed" });
    await Deno.chmod(`${dir}/admin.token`, 0o600);
    await Deno.writeTextFile(`${dir}/admin.token`, "short");
    await assert.rejects(load({ mode: "production", ...files, env }), { code: "admin_token_short" });
  }));

Deno.test("parseMasterKey() takes 32 bytes in hex or base64 and nothing else", () => {
  const bytes = new Uint8Array(32).fill(7);
  const base64 = btoa(String.fromCharCode(...bytes));
  for (const text of [base64, `${base64}\n`, base64.replace("=", ""), "07".repeat(32)]) {
    assert.deepEqual(parseMasterKey(text, "it").expose(), bytes);
  }
  for (const text of ["", "07".repeat(31), base64.slice(4), "password", `${base64}AAAA`]) {
    assert.throws(() => parseMasterKey(text, "it"), { code: "master_key_invalid" });
  }
});

Deno.test("Sealer.open() opens for the same key and purpose only, and nothing that changed", () => {
  const key = parseMasterKey("07".repeat(32), "it");
  const sealer = new Sealer(key, seededRng(1));
  const sealed = sealer.seal(new TextEncoder().encode("secret"), "a");
  assert.equal(new TextDecoder().decode(sealer.open(sealed, "a")), "secret");
  assert.notEqual(sealer.seal(new TextEncoder().encode("secret"), "a"), sealed);
  const broken = { code: "seal_broken" };
  assert.throws(() => sealer.open(sealed, "b"), broken);
  assert.throws(() => new Sealer(parseMasterKey("08".repeat(32), "it"), seededRng(1)).open(sealed, "a"), broken);
  for (let i = 0; i < sealed.length - 1; i++) {
    const other = sealed.slice(0, i) + (sealed[i] === "A" ? "B" : "A") + sealed.slice(i + 1);
    assert.throws(() => sealer.open(other, "a"), broken);
  }
  assert.throws(() => sealer.open("", "a"), broken);
});

Deno.test("verifyPassword() takes the password that was hashed, in any Unicode form, and no other", async () => {
  const stored = await hashPassword("pässword-of-mine", seededRng(1));
  assert.ok(!stored.includes("mine"));
  assert.equal(await verifyPassword("pässword-of-mine".normalize("NFD"), stored), true);
  assert.equal(await verifyPassword("pässword-of-mind", stored), false);
  assert.equal(await verifyPassword("", ""), false);
  assert.equal(await verifyPassword("x".repeat(10_000), stored), false);
  assert.equal(equalSecrets("a", "a") && !equalSecrets("a", "ab"), true);
});
