import assert from "node:assert/strict";
import { utf8 } from "@ultracloud/base";
import { JsonFrames } from "./frames.ts";
import { endpointText, parseEndpoint } from "./json_rpc.ts";
import { applyDifference, map, sameValue, set } from "./values.ts";

Deno.test("JSON texts are cut out of a stream at any byte, brackets in strings left out", () => {
  const values = [{ a: '}"]\\' }, [1, [2, { b: "{" }]], { c: "ü\n" }];
  const bytes = utf8.encode(values.map((v) => JSON.stringify(v)).join(""));
  for (let cut = 1; cut < bytes.length; cut++) {
    const frames = new JsonFrames({ messageBytesMax: 1_000 });
    const seen = [...frames.push(bytes.subarray(0, cut)), ...frames.push(bytes.subarray(cut))];
    assert.deepEqual(seen, values, `cut at ${cut}`);
  }
});

Deno.test("a message beyond its bound, a bracket too many and text that is no JSON are refused", () => {
  const push = (text: string) => new JsonFrames({ messageBytesMax: 20 }).push(utf8.encode(text));
  assert.throws(() => push(`["${"x".repeat(30)}`), /wanted at most 20/);
  assert.throws(() => push("]"), /closing bracket/);
  assert.throws(() => push("{nonsense}"), /wanted JSON/);
});

Deno.test("a set of one and its element are one value, order is none", () => {
  assert.ok(sameValue("a", set(["a"])));
  assert.ok(sameValue(set(["a", "b"]), set(["b", "a"])));
  assert.ok(sameValue(map({ a: "1", b: "2" }), map({ b: "2", a: "1" })));
  assert.ok(!sameValue(map({ a: "1" }), map({ a: "2" })));
  assert.ok(!sameValue("1", 1));
  assert.ok(!sameValue(set([]), ""));
});

Deno.test("differences toggle elements and replace the values of pairs", () => {
  assert.ok(sameValue(applyDifference(set(["a", "b"]), set(["b", "c"])), set(["a", "c"])));
  assert.ok(sameValue(applyDifference("a", "a"), set([])));
  const old = map({ gone: "1", changed: "1", kept: "1" });
  const difference = map({ gone: "1", changed: "2", fresh: "3" });
  assert.ok(sameValue(applyDifference(old, difference), map({ changed: "2", kept: "1", fresh: "3" })));
});

Deno.test("endpoints are read as the OVS tools write them, others refused", () => {
  for (const text of ["unix:/run/nb.sock", "tcp:10.0.0.1:6641", "tcp:[fd00::1]:6642", "tcp:node01:6642"]) {
    assert.equal(endpointText(parseEndpoint(text)), text);
  }
  for (const text of ["", "unix:nb.sock", "tcp:10.0.0.1", "tcp:h:0", "tcp:h:65536", "ssl:h:1"]) {
    assert.throws(() => parseEndpoint(text), /wanted unix:\/path, tcp:host:port or ssl:host:port|without certificates/);
  }
});
