import assert from "node:assert/strict";
import fc from "fast-check";
import { Direction, Protocol } from "@ultracloud/proto/prismnet/v1";
import { labelsOf, pages } from "./_shared.ts";
import { parseRule } from "./network.ts";

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
