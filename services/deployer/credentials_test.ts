import assert from "node:assert/strict";
import { readCredentials } from "./credentials.ts";

Deno.test("credentials of a node are the files below its directory, and no others", async () => {
  const dir = await Deno.makeTempDir({ prefix: "uc-credentials-" });
  try {
    await Deno.mkdir(`${dir}/worker1/nix-agent/deeper`, { recursive: true });
    await Deno.writeTextFile(`${dir}/worker1/trust.json`, "{}");
    await Deno.writeTextFile(`${dir}/worker1/.hidden`, "x");
    await Deno.writeTextFile(`${dir}/worker1/nix-agent/identity.key`, "key");
    await Deno.writeTextFile(`${dir}/worker1/nix-agent/deeper/other`, "x");
    await Deno.symlink("/etc/passwd", `${dir}/worker1/passwd`);
    assert.deepEqual(await readCredentials(dir, "worker1"), { "trust.json": "{}", "nix-agent/identity.key": "key" });
    await assert.rejects(readCredentials(dir, "worker2"), { code: "credentials_missing", message: /nobody/ });
    await assert.rejects(readCredentials(undefined, "worker1"), { message: /wanted nodeCredentialsDir/ });
    await Deno.writeTextFile(`${dir}/worker1/big`, "x".repeat(256 * 1024 + 1));
    await assert.rejects(readCredentials(dir, "worker1"), { message: /big is above/ });
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
