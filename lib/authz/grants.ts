import { utf8 } from "@ultracloud/base";
import { keyPrefixScope, keyScope } from "./key_scope.ts";
import type { Grant } from "./trust.ts";

const grant = (permission: string, scope = ""): Grant => ({ permission, scope });
/** A service's own database. */
const ownDatabase = (service: string) => grant("flaredb.*.*", `sys_${service}`);
/** A service's own keys in the coordination store: that of its leadership, and everything below its name. */
const coordination = (service: string) =>
  [keyScope(utf8.encode(`/ultracloud/leaders/${service}`)), keyPrefixScope(`/ultracloud/${service}/`)].flatMap((keys) =>
    ["kv", "watch", "lease", "lock", "election", "session"].map((resource) => grant(`chainfire.${resource}.*`, keys))
  );
/** Keys that several components speak to each other by. */
const keysBelow = (prefix: string) =>
  ["kv", "watch", "lease"].map((resource) => grant(`chainfire.${resource}.*`, keyPrefixScope(prefix)));

/**
 * What each principal of the cluster is granted, and nothing else: the one table that quickstart, tests and deployer
 * write trust files from.
 */
const byPrincipal: Readonly<Record<string, readonly Grant[]>> = {
  chainfire: [grant("chainfire.peer.*")],
  flaredb: [grant("flaredb.peer.*")],
  iam: [ownDatabase("iam")],
  prismnet: [
    ownDatabase("prismnet"),
    ...coordination("prismnet"),
    grant("iam.policy.get"),
    grant("netagent.network.*"),
  ],
  plasmavmc: [
    ownDatabase("plasmavmc"),
    ...coordination("plasmavmc"),
    grant("iam.policy.get"),
    grant("prismnet.port.*"),
    grant("prismnet.subnet.get"),
    grant("prismnet.security_group.get"),
    grant("vmagent.*.*"),
    grant("fetcher.url.fetch"),
  ],
  "vm-agent": [grant("plasmavmc.node.register"), grant("plasmavmc.node.heartbeat"), grant("plasmavmc.image.read")],
  "net-agent": [grant("prismnet.host.sync")],
  // Systems that agents read in chainfire, for when the deployer is not reached.
  deployer: [
    ownDatabase("deployer"),
    ...coordination("deployer"),
    ...keysBelow("/ultracloud/systems/"),
    grant("iam.policy.get"),
  ],
  // What is its node's alone is told apart by the deployer; here it says what it is and asks for the drain.
  "nix-agent": [
    grant("deployer.agent.*"),
    ...keysBelow("/ultracloud/drain/"),
    ...keysBelow("/ultracloud/systems/observed/"),
    grant("chainfire.kv.get", keyPrefixScope("/ultracloud/systems/desired/")),
  ],
  "fleet-scheduler": [
    ownDatabase("fleet_scheduler"),
    ...coordination("fleet-scheduler"),
    ...keysBelow("/ultracloud/drain/"),
    grant("iam.policy.get"),
    grant("nodeagent.instance.*"),
  ],
  "node-agent": [grant("fleetscheduler.node.register"), grant("fleetscheduler.node.heartbeat")],
  // Certificates it asks for in the name of each identity, with that identity's key.
  "mtls-agent": [grant("iam.authority.list"), grant("deployer.trust.get")],
  // Row changes of any database that a hook names; the hooks that tenants made.
  fetcher: [grant("flaredb.sql.watch"), grant("flaredb.webhook.deliver")],
  operator: [
    grant("chainfire.*.*"),
    grant("flaredb.*.*"),
    grant("vmagent.*.get"),
    grant("vmagent.*.list"),
    // A machine is enrolled before there is an iam to ask.
    grant("deployer.*.*"),
    grant("nixagent.*.*"),
    grant("fleetscheduler.*.*"),
    grant("nodeagent.*.*"),
  ],
};

/** Grants of a component or of the operator; none for a name the table does not have. */
export function standardGrants(name: string): Grant[] {
  return [...byPrincipal[name] ?? []];
}

/** Agents that a node brings keys of its own for. */
export const nodePrincipals = ["mtls-agent", "net-agent", "nix-agent", "node-agent", "vm-agent"] as const;
export type NodePrincipal = typeof nodePrincipals[number];

/** Grants of an agent with its node's own key: what the table gives it, and of keys in chainfire those of its node. */
export function nodeGrants(name: NodePrincipal, node: string): Grant[] {
  if (name !== "nix-agent") return standardGrants(name);
  const own = (key: string, permission: string) =>
    grant(permission, keyScope(utf8.encode(`/ultracloud/${key}/${node}`)));
  return [
    grant("deployer.agent.*"),
    ...["kv", "watch", "lease"].map((resource) => own("drain/requests", `chainfire.${resource}.*`)),
    own("drain/answers", "chainfire.kv.get"),
    own("drain/answers", "chainfire.watch.*"),
    own("systems/desired", "chainfire.kv.get"),
    ...["kv", "watch", "lease"].map((resource) => own("systems/observed", `chainfire.${resource}.*`)),
  ];
}

/** Every name the table has. */
export const grantedPrincipals: readonly string[] = Object.keys(byPrincipal);
