import { type ComponentManifest, fault, type Placement } from "@ultracloud/base";
import { type ClusterFile, nodesWith } from "@ultracloud/launch";
import { iamSecrets } from "./keys.ts";
import type { NodeDirs } from "./substrate.ts";

export type Manifests = ReadonlyMap<string, ComponentManifest>;

/** TLS files of a component, beside its identity. */
const tlsIn = (dir: string) => ({
  certFile: `${dir}/tls.crt`,
  keyFile: `${dir}/tls.key`,
  caFile: `${dir}/tls-ca.crt`,
});

/** Address of a listener of a component, `10.77.0.11:7100`. */
export function addressOf(cluster: ClusterFile, manifests: Manifests, node: string, listener: string): string {
  const [component, name] = listener.split(".") as [string, string];
  const port = manifests.get(component)?.listen[name]?.port;
  if (port === undefined) throw fault("not_found", "listener_unknown", `Cannot place ${listener}: no manifest has it`);
  return `${cluster.nodes[node]!.address}:${port}`;
}

/** Nodes that a caller of the component may have to reach; a standby becomes a member later. */
function nodesOf(cluster: ClusterFile, component: string): string[] {
  return Object.keys(cluster.nodes).filter((name) => {
    const node = cluster.nodes[name]!;
    return node.components.includes(component) || node.standby.includes(component);
  });
}

/** Where the component lives on the node and whom it may reach: gives its permission flags. */
export function placementOf(
  cluster: ClusterFile,
  manifests: Manifests,
  node: string,
  component: string,
  dirs: NodeDirs,
): Placement {
  const manifest = manifests.get(component)!;
  const listen: Record<string, string> = {};
  for (const name of Object.keys(manifest.listen)) {
    listen[name] = addressOf(cluster, manifests, node, `${component}.${name}`);
  }
  const callees: Record<string, string[]> = {};
  for (const callee of manifest.calls) {
    const nodes = nodesOf(cluster, callee.split(".")[0]!);
    callees[callee] = nodes.map((name) => addressOf(cluster, manifests, name, callee));
  }
  return {
    configDir: `${dirs.etc}/${component}`,
    stateDir: `${dirs.state}/${component}`,
    runDir: `${dirs.run}/${component}`,
    trustFile: `${dirs.etc}/trust.json`,
    listen,
    callees,
  };
}

/** Configuration of a component on a node. */
export function configOf(
  cluster: ClusterFile,
  manifests: Manifests,
  node: string,
  component: string,
  dirs: NodeDirs,
): Record<string, unknown> {
  const placement = placementOf(cluster, manifests, node, component, dirs);
  const tls = tlsIn(placement.configDir);
  const peers: Record<string, string[]> = {};
  for (const callee of manifests.get(component)!.calls) {
    const [name, listener] = callee.split(".") as [string, string];
    const nodes = nodesWith(cluster, name);
    if (listener !== "rpc" || nodes.length === 0) continue;
    peers[name] = nodes.map((at) => `https://${addressOf(cluster, manifests, at, callee)}`);
  }
  return {
    clusterId: cluster.clusterId,
    instance: node,
    rpc: { listen: placement.listen.rpc, tls },
    stateDir: placement.stateDir,
    runDir: placement.runDir,
    identityKeyFile: `${placement.configDir}/identity.key`,
    trustFile: placement.trustFile,
    ...(Object.keys(peers).length > 0 ? { peers } : {}),
    ...own(cluster, manifests, node, component, placement),
    ...cluster.config[component],
  };
}

/** What only one component has. */
function own(
  cluster: ClusterFile,
  manifests: Manifests,
  node: string,
  component: string,
  placement: Placement,
): Record<string, unknown> {
  switch (component) {
    case "chainfire":
    case "flaredb":
      return membership(cluster, manifests, node, component, placement);
    case "iam": {
      const file = (name: string) => `${placement.configDir}/${name}`;
      return {
        mode: "production",
        issuer: `https://${addressOf(cluster, manifests, nodesWith(cluster, "iam")[0] ?? node, "iam.rpc")}`,
        adminTokenFile: file(iamSecrets.adminTokenFile),
        signingKeyFile: file(iamSecrets.signingKeyFile),
        masterKeyFile: file(iamSecrets.masterKeyFile),
        authorityCertFile: file(iamSecrets.authorityCertFile),
        authorityKeyFile: file(iamSecrets.authorityKeyFile),
      };
    }
    case "mtls-agent": {
      const { components, standby, address } = cluster.nodes[node]!;
      const etc = placement.configDir.slice(0, placement.configDir.lastIndexOf("/"));
      const certificates = [...components, ...standby].map((name) => ({
        identity: `svc/${name}`,
        instance: node,
        identityKeyFile: `${etc}/${name}/identity.key`,
        dir: `${etc}/${name}`,
        authoritiesFile: "tls-ca.crt",
        names: [address],
      }));
      return { certificates };
    }
    case "vm-agent":
      return {
        nodeName: node,
        agentUrl: `https://${placement.listen.rpc}`,
        labels: { node, ...cluster.nodes[node]!.labels },
        migration: { address: cluster.nodes[node]!.address },
      };
    case "deployer":
      return { bootstrap: { listen: placement.listen.bootstrap, tls: tlsIn(placement.configDir) } };
    case "nix-agent":
      // Several hosts on one machine: each has its store below a root of its own, and boots when the lane says so.
      return {
        nodeName: node,
        root: `${placement.stateDir}/host`,
        bootIdFile: `${placement.stateDir}/host/boot_id`,
      };
    case "node-agent": {
      const { class: ofClass, pool, labels } = cluster.nodes[node]!;
      return {
        nodeName: node,
        agentUrl: `https://${placement.listen.rpc}`,
        labels: { node, ...labels },
        ...(ofClass === undefined ? {} : { class: ofClass }),
        ...(pool === undefined ? {} : { pool }),
      };
    }
    default:
      return {};
  }
}

/** One replica of a store; a replica alone decides alone. */
function membership(
  cluster: ClusterFile,
  manifests: Manifests,
  node: string,
  component: string,
  placement: Placement,
): Record<string, unknown> {
  const nodes = nodesWith(cluster, component);
  const memberId = cluster.nodes[node]!.member;
  if (nodes.length < 2) return { memberId };
  return {
    memberId,
    members: nodes.map((name) => memberInfo(cluster, manifests, name, component)),
    peer: peerListener(placement),
  };
}

/** Where a replica listens to the others. */
export function peerListener(placement: Placement) {
  return { listen: placement.listen.peer!, tls: tlsIn(placement.configDir) };
}

/** How the others know a replica. */
export function memberInfo(cluster: ClusterFile, manifests: Manifests, node: string, component: string) {
  return {
    id: cluster.nodes[node]!.member,
    name: node,
    peerUrl: `https://${addressOf(cluster, manifests, node, `${component}.peer`)}`,
    clientUrl: `https://${addressOf(cluster, manifests, node, `${component}.rpc`)}`,
  };
}
