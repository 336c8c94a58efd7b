import type { AclRule, Protocol, Rule } from "../domain/types.ts";

/** OVN match texts of rules. Everything put into them has been checked: ids, CIDRs and numbers. */

/** Name of a group's port group; its addresses are `$<name>_ip4` and `$<name>_ip6`, kept by OVN itself. */
export function groupName(groupId: string): string {
  return groupId.replaceAll("-", "_");
}

function protocolMatch(protocol: Protocol, portMin: number, portMax: number, v6: boolean): string {
  if (protocol === "any") return "";
  if (protocol === "icmp") return v6 ? " && icmp6" : " && icmp4";
  if (portMin === 0) return ` && ${protocol}`;
  const port = `${protocol}.dst`;
  return portMin === portMax ? ` && ${port} == ${portMin}` : ` && ${port} >= ${portMin} && ${port} <= ${portMax}`;
}

function peerMatch(direction: "ingress" | "egress", peer: string, v6: boolean): string {
  const ip = v6 ? "ip6" : "ip4";
  if (peer === "0.0.0.0/0" || peer === "::/0") return ip;
  return `${ip}.${direction === "ingress" ? "src" : "dst"} == ${peer}`;
}

/** Matches of a security group's rule: one, or one per address family when its peer is a group. */
export function ruleMatches(groupId: string, rule: Rule): string[] {
  const here = `${rule.direction === "ingress" ? "outport" : "inport"} == @${groupName(groupId)}`;
  const match = (peer: string, v6: boolean) =>
    `${here} && ${peerMatch(rule.direction, peer, v6)}${protocolMatch(rule.protocol, rule.portMin, rule.portMax, v6)}`;
  if (rule.remoteGroupId === "") return [match(rule.remoteCidr, rule.remoteCidr.includes(":"))];
  const name = groupName(rule.remoteGroupId);
  return [match(`$${name}_ip4`, false), match(`$${name}_ip6`, true)];
}

/** The same for connections that were let pass before and have not been cut: nothing new matches. */
export function endingMatches(groupId: string, rule: Rule): string[] {
  return ruleMatches(groupId, rule).map((match) => `${match} && ct.est && ct_mark.blocked == 0`);
}

/** Match of a network ACL's rule for what comes in at a port. */
export function aclMatch(port: string, rule: AclRule): string {
  const here = `inport == "${port}"`;
  const v6 = rule.remoteCidr.includes(":");
  return `${here} && ${peerMatch(rule.direction, rule.remoteCidr, v6)}` +
    protocolMatch(rule.protocol, rule.portMin, rule.portMax, v6);
}
