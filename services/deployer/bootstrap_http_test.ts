import assert from "node:assert/strict";
import { noopLogger } from "@ultracloud/observe";
import { createTestCa } from "@ultracloud/testing";
import { listenBootstrap } from "./bootstrap_http.ts";
import { until } from "./test_world.ts";

Deno.test("the bootstrap listener takes up a certificate of the same tick of the clock, and no half of a pair", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const [before, after] = [await createTestCa("before"), await createTestCa("after")];
    const tls = await before.issueFiles(dir, "tls");
    const next = await after.issueFiles(dir, "next");
    const { mtime } = await Deno.stat(tls.certFile);
    for (const file of [tls.keyFile, next.certFile, next.keyFile]) await Deno.utime(file, mtime!, mtime!);
    const api = { answer: () => Promise.resolve(new Response("here")) };
    await using listener = listenBootstrap({ listen: "127.0.0.1:0", tls, lookMs: 50 }, { api, log: noopLogger });
    /** Whether a machine that pins this CA gets an answer. */
    const answers = async (caPem: string) => {
      using client = Deno.createHttpClient({ caCerts: [caPem] });
      const response = await fetch(`https://${listener.address}/healthz`, { client }).catch(() => undefined);
      return await response?.text() === "here";
    };
    assert.deepEqual([await answers(before.caPem), await answers(after.caPem)], [true, false]);
    await Deno.rename(next.certFile, tls.certFile);
    // Many looks at a certificate whose key is not there yet: the one before goes on.
    for (let i = 0; i < 5; i++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      assert.deepEqual([await answers(before.caPem), await answers(after.caPem)], [true, false]);
    }
    await Deno.rename(next.keyFile, tls.keyFile);
    await until(() => answers(after.caPem));
    assert.equal(await answers(before.caPem), false);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
