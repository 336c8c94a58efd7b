import type { InstallPlan } from "./install_plan.ts";
import { desiredSystemOf, installPlanOf, labelsOf } from "./resolve.ts";
import type { ClusterState, DeployerMetadata } from "./schema.ts";
import type { DesiredSystem } from "./system.ts";

/** Everything one node is told about itself. */
export interface BootstrapMetadata {
  readonly clusterId: string;
  readonly node: string;
  readonly hostname: string;
  readonly role: string;
  readonly class?: string;
  readonly pool?: string;
  readonly address: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly components: readonly string[];
  readonly deployer: DeployerMetadata;
  readonly install_plan?: InstallPlan;
  readonly desired_system?: DesiredSystem;
}

/** What follows from the state for one node; undefined when the state does not have it. */
export function bootstrapMetadata(
  cluster: ClusterState,
  node: string,
): BootstrapMetadata | undefined {
  const spec = cluster.nodes[node];
  if (spec === undefined) return undefined;
  const [plan, desired] = [
    installPlanOf(cluster, node),
    desiredSystemOf(cluster, node),
  ];
  return {
    clusterId: cluster.clusterId,
    node,
    hostname: spec.hostname ?? node,
    role: spec.role,
    ...(spec.class === undefined ? {} : { class: spec.class }),
    ...(spec.pool === undefined ? {} : { pool: spec.pool }),
    address: spec.address,
    labels: labelsOf(cluster, node),
    components: spec.components,
    deployer: cluster.deployer,
    ...(plan === undefined ? {} : { install_plan: plan }),
    ...(desired === undefined ? {} : { desired_system: desired }),
  };
}
