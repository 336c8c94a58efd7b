/** What of the deployer's answer the configuration of an agent follows from. */
export interface AgentOf {
  readonly node: string;
  readonly cluster_id: string;
  readonly deployer: readonly string[];
  readonly chainfire: readonly string[];
}

/** Configuration of the node's nix-agent. Without certificates of its own it listens to its host alone. */
export function agentConfig(
  of: AgentOf,
  credentialsDir: string,
  files: readonly string[],
  over: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const own = `${credentialsDir}/nix-agent`;
  const tls = { certFile: `${own}/tls.crt`, keyFile: `${own}/tls.key`, caFile: `${own}/tls-ca.crt` };
  const secured = ["tls.crt", "tls.key", "tls-ca.crt"].every((name) => files.includes(`nix-agent/${name}`));
  return {
    clusterId: of.cluster_id,
    instance: of.node,
    nodeName: of.node,
    rpc: secured ? { listen: "0.0.0.0:7151", tls } : { listen: "127.0.0.1:7151" },
    stateDir: "/var/lib/ultracloud/nix-agent",
    runDir: "/run/ultracloud/nix-agent",
    identityKeyFile: `${own}/identity.key`,
    trustFile: `${credentialsDir}/trust.json`,
    peers: { deployer: of.deployer, chainfire: of.chainfire },
    ...over,
  };
}

/** Why the files are not what an agent needs; undefined when they are. */
export function filesMissing(files: readonly string[]): string | undefined {
  const missing = ["trust.json", "nix-agent/identity.key"].filter((name) => !files.includes(name));
  return missing.length === 0 ? undefined : `${missing.join(" and ")} missing`;
}
