import assert from "node:assert/strict";
import { createTestCa } from "@ultracloud/testing";
import { readSet, writeSet } from "./files.ts";

Deno.test("writeSet() replaces a set whole with a private key file; a set torn by a kill counts as none", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const ca = await createTestCa();
    const set = async () => ({ ...await ca.issue(), caPem: ca.caPem });
    assert.equal(await readSet(`${dir}/tls`), undefined);
    const [first, second] = [await set(), await set()];
    await writeSet(`${dir}/tls`, first);
    await writeSet(`${dir}/tls`, second);
    assert.deepEqual(await readSet(`${dir}/tls`), second);
    assert.equal((await Deno.stat(`${dir}/tls/tls.key`)).mode! & 0o777, 0o600);
    await Deno.writeTextFile(`${dir}/tls/tls.key`, first.keyPem);
    assert.equal(await readSet(`${dir}/tls`), undefined);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
