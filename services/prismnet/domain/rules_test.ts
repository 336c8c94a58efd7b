import assert from "node:assert/strict";
import { Fault, seededRng } from "@ultracloud/base";
import { checkMac, randomMac } from "./mac.ts";
import {
  allowsAllEgress,
  checkRule,
  egressRule,
  endingMsMax,
  forwardsPerPortMax,
  rulesPerGroupMax,
  stillEnding,
  wantedForwards,
  withoutRule,
} from "./rules.ts";
import type { Rule, SecurityGroup } from "./types.ts";

const ingress = (o: Partial<Rule>): Rule => ({
  id: "rule",
  direction: "ingress",
  protocol: "tcp",
  portMin: 22,
  portMax: 22,
  remoteCidr: "0.0.0.0/0",
  remoteGroupId: "",
  ...o,
});

Deno.test("checkRule() fills in an open peer and refuses what contradicts itself", () => {
  assert.equal(checkRule(ingress({ remoteCidr: "" }), "rule").remoteCidr, "0.0.0.0/0");
  const bad: Partial<Rule>[] = [
    { portMin: 30, portMax: 20 },
    { portMin: 0, portMax: 20 },
    { portMin: 1, portMax: 65536 },
    { portMin: -1, portMax: -1 },
    { protocol: "icmp" },
    { protocol: "any" },
    { remoteCidr: "10.0.0.1/8" },
    { remoteCidr: "10.0.0.0/8", remoteGroupId: "sg_x" },
  ];
  for (const o of bad) assert.throws(() => checkRule(ingress(o), "rule"), Fault, JSON.stringify(o));
});

Deno.test("wantedForwards() opens only bounded TCP and UDP ports that loopback may reach", () => {
  const list = (...rules: Partial<Rule>[]) =>
    wantedForwards(rules.map(ingress)).map((f) => `${f.protocol}/${f.guestPort}`);
  assert.deepEqual(list({}, { protocol: "udp", portMin: 53, portMax: 54 }, {}), ["tcp/22", "udp/53", "udp/54"]);
  assert.deepEqual(list({ remoteCidr: "10.0.0.0/8" }), []);
  assert.deepEqual(list({ remoteCidr: "127.0.0.0/8" }), ["tcp/22"]);
  assert.deepEqual(list({ remoteCidr: "", remoteGroupId: "sg_x" }), []);
  assert.deepEqual(list({ portMin: 0, portMax: 0 }), []);
  assert.deepEqual(list({ portMin: 1, portMax: 1000 }), []);
  assert.deepEqual(list({ direction: "egress" }), []);
  const many = [0, 1, 2, 3].map((i) => ({ portMin: 1000 + i * 32, portMax: 1031 + i * 32 }));
  assert.equal(list(...many).length, forwardsPerPortMax);
});

Deno.test("allowsAllEgress() needs a rule without any limit", () => {
  assert.ok(allowsAllEgress([egressRule("r")]));
  assert.ok(!allowsAllEgress([]));
  assert.ok(!allowsAllEgress([{ ...egressRule("r"), remoteCidr: "10.0.0.0/8" }]));
  assert.ok(!allowsAllEgress([{ ...egressRule("r"), protocol: "tcp" }]));
});

Deno.test("randomMac() makes addresses that checkMac() takes", () => {
  const rng = seededRng(1);
  for (let i = 0; i < 50; i++) {
    const mac = randomMac(rng);
    assert.equal(checkMac(mac.toUpperCase(), "mac"), mac);
  }
  for (const bad of ["", "52:54:00:00:00", "52:54:01:00:00:00", "52-54-00-00-00-00"]) {
    assert.throws(() => checkMac(bad, "mac"), Fault);
  }
});

Deno.test("withoutRule() cuts, or lets end for a day, bounded, and a rule that is not there changes nothing", () => {
  const rule = (id: string) => ({ ...egressRule(id), direction: "ingress" as const });
  const group = { rules: [rule("a"), rule("b")] };
  assert.deepEqual(withoutRule(group, "a", false, 5), { rules: [rule("b")], ending: [] });
  const ended = withoutRule(group, "a", true, 5);
  assert.deepEqual(ended, { rules: [rule("b")], ending: [{ rule: rule("a"), untilMs: 5 + endingMsMax }] });
  assert.deepEqual(stillEnding(ended, 5 + endingMsMax), []);
  assert.deepEqual(withoutRule(ended, "b", true, 5 + endingMsMax).ending.map(({ rule }) => rule.id), ["b"]);
  assert.deepEqual(withoutRule(group, "c", true, 5), { rules: group.rules, ending: [] });
  let many: Pick<SecurityGroup, "rules" | "ending"> = { rules: [] };
  for (let i = 0; i < 130; i++) many = withoutRule({ ...many, rules: [rule(`r${i}`)] }, `r${i}`, true, i);
  assert.deepEqual([many.ending!.length, many.ending![0]!.rule.id], [rulesPerGroupMax, "r2"]);
});
