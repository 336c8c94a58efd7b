import assert from "node:assert/strict";
import { seededRng } from "@ultracloud/base";
import { checkAclRule, orderRules } from "./acl.ts";
import { addressOf, checkSubnetCidr6, formatIp6, gatewayOf, parseIp6, parseNetwork6 } from "./ipv6.ts";
import type { AclRule } from "./types.ts";

Deno.test("parseIp6() and formatIp6() are inverse, and other spellings are refused", () => {
  const rng = seededRng(4);
  for (let i = 0; i < 500; i++) {
    const groups = Array.from({ length: 8 }, () => rng.uint32() % 3 === 0 ? rng.uint32() & 0xffff : 0);
    assert.deepEqual(parseIp6(formatIp6(groups)), groups);
  }
  assert.equal(formatIp6(parseIp6("FD00:0:0:0:1:0:0:0")!), "fd00::1:0:0:0");
  for (const text of ["", ":", "1", "1::2::3", "1:2:3:4:5:6:7:8:9", "g::", "12345::", "::1.2.3.4", "1:2:3:4:5:6:7"]) {
    assert.equal(parseIp6(text), undefined, text);
  }
});

Deno.test("a subnet is a routable /64, its gateway the first address, a port's ends in its IPv4 address", () => {
  assert.equal(checkSubnetCidr6("FD00:1:0::/64", "f"), "fd00:1::/64");
  assert.equal(gatewayOf("fd00:1::/64"), "fd00:1::1");
  assert.equal(addressOf("fd00:1::/64", "10.1.0.5"), "fd00:1::a01:5");
  for (const text of ["fd00::/65", "fd00::1/64", "fe80::/64", "ff00::/64", "::/64", "10.0.0.0/24", "fd00::"]) {
    assert.throws(() => checkSubnetCidr6(text, "f"), /wanted a \/64/, text);
  }
  assert.equal(parseNetwork6("::/0")?.cidr, "::/0");
});

Deno.test("network ACL rules are ordered by number, and what contradicts itself is refused", () => {
  const rule: AclRule = {
    number: 10,
    action: "allow",
    direction: "ingress",
    protocol: "tcp",
    portMin: 80,
    portMax: 80,
    remoteCidr: "",
  };
  assert.equal(checkAclRule(rule, "rule").remoteCidr, "0.0.0.0/0");
  assert.equal(checkAclRule({ ...rule, remoteCidr: "FD00::/8" }, "rule").remoteCidr, "fd00::/8");
  assert.throws(() => checkAclRule({ ...rule, number: 0 }, "rule"), /wanted 1 to 32765/);
  assert.throws(() => checkAclRule({ ...rule, protocol: "icmp" }, "rule"), /Cannot use ports 80 to 80 with icmp/);
  assert.throws(() => checkAclRule({ ...rule, remoteCidr: "10.0.0.1/8" }, "rule"), /wanted an IPv4 or IPv6 CIDR/);
  const numbers = orderRules([{ ...rule, number: 20 }, rule]).map(({ number }) => number);
  assert.deepEqual(numbers, [10, 20]);
  assert.throws(() => orderRules([rule, rule]), /Cannot use number 10 twice for ingress/);
});
