import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import fc from "fast-check";
import {
  checkHostIp,
  checkNoOverlap,
  checkSubnetCidr,
  contains,
  formatIp,
  overlaps,
  parseIp,
  parseNetwork,
} from "./ipv4.ts";

Deno.test("parseIp() and formatIp() are inverse, and other spellings are refused", () => {
  fc.assert(fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (n) => parseIp(formatIp(n)) === n));
  for (const bad of ["", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.256", " 1.2.3.4", "1.2.3.4 ", "0x1.2.3.4", "::1"]) {
    assert.equal(parseIp(bad), undefined, bad);
  }
});

Deno.test("checkSubnetCidr() takes private networks of /16 to /29 and nothing of the platform's", () => {
  for (const good of ["10.0.0.0/16", "192.168.1.0/24", "172.16.0.8/29", "10.76.0.0/16", "10.78.0.0/24"]) {
    assert.equal(checkSubnetCidr(good, "cidr").cidr, good);
  }
  const refused = ["10.0.0.0/15", "10.0.0.0/30", "10.0.0.1/24", "10.77.5.0/24", "10.77.0.0/16", "127.0.0.0/16"];
  for (const bad of [...refused, "224.0.0.0/24", "0.0.0.0/16", "fd00::/64", "10.0.0.0", "10.0.0.0/024", "x"]) {
    assert.throws(() => checkSubnetCidr(bad, "cidr"), (e) => e instanceof Fault && e.code === "invalid_cidr", bad);
  }
});

Deno.test("checkHostIp() refuses the network's own addresses and other networks", () => {
  const network = parseNetwork("10.0.0.0/29")!;
  assert.equal(formatIp(checkHostIp(network, "10.0.0.6", "ip")), "10.0.0.6");
  for (const bad of ["10.0.0.0", "10.0.0.7", "10.0.0.8", "nonsense"]) {
    assert.throws(() => checkHostIp(network, bad, "ip"), Fault);
  }
});

Deno.test("overlaps() is what sharing an address means", () => {
  const network = fc.tuple(fc.integer({ min: 24, max: 29 }), fc.integer({ min: 0, max: 255 })).map(([prefix, n]) => {
    const size = 2 ** (32 - prefix);
    return parseNetwork(`${formatIp(parseIp("10.0.0.0")! + n - n % size)}/${prefix}`)!;
  });
  fc.assert(fc.property(network, network, (a, b) => {
    let shared = false;
    for (let n = a.first; n <= a.last; n++) shared ||= contains(b, n);
    assert.equal(overlaps(a, b), shared);
    if (shared) assert.throws(() => checkNoOverlap(a, [{ name: "b", cidr: b.cidr }]), Fault);
    else checkNoOverlap(a, [{ name: "b", cidr: b.cidr }]);
  }));
});
