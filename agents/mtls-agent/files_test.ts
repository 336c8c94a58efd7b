import assert from "node:assert/strict";
import { createTestCa, testUnless } from "@ultracloud/testing";
import { joinAuthorities, readAuthorities, readSet, writeAuthorities, writeSet } from "./files.ts";

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

testUnless(
  "writeSet() gives the files to the user whose directory it is, key and all",
  Deno.uid() === 0 ? undefined : "only root gives files away",
  async () => {
    const dir = await Deno.makeTempDir();
    try {
      const ca = await createTestCa();
      await Deno.chown(dir, 1234, 4321);
      const place = { dir, authoritiesFile: "ca.crt" };
      await writeSet(place, { ...await ca.issue(), caPem: ca.caPem });
      await writeAuthorities(place, ca.caPem);
      for (const name of ["tls.crt", "tls.key", "ca.crt"]) {
        const { uid, gid } = await Deno.stat(`${dir}/${name}`);
        assert.deepEqual([name, uid, gid], [name, 1234, 4321]);
      }
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  },
);

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
