import assert from "node:assert/strict";
import { testUnless } from "@ultracloud/testing";
import { describe } from "./test_compare.ts";
import { compareOnce } from "./test_compare_once.ts";
import { whyNoEtcd } from "./test_etcd.ts";
import { explain, ruleNames } from "./test_rules.ts";

const page = new URL("../../../docs/reference/etcd-differences.md", import.meta.url);
const seed = 2026;
/** `deno task etcd:diff` sends 5 000 of another seed each time. */
const requests = 2_000;

testUnless(
  `chainfire answers ${requests} random requests as etcd's gateway does, but for what the reference lists`,
  await whyNoEtcd(),
  async () => {
    const comparison = await compareOnce({ seed, requests });
    const words = describe(comparison, seed);
    console.log(words);
    assert.deepEqual(comparison.unexplained, [], words);
    assert.ok(comparison.requests >= requests && comparison.events > 500, words);
    // Most requests must do something, or the comparison says little.
    const done = Object.entries(comparison.answers).filter(([key]) => key.endsWith(" 200"));
    assert.ok(done.reduce((sum, [, count]) => sum + count, 0) > requests / 2, words);
  },
);

Deno.test("every rule of the comparison has its section in the reference, and the reference no other", async () => {
  const sections = [...(await Deno.readTextFile(page)).matchAll(/^### `([a-z-]+)`$/gm)].map(([, name]) => name!);
  assert.deepEqual(sections.sort(), [...ruleNames].sort());
});

Deno.test("a rule explains what it is about and nothing else", () => {
  const header = (id: string) => ({ cluster_id: id, member_id: id, revision: "5", raft_term: id });
  const ok = (body: object) => ({ status: 200, body: body as never });
  const range = (request: object, etcd: object, chainfire: object) =>
    explain({ path: "/v3/kv/range", request: request as never, etcd: ok(etcd), chainfire: ok(chainfire) });
  assert.deepEqual(range({}, { header: header("1") }, { header: header("1") }), []);
  assert.deepEqual(range({}, { header: header("1") }, { header: header("2") }), ["header-ids"]);
  assert.equal(range({}, { header: header("1") }, { header: { ...header("2"), revision: "6" } }), undefined);
  assert.equal(range({}, { count: "1" }, { count: "2" }), undefined);
  const [a, b] = [{ key: "YQ==", version: "1" }, { key: "Yg==", version: "1" }];
  const byVersion = { sort_target: "VERSION", sort_order: "ASCEND" };
  assert.deepEqual(range(byVersion, { kvs: [a, b] }, { kvs: [b, a] }), ["sort-ties"]);
  assert.equal(range({}, { kvs: [a, b] }, { kvs: [b, a] }), undefined);
  assert.equal(range(byVersion, { kvs: [a, b] }, { kvs: [b, { ...a, version: "2" }] }), undefined);
  const failed = (code: number, message: string) => ({ status: 400, body: { code, message, error: message } });
  const put = (etcd: string, chainfire: string) =>
    explain({ path: "/v3/kv/put", request: "x", etcd: failed(3, etcd), chainfire: failed(3, chainfire) });
  assert.deepEqual(put("invalid character", "invalid JSON"), ["unreadable-text"]);
  assert.equal(put("etcdserver: key is not provided", "invalid JSON"), undefined);
});
