import { fault } from "@ultracloud/base";
import { z } from "zod";

const mib = 2 ** 20;
const nameSchema = z.string().regex(/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/);
const componentsSchema = z.array(nameSchema).max(32).default([]);

const nodeSchema = z.strictObject({
  role: z.enum(["control-plane", "worker", "gateway"]),
  address: z.ipv4().describe("Where the other nodes reach it; inside network.cidr"),
  member: z.number().int().min(1).max(2 ** 31 - 1).describe(
    "Id of the store replicas on this node; never used again after the node is gone",
  ),
  components: componentsSchema.describe("What runs here from the start"),
  standby: componentsSchema.describe("What has keys and configuration here but is started by hand, as a new member"),
  labels: z.record(z.string(), z.string()).default({}).describe("What placement may select the node by"),
  diskBytesMax: z.number().int().min(64 * mib).optional().describe(
    "Size of the node's own file system; without it the node writes into a directory",
  ),
});

/** What a cluster is: the one file that the test cluster, the deployer and the Nix module agree on. */
export const clusterFileSchema = z.strictObject({
  $schema: z.string().optional(),
  version: z.literal(1),
  clusterId: nameSchema.describe("Trust domain of every identity in it"),
  profile: z.enum(["single-node-dev", "ha-control-plane", "bare-metal-bootstrap"]).describe(
    "Which components are required and which are optional",
  ),
  network: z.strictObject({
    cidr: z.cidrv4().describe("Network between the nodes; no tenant network overlaps it"),
    operatorAddress: z.ipv4().describe("Where the operator stands in it"),
  }),
  nodes: z.record(nameSchema, nodeSchema),
  config: z.record(nameSchema, z.record(z.string(), z.unknown())).default({}).describe(
    "Settings by component, over what follows from the rest of this file",
  ),
}).superRefine((cluster, context) => {
  const refuse = (path: string[], message: string) => context.addIssue({ code: "custom", path, message });
  const inside = rangeOf(cluster.network.cidr);
  const taken = new Map([[cluster.network.operatorAddress, "the operator"]]);
  const members = new Map<number, string>();
  if (Object.keys(cluster.nodes).length === 0) refuse(["nodes"], "must have a node");
  for (const [name, node] of Object.entries(cluster.nodes)) {
    if (!inside(node.address)) refuse(["nodes", name, "address"], `must be inside ${cluster.network.cidr}`);
    const owner = taken.get(node.address);
    if (owner !== undefined) refuse(["nodes", name, "address"], `is the address of ${owner}`);
    taken.set(node.address, name);
    const member = members.get(node.member);
    if (member !== undefined) refuse(["nodes", name, "member"], `is the member of ${member}`);
    members.set(node.member, name);
    for (const component of node.standby) {
      if (node.components.includes(component)) refuse(["nodes", name, "standby"], `${component} runs here already`);
    }
  }
  if (!inside(cluster.network.operatorAddress)) {
    refuse(["network", "operatorAddress"], `must be inside ${cluster.network.cidr}`);
  }
});

export type ClusterFile = z.infer<typeof clusterFileSchema>;
export type ClusterNode = z.infer<typeof nodeSchema>;

/** The cluster that `text` describes; `source` names the file in errors. */
export function parseClusterFile(text: string, source: string): ClusterFile {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw fault("invalid_argument", "cluster_invalid", `Cannot read ${source} as JSON`, { cause });
  }
  const result = clusterFileSchema.safeParse(json);
  if (result.success) return result.data;
  throw fault("invalid_argument", "cluster_invalid", `Cannot use ${source}: ${z.prettifyError(result.error)}`);
}

/** Names of the nodes that run the component from the start, in the order of the file. */
export function nodesWith(cluster: ClusterFile, component: string): string[] {
  return Object.keys(cluster.nodes).filter((name) => cluster.nodes[name]!.components.includes(component));
}

function rangeOf(cidr: string): (address: string) => boolean {
  const [base, bits] = cidr.split("/") as [string, string];
  const shift = 32 - Number(bits);
  const network = (address: string) =>
    Math.floor(address.split(".").reduce((n, part) => n * 256 + Number(part), 0) / 2 ** shift);
  return (address) => network(address) === network(base);
}
