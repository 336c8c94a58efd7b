import { invalidField } from "@ultracloud/base";
import { checkPeer } from "./acl.ts";
import { contains, parseIp, parseNetwork } from "./ipv4.ts";
import type { EndingRule, Rule, SecurityGroup } from "./types.ts";

export const rulesPerGroupMax = 128;

/** The rule a new group has: everything may go out. */
export function egressRule(id: string): Rule {
  return {
    id,
    direction: "egress",
    protocol: "any",
    portMin: 0,
    portMax: 0,
    remoteCidr: "0.0.0.0/0",
    remoteGroupId: "",
  };
}

/** The rule with its peer filled in, or an invalid_argument fault under `field`. */
export function checkRule(rule: Rule, field: string): Rule {
  const ported = rule.protocol === "tcp" || rule.protocol === "udp";
  const every = rule.portMin === 0 && rule.portMax === 0;
  if (!ported && !every) {
    throw invalidField(
      `${field}.portMin`,
      `Cannot limit ${rule.protocol} to ports: wanted none, or protocol tcp or udp`,
    );
  }
  if (!every && !(rule.portMin >= 1 && rule.portMin <= rule.portMax && rule.portMax <= 65535)) {
    throw invalidField(
      `${field}.portMin`,
      `Cannot use ports ${rule.portMin} to ${rule.portMax}: wanted 1 <= portMin <= portMax <= 65535`,
    );
  }
  if (rule.remoteCidr !== "" && rule.remoteGroupId !== "") {
    throw invalidField(`${field}.remoteCidr`, "Cannot use a CIDR and a group as peer of one rule: wanted one of them");
  }
  if (rule.remoteGroupId !== "") return rule;
  const remoteCidr = rule.remoteCidr === "" ? "0.0.0.0/0" : rule.remoteCidr;
  return { ...rule, remoteCidr: checkPeer(remoteCidr, `${field}.remoteCidr`) };
}

/** Two rules that let the same pass. */
export function sameRule(a: Rule, b: Rule): boolean {
  return a.direction === b.direction && a.protocol === b.protocol && a.portMin === b.portMin &&
    a.portMax === b.portMax && a.remoteCidr === b.remoteCidr && a.remoteGroupId === b.remoteGroupId;
}

/** Forwards one port may have, and the widest range that is forwarded: each forward is a listener of the host. */
export const forwardsPerPortMax = 64;
export const forwardRangeMax = 32;

export interface WantedForward {
  readonly protocol: "tcp" | "udp";
  readonly guestPort: number;
}

const loopback = parseIp("127.0.0.1")!;

/**
 * Guest ports to forward: TCP and UDP ingress of bounded ranges whose peer includes the host's loopback, where
 * forwarded traffic comes from. Wider ranges and what exceeds the bound are left out, lowest ports first.
 */
export function wantedForwards(rules: readonly Rule[]): WantedForward[] {
  const found = new Map<string, WantedForward>();
  for (const rule of rules) {
    if (rule.direction !== "ingress" || rule.remoteGroupId !== "") continue;
    if (rule.protocol !== "tcp" && rule.protocol !== "udp") continue;
    if (rule.portMin === 0 || rule.portMax - rule.portMin >= forwardRangeMax) continue;
    const peer = parseNetwork(rule.remoteCidr);
    // An IPv6 peer opens nothing: the forwards are IPv4.
    if (!peer || !contains(peer, loopback)) continue;
    for (let guestPort = rule.portMin; guestPort <= rule.portMax; guestPort++) {
      found.set(`${rule.protocol}/${guestPort}`, { protocol: rule.protocol, guestPort });
    }
  }
  return [...found.values()].sort((a, b) => a.guestPort - b.guestPort || (a.protocol < b.protocol ? -1 : 1))
    .slice(0, forwardsPerPortMax);
}

/** True when some rule lets everything out. Narrower egress cannot be kept by user networking, so it opens nothing. */
export function allowsAllEgress(rules: readonly Rule[]): boolean {
  return rules.some((rule) =>
    rule.direction === "egress" && rule.protocol === "any" && rule.remoteCidr === "0.0.0.0/0" &&
    rule.remoteGroupId === ""
  );
}

/** How long connections of a removed rule may go on: whoever needs longer keeps the rule. */
export const endingMsMax = 86_400_000;

/** The group without a rule, whose connections may end by themselves if `letFlowsEnd`; the oldest make room. */
export function withoutRule(
  group: Pick<SecurityGroup, "rules" | "ending">,
  ruleId: string,
  letFlowsEnd: boolean,
  nowMs: number,
): Required<Pick<SecurityGroup, "rules" | "ending">> {
  const gone = group.rules.find((rule) => rule.id === ruleId);
  const ending = stillEnding(group, nowMs);
  if (gone && letFlowsEnd) ending.push({ rule: gone, untilMs: nowMs + endingMsMax });
  return { rules: group.rules.filter((rule) => rule !== gone), ending: ending.slice(-rulesPerGroupMax) };
}

/** Removed rules of the group whose connections may still go on. */
export function stillEnding(group: Pick<SecurityGroup, "ending">, nowMs: number): EndingRule[] {
  return (group.ending ?? []).filter(({ untilMs }) => untilMs > nowMs);
}
