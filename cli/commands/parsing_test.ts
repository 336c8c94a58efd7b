import assert from "node:assert/strict";
import fc from "fast-check";
import { Direction, Protocol } from "@ultracloud/proto/prismnet/v1";
import { labelsOf, pages } from "./_shared.ts";
import { parseTxn } from "./_txn_text.ts";
import { exactly, prefixEnd, rangeOf, shown, toBytes } from "./_kv_bytes.ts";
import { parseRule } from "./network_groups.ts";

Deno.test("parseRule() reads protocol, ports and remote", () => {
  const rule = (text: string) => {
    const { protocol, portMin, portMax, remoteCidr, remoteGroupId } = parseRule("ingress", text);
    return [protocol, portMin, portMax, remoteCidr, remoteGroupId];
  };
  assert.deepEqual(rule("tcp:80"), [Protocol.TCP, 80, 80, "", ""]);
  assert.deepEqual(rule("udp:5000-5010@10.0.0.0/8"), [Protocol.UDP, 5000, 5010, "10.0.0.0/8", ""]);
  assert.deepEqual(rule("icmp"), [Protocol.ICMP, 0, 0, "", ""]);
  assert.deepEqual(rule("any@sg_01abc"), [Protocol.UNSPECIFIED, 0, 0, "", "sg_01abc"]);
  assert.deepEqual(rule("tcp:1-65535"), [Protocol.TCP, 1, 65_535, "", ""]);
  assert.equal(parseRule("egress", "any").direction, Direction.EGRESS);
  assert.equal(parseRule("ingress", "any").direction, Direction.INGRESS);
});

Deno.test("parseRule() refuses what it would have to guess", () => {
  for (
    const bad of ["", "tcp:", "tcp:0", "tcp:65536", "tcp:80-79", "tcp:1-65536", "sctp:80", "tcp:-1", "80", "tcp 80"]
      .concat(["icmp:8", "any:80", "tcp:80@", "TCP:80", "tcp:80-"])
  ) {
    assert.throws(() => parseRule("ingress", bad), { kind: "invalid_argument", code: "invalid_rule" }, bad);
  }
});

Deno.test("parseRule() reads every range it is given as it is", () => {
  const port = fc.integer({ min: 1, max: 65_535 });
  fc.assert(fc.property(fc.constantFrom("tcp", "udp"), port, port, (protocol, a, b) => {
    const [min, max] = [Math.min(a, b), Math.max(a, b)];
    const rule = parseRule("ingress", `${protocol}:${min}-${max}`);
    assert.deepEqual([rule.portMin, rule.portMax], [min, max]);
  }));
});

Deno.test("labelsOf() splits at the first equals sign and refuses pairs without a key", () => {
  assert.deepEqual(labelsOf(["tier=gold", "note=a=b", "empty="]), { tier: "gold", note: "a=b", empty: "" });
  assert.deepEqual(labelsOf(undefined), {});
  for (const bad of ["tier", "=gold", ""]) {
    assert.throws(() => labelsOf([bad]), { kind: "invalid_argument", code: "invalid_label" }, bad);
  }
});

Deno.test("pages() reads until there is no further page", async () => {
  const tokens: string[] = [];
  const all = await pages(
    ({ pageToken }) => {
      tokens.push(pageToken);
      const nextPageToken = tokens.length < 3 ? `p${tokens.length}` : "";
      return Promise.resolve({ items: [tokens.length], page: { nextPageToken } as never });
    },
    (response) => response.items,
  );
  assert.deepEqual([all, tokens], [[1, 2, 3], ["", "p1", "p2"]]);
});

Deno.test("parseTxn() reads three parts, quoted words and comments, and names the line it cannot read", () => {
  const { compare, success, failure } = parseTxn(
    '# swap\nversion("a b") = "1"\nvalue("k\\"q") != x\n\nput "a b" "c d"\ndelete p/ --prefix\n\nget k\n',
    "text",
  );
  const text = (bytes: Uint8Array | undefined) => new TextDecoder().decode(bytes);
  assert.deepEqual(compare.map(({ key, target }) => [text(key as Uint8Array), target?.case]), [
    ["a b", "version"],
    ['k"q', "value"],
  ]);
  assert.deepEqual(success.map(({ request }) => request?.case), ["put", "deleteRange"]);
  const [put, gone] = success.map(({ request }) => request!.value as { key: Uint8Array; rangeEnd?: Uint8Array });
  assert.deepEqual([text(put!.key), text(gone!.rangeEnd)], ["a b", "p0"]);
  assert.deepEqual(failure.map(({ request }) => request?.case), ["range"]);
  for (
    const [bad, line] of [["version(a) = 1", 1], ['age("a") = 1', 1], ['version("a") = x', 1], ["\nput a", 2]] as const
  ) {
    assert.throws(() => parseTxn(bad, "text"), { code: "bad_transaction", message: new RegExp(`line ${line} `) }, bad);
  }
  for (const bad of ["get", "get a b", "move a b", 'put "a b', "put a b --prefix", "delete a b"]) {
    assert.throws(() => parseTxn(`\n${bad}`, "text"), { code: "bad_transaction" }, bad);
  }
});

Deno.test("keys and values survive every encoding, and bytes that are no text are never printed as text", () => {
  fc.assert(fc.property(fc.uint8Array(), (raw) => {
    const bytes = new Uint8Array(raw);
    for (const encoding of ["hex", "base64"] as const) {
      assert.deepEqual(toBytes(shown(bytes, encoding), encoding), bytes);
    }
  }));
  fc.assert(
    fc.property(fc.string({ unit: "grapheme" }), (text) => assert.equal(exactly(toBytes(text, "text"), "text"), text)),
  );
  assert.throws(() => exactly(new Uint8Array([255]), "text"), { code: "not_text" });
  assert.equal(shown(new Uint8Array([255]), "text"), "0xff");
  assert.throws(() => toBytes("xyz", "hex"), { code: "bad_encoding" });
});

Deno.test("a prefix ends before the next key that does not begin with it", () => {
  assert.deepEqual(prefixEnd(new Uint8Array([97, 47])), new Uint8Array([97, 48]));
  assert.deepEqual(prefixEnd(new Uint8Array([97, 255])), new Uint8Array([98]));
  assert.deepEqual(prefixEnd(new Uint8Array([255])), new Uint8Array([0]));
  assert.deepEqual(prefixEnd(new Uint8Array([])), new Uint8Array([0]));
  const all = rangeOf("", { prefix: true, fromKey: false, encoding: "text" });
  assert.deepEqual([all.key, all.rangeEnd], [new Uint8Array([0]), new Uint8Array([0])]);
});
