import { fault, invalidField } from "@ultracloud/base";
import { parseNetwork } from "./ipv4.ts";
import { parseNetwork6 } from "./ipv6.ts";
import type { AclRule } from "./types.ts";

/** Each rule is a match on every packet of the subnet's edge. */
export const aclRulesMax = 64;
const numberMax = 32_765;

/** The rule with its peer filled in, or an invalid_argument fault under `field`. */
export function checkAclRule(rule: AclRule, field: string): AclRule {
  if (!Number.isInteger(rule.number) || rule.number < 1 || rule.number > numberMax) {
    throw invalidField(`${field}.number`, `Cannot use number ${rule.number}: wanted 1 to ${numberMax}`);
  }
  const every = rule.portMin === 0 && rule.portMax === 0;
  const ported = rule.protocol === "tcp" || rule.protocol === "udp";
  const range = ported && rule.portMin >= 1 && rule.portMin <= rule.portMax && rule.portMax <= 65535;
  if (!every && !range) {
    throw invalidField(
      `${field}.portMin`,
      `Cannot use ports ${rule.portMin} to ${rule.portMax} with ${rule.protocol}: wanted none, or 1 to 65535 with tcp or udp`,
    );
  }
  const remoteCidr = rule.remoteCidr === "" ? "0.0.0.0/0" : rule.remoteCidr;
  return { ...rule, remoteCidr: checkPeer(remoteCidr, `${field}.remoteCidr`) };
}

/** An IPv4 or IPv6 CIDR in its shortest form, or an invalid_argument fault at `field`. */
export function checkPeer(text: string, field: string): string {
  if (parseNetwork(text)) return text;
  const v6 = parseNetwork6(text);
  if (v6) return v6.cidr;
  throw invalidField(
    field,
    `Cannot use ${
      JSON.stringify(text.slice(0, 50))
    } as peer: wanted an IPv4 or IPv6 CIDR without bits behind the prefix`,
    "invalid_cidr",
  );
}

/** The rules in the order of their numbers; two of one number and direction are refused, and so is one too many. */
export function orderRules(rules: readonly AclRule[]): AclRule[] {
  if (rules.length > aclRulesMax) {
    throw fault(
      "resource_exhausted",
      "rules_exceeded",
      `Cannot keep ${rules.length} rules in a network ACL: wanted at most ${aclRulesMax}`,
    );
  }
  const seen = new Set<string>();
  for (const { direction, number } of rules) {
    const key = `${direction} ${number}`;
    if (seen.has(key)) {
      throw fault("already_exists", "rule_exists", `Cannot use number ${number} twice for ${direction}`, {
        field: "rule.number",
      });
    }
    seen.add(key);
  }
  return [...rules].sort((a, b) => a.number - b.number || (a.direction < b.direction ? -1 : 1));
}
