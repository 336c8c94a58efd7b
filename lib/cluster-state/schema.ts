import { z } from "zod";
import { labelsSchema, nameSchema } from "./_names.ts";
import { installPlanOverlaySchema } from "./install_plan.ts";
import { checkReferences } from "./references.ts";
import { rolloutSchema } from "./rollout.ts";
import { serviceSchema } from "./service.ts";
import { trustedKeySchema } from "./store_path.ts";
import { desiredSystemOverlaySchema } from "./system.ts";

const mib = 2 ** 20;
const componentsSchema = z.array(nameSchema).max(32).default([]);

const nodeSchema = z.strictObject({
  role: z.enum(["control-plane", "worker", "gateway"]),
  address: z.ipv4().describe(
    "Where the other nodes reach it; inside network.cidr",
  ),
  member: z.number().int().min(1).max(2 ** 31 - 1).describe(
    "Id of the store replicas on this node; never used again after the node is gone",
  ),
  components: componentsSchema.describe("What runs here from the start"),
  standby: componentsSchema.describe(
    "What has keys and configuration here but is started by hand, as a new member",
  ),
  labels: labelsSchema.describe(
    "What placement may select the node by, over those of its class",
  ),
  diskBytesMax: z.number().int().min(64 * mib).optional().describe(
    "Size of the node's own file system; without it the node writes into a directory",
  ),
  class: nameSchema.optional().describe(
    "Class the node takes its install plan and desired system from",
  ),
  pool: nameSchema.optional().describe("Pool the node counts in"),
  hostname: nameSchema.optional().describe("Without it the node's name"),
  serial: z.string().min(1).max(128).optional().describe(
    "Serial of the machine; phone-home is bound to it",
  ),
  failureDomain: z.string().min(1).max(63).optional().describe(
    "Rack, row or site, for placement",
  ),
  install_plan: installPlanOverlaySchema.optional().describe(
    "What differs from the class",
  ),
  desired_system: desiredSystemOverlaySchema.optional().describe(
    "What differs from the class",
  ),
});

const classSchema = z.strictObject({
  description: z.string().max(512).default(""),
  labels: labelsSchema,
  install_plan: installPlanOverlaySchema.optional(),
  desired_system: desiredSystemOverlaySchema.optional(),
});

const poolSchema = z.strictObject({
  description: z.string().max(512).default(""),
  labels: labelsSchema,
  readyMin: z.number().int().min(0).max(4096).default(0).describe(
    "Nodes of the pool that must stay up; a rollout waits rather than go below",
  ),
});

const deployerSchema = z.strictObject({
  url: z.url().optional().describe("Where machines phone home"),
  caSha256: z.string().regex(/^[0-9a-f]{64}$/).optional().describe(
    "SHA-256 of the CA certificate in DER, for pinning",
  ),
  binaryCacheUrl: z.url().optional().describe("Where closures are copied from"),
  trustedKeys: z.array(trustedKeySchema).max(16).default([]).describe(
    "Keys that closures must be signed by",
  ),
});

/** What a cluster is: the one file that the Nix module, the deployer, the scheduler and the test cluster agree on. */
export const clusterStateSchema = z.strictObject({
  $schema: z.string().optional(),
  version: z.literal(1),
  clusterId: nameSchema.describe("Trust domain of every identity in it"),
  profile: z.enum([
    "single-node-dev",
    "ha-control-plane",
    "bare-metal-bootstrap",
  ]).describe(
    "Which components are required and which are optional",
  ),
  network: z.strictObject({
    cidr: z.cidrv4().describe(
      "Network between the nodes; no tenant network overlaps it",
    ),
    operatorAddress: z.ipv4().describe("Where the operator stands in it"),
  }),
  nodes: z.record(nameSchema, nodeSchema),
  classes: z.record(nameSchema, classSchema).default({}).describe(
    "What nodes have in common",
  ),
  pools: z.record(nameSchema, poolSchema).default({}).describe(
    "Nodes that stand in for each other",
  ),
  rollouts: z.record(nameSchema, rolloutSchema).default({}).describe(
    "How changes of systems go over nodes",
  ),
  services: z.record(nameSchema, serviceSchema).default({}).describe(
    "What fleet-scheduler places on the nodes",
  ),
  deployer: deployerSchema.default({ trustedKeys: [] }).describe(
    "Where machines enrol and fetch from",
  ),
  config: z.record(nameSchema, z.record(z.string(), z.unknown())).default({})
    .describe(
      "Settings by component, over what follows from the rest of this file",
    ),
}).superRefine((cluster, context) => {
  checkReferences(
    cluster,
    (path, message) => context.addIssue({ code: "custom", path: [...path], message }),
  );
});

export type ClusterState = z.infer<typeof clusterStateSchema>;
/** As it is written: what has a default may be left out. */
export type ClusterStateInput = z.input<typeof clusterStateSchema>;
export type ClusterNode = z.infer<typeof nodeSchema>;
export type NodeClass = z.infer<typeof classSchema>;
export type NodePool = z.infer<typeof poolSchema>;
export type DeployerMetadata = z.infer<typeof deployerSchema>;
