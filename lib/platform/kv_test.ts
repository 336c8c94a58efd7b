import assert from "node:assert/strict";
import { systemClock, utf8 } from "@ultracloud/base";
import { kvContract } from "./test_kv_contract.ts";
import { memoryBackend } from "./memory_kv.ts";

for (const { name, run } of kvContract) {
  Deno.test(`memoryBackend: ${name}`, () => run(memoryBackend({ clock: systemClock }), "b"));
}

Deno.test("memoryBackend: a row with a time to live is absent once it has passed", async () => {
  let nowMs = 1000;
  const kv = memoryBackend({ clock: { nowMs: () => nowMs } });
  await kv.write([], [{ bucket: "b", key: "a", put: utf8.encode("1"), ttlMs: 500 }]);
  assert.ok(await kv.get("b", "a"));
  nowMs = 1500;
  assert.equal(await kv.get("b", "a"), undefined);
  assert.deepEqual(await kv.scan("b", { limit: 10 }), []);
  assert.ok((await kv.write([{ bucket: "b", key: "a", version: 0 }], [])).committed);
});
