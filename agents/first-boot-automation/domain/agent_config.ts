/** What of the deployer's answer the configuration of an agent follows from. */
export interface AgentOf {
  readonly node: string;
  readonly cluster_id: string;
  readonly peers: { readonly deployer: readonly string[]; readonly chainfire: readonly string[] };
}

/** Names of an agent's files, below its directory. */
export const agentFiles = {
  key: "identity.key",
  cert: "tls.crt",
  certKey: "tls.key",
  authorities: "tls-ca.crt",
} as const;

/** Configuration of the node's nix-agent. */
export function agentConfig(
  of: AgentOf,
  credentialsDir: string,
  over: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const own = `${credentialsDir}/nix-agent`;
  return {
    clusterId: of.cluster_id,
    instance: of.node,
    nodeName: of.node,
    rpc: {
      listen: "0.0.0.0:7151",
      tls: {
        certFile: `${own}/${agentFiles.cert}`,
        keyFile: `${own}/${agentFiles.certKey}`,
        caFile: `${own}/${agentFiles.authorities}`,
      },
    },
    stateDir: "/var/lib/ultracloud/nix-agent",
    runDir: "/run/ultracloud/nix-agent",
    identityKeyFile: `${own}/${agentFiles.key}`,
    trustFile: `${credentialsDir}/trust.json`,
    peers: of.peers,
    ...over,
  };
}
