import assert from "node:assert/strict";
import { CacheHost } from "./cache_host.ts";

Deno.test("a cache serves, damages, is down in the middle of an answer, and is back at the same address", async () => {
  const dir = await Deno.makeTempDir({ prefix: "uc-cache-host-" });
  try {
    await Deno.mkdir(`${dir}/nar`);
    const content = new Uint8Array(1_000_000).fill(7);
    await Deno.writeFile(`${dir}/nar/a`, content);
    await using cache = new CacheHost(dir, "127.0.0.1");
    const bytes = async () => (await (await fetch(`${cache.url}/nar/a`)).bytes()).length;
    assert.equal(await bytes(), content.length);
    assert.equal(cache.narsServed, 1);
    cache.fault = () => "truncated";
    assert.equal(await bytes(), content.length / 2);
    cache.fault = () => "down";
    await assert.rejects(bytes());
    await assert.rejects(bytes());
    cache.fault = () => undefined;
    cache.start();
    assert.equal(await bytes(), content.length);
    assert.equal(cache.narsServed, 2);
    const outside = await fetch(`${cache.url}/..%2f..%2fetc/passwd`);
    assert.equal(outside.status, 404);
    await outside.body?.cancel();
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
