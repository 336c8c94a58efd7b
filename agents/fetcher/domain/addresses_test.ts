import assert from "node:assert/strict";
import fc from "fast-check";
import { mayReach, parseRange, publicRanges } from "./addresses.ts";

Deno.test("mayReach() takes public addresses and refuses what only this machine or its network sees", () => {
  for (
    const address of [
      "1.1.1.1",
      "8.8.8.8",
      "11.0.0.1",
      "100.63.255.255",
      "172.32.0.1",
      "192.167.1.1",
      "223.255.255.255",
    ]
  ) {
    assert.equal(mayReach(address), true, address);
  }
  const refused = [
    "0.0.0.0",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.9",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::ffff:10.0.0.1",
    "fd00::1",
    "2606:4700::1111",
    "localhost",
    "1.1.1",
    "256.1.1.1",
    "",
    "1.1.1.1.1",
    "0x7f.1",
    "2130706433",
    "127.1",
  ];
  for (const address of refused) {
    assert.equal(mayReach(address), false, address);
  }
});

Deno.test("mayReach() takes a private range that was allowed by name, and only that", () => {
  const allowed = [parseRange("10.1.0.0/16")!];
  assert.equal(mayReach("10.1.2.3", allowed), true);
  assert.equal(mayReach("10.2.2.3", allowed), false);
  for (
    const bad of [
      "10.1.0.0",
      "10.1.0.1/16",
      "10.1.0.0/33",
      "10.1.0.0/16/8",
      "x/8",
      "10.1.0.0/",
    ]
  ) {
    assert.equal(parseRange(bad), undefined, bad);
  }
});

Deno.test("what the component is granted is what mayReach() takes, and look-ups of names", async () => {
  const manifest = JSON.parse(
    await Deno.readTextFile(new URL("../component.json", import.meta.url)),
  );
  assert.deepEqual(manifest.netExtra, ["0.0.0.0/0:53", ...publicRanges()]);
  const ranges = publicRanges().map((text) => parseRange(text)!);
  const octet = fc.integer({ min: 0, max: 255 });
  fc.assert(
    fc.property(octet, octet, octet, octet, (a, b, c, d) => {
      const number = ((a * 256 + b) * 256 + c) * 256 + d;
      const granted = ranges.some(({ base, bits }) => number >= base && number < base + 2 ** (32 - bits));
      assert.equal(mayReach(`${a}.${b}.${c}.${d}`), granted);
    }),
    { numRuns: 2_000 },
  );
});
