import { aclMatch } from "./matches.ts";
import { routerPort, switchRouterPort } from "./names.ts";
import type { DesiredRow } from "./rows.ts";
import type { NetworkState } from "./state.ts";

/**
 * Network ACLs: stateless rules where a subnet meets its router. What comes in is judged by the switch at the router's
 * port, which connection tracking leaves alone. What goes out is judged by the router: the switch has tracked it by
 * then, and lets answers of a tracked flow pass whatever its rules say.
 */

/** Number 1 is rank 32 766: the lowest number wins in the ACL, the highest rank in OVN. */
const rankOf = (number: number) => 32_767 - number;
/** Above every rule. */
const firstRank = 32_767;
/** Below every rule: what none allows is dropped. */
const restRank = 1;

function aclOf(state: NetworkState, subnetId: string) {
  const id = state.subnets.find((subnet) => subnet.id === subnetId)?.value.networkAclId;
  return id === undefined ? undefined : state.acls.find((acl) => acl.id === id);
}

/** Adds the switch's part of a subnet's network ACL; answers the keys of its rows. */
export function ingressRows(state: NetworkState, subnetId: string, rows: DesiredRow[]): string[] {
  const acl = aclOf(state, subnetId);
  if (!acl) return [];
  const port = switchRouterPort(subnetId);
  const here = `inport == "${port}"`;
  const keys: string[] = [];
  const add = (name: string, priority: number, match: string, action: string) => {
    const key = `${subnetId}/in/${name}`;
    keys.push(key);
    rows.push({ table: "ACL", key, columns: { direction: "from-lport", priority, match, action } });
  };
  // Without its router's neighbours and announcements no packet of the subnet finds its way.
  add("neighbours", firstRank, `${here} && icmp6 && icmp6.type == {133, 134, 135, 136}`, "allow-stateless");
  for (const rule of acl.value.rules) {
    if (rule.direction !== "ingress") continue;
    const action = rule.action === "allow" ? "allow-stateless" : "drop";
    add(String(rule.number), rankOf(rule.number), aclMatch(port, rule), action);
  }
  add("rest", restRank, `${here} && ip`, "drop");
  return keys;
}

/** Adds the router's part of the network ACLs of a VPC's subnets; answers the keys of its rows. */
export function egressRows(state: NetworkState, vpcId: string, rows: DesiredRow[]): string[] {
  const keys: string[] = [];
  for (const { id, value } of state.subnets) {
    const acl = value.vpcId === vpcId ? aclOf(state, id) : undefined;
    if (!acl) continue;
    const port = routerPort(id);
    const here = `inport == "${port}"`;
    const add = (name: string, priority: number, match: string, action: string) => {
      const key = `${id}/out/${name}`;
      keys.push(key);
      rows.push({ table: "Logical_Router_Policy", key, columns: { priority, match, action } });
    };
    // What goes back into the subnet, as the router's own answers do, does not leave it.
    add("own", firstRank, `${here} && ip4.dst == ${value.cidr}`, "allow");
    if (value.cidrV6) add("own6", firstRank, `${here} && ip6.dst == {${value.cidrV6}, fe80::/10}`, "allow");
    for (const rule of acl.value.rules) {
      if (rule.direction !== "egress") continue;
      const action = rule.action === "allow" ? "allow" : "drop";
      add(String(rule.number), rankOf(rule.number), aclMatch(port, rule), action);
    }
    add("rest", restRank, `${here} && ip`, "drop");
  }
  return keys;
}
