import assert from "node:assert/strict";
import { generateIdentity } from "@ultracloud/authz";
import { startComponent } from "./stack.ts";
import { createTestCa } from "./test_ca.ts";
import { findSecrets, secretsBelow, secretsInLogs } from "./secrets.ts";

Deno.test("secretsInLogs() finds every kind of secret in a log, and names it without telling it", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const ca = await createTestCa();
    const { privateKey } = await generateIdentity();
    const files: Readonly<Record<string, string>> = {
      "identity.key": JSON.stringify(privateKey),
      "admin.token": "an admin token of the test 0123456789\n",
      "master.key": crypto.getRandomValues(new Uint8Array(32)).toHex() + "\n",
      "master.next.key": crypto.getRandomValues(new Uint8Array(32)).toBase64(),
      "tls.key": ca.keyPem,
      "tls.crt": ca.caPem,
      "short.token": "x",
    };
    await Deno.mkdir(`${dir}/etc/iam`, { recursive: true });
    await Deno.mkdir(`${dir}/log`);
    for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(`${dir}/etc/iam/${name}`, text);
    const secrets = await secretsBelow(`${dir}/etc`);
    assert.equal(secrets.length, 5);
    const log = async (text: string) => {
      await Deno.writeTextFile(`${dir}/log/iam.log`, text);
      return await secretsInLogs(`${dir}/log`, [`${dir}/etc`, `${dir}/absent`]);
    };
    assert.deepEqual(await log("all is well\n"), { found: [], bytes: 12, secrets: 5 });
    for (const { what, text } of secrets) {
      const { found } = await log(`{"level":"info","key":"${text}"}`);
      assert.deepEqual(found, [`${dir}/log/iam.log holds ${what}`]);
      assert.ok(!found.join().includes(text));
    }
    // Whoever made it, and wherever it is kept.
    const strange = ["eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ1c2VyIn0.c2lnbmF0dXJlLW9m", "-----BEGIN EC PRIVATE KEY-----"];
    for (const text of strange) assert.equal(findSecrets("x", `a ${text} b`, []).length, 1, text);
    assert.deepEqual(findSecrets("x", ca.caPem, secrets), []);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("a stack whose log holds a secret fails its test at the end", async () => {
  const { stack, [Symbol.asyncDispose]: end } = await startComponent("chainfire");
  const { d } = JSON.parse(await Deno.readTextFile(stack.operatorKeyFile));
  await Deno.writeTextFile(stack.logFile("chainfire"), `{"key":"${d}"}\n`, { append: true });
  await assert.rejects(
    async () => await end(),
    /No log may hold a secret: .*chainfire\.log holds the secret of .*operator\/identity\.key/,
  );
});
