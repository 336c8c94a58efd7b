import assert from "node:assert/strict";
import { createTestCa } from "@ultracloud/testing";
import { joinAuthorities, readAuthorities, readSet, writeSet } from "./files.ts";

Deno.test("writeSet() replaces a set whole with a private key file; a set torn by a kill counts as none", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const ca = await createTestCa();
    const place = { dir: `${dir}/tls`, authoritiesFile: "ca.crt" };
    const set = async () => ({ ...await ca.issue(), caPem: ca.caPem });
    assert.equal(await readSet(place), undefined);
    const [first, second] = [await set(), await set()];
    await writeSet(place, first);
    await writeSet(place, second);
    const { obtainedMs, ...held } = (await readSet(place))!;
    assert.deepEqual(held, second);
    assert.ok(obtainedMs > 0);
    assert.equal((await Deno.stat(`${dir}/tls/tls.key`)).mode! & 0o777, 0o600);
    await Deno.writeTextFile(`${dir}/tls/tls.key`, first.keyPem);
    assert.equal(await readSet(place), undefined);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("readAuthorities() takes certificates only; joinAuthorities() adds those that a bundle lacks", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const [one, two] = [(await createTestCa()).caPem, (await createTestCa()).caPem];
    assert.equal(await readAuthorities(undefined), "");
    assert.equal(await readAuthorities(`${dir}/absent`), "");
    await Deno.writeTextFile(`${dir}/ca.crt`, `made by hand\n${two}`);
    assert.equal(await readAuthorities(`${dir}/ca.crt`), two);
    assert.equal(joinAuthorities(one, two), one + two);
    assert.equal(joinAuthorities(one + two, two), one + two);
    for (const text of ["", "nothing", two.replace(/[A-Z]{3}/, "!!!")]) {
      await Deno.writeTextFile(`${dir}/ca.crt`, text);
      await assert.rejects(readAuthorities(`${dir}/ca.crt`), /Cannot read the authorities in/);
    }
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
