import { type InstallPlan, installPlanSchema } from "./install_plan.ts";
import type { ClusterNode, ClusterState } from "./schema.ts";
import { type DesiredSystem, desiredSystemSchema } from "./system.ts";
import type { InstallPlanOverlay } from "./install_plan.ts";
import type { DesiredSystemOverlay } from "./system.ts";

/** Names of the nodes that run the component from the start, in the order of the file. */
export function nodesWith(cluster: ClusterState, component: string): string[] {
  return Object.keys(cluster.nodes).filter((name) => cluster.nodes[name]!.components.includes(component));
}

/** The class's plan with the node's own over it, unchecked; undefined when neither has one. */
export function overlaidPlan(
  cluster: ClusterState,
  node: string,
): InstallPlanOverlay | undefined {
  return overlay(cluster, node, (part) => part.install_plan);
}

export function overlaidDesired(
  cluster: ClusterState,
  node: string,
): DesiredSystemOverlay | undefined {
  return overlay(cluster, node, (part) => part.desired_system);
}

function overlay<T extends object>(
  cluster: ClusterState,
  node: string,
  pick: (
    part: Pick<ClusterNode, "install_plan" | "desired_system">,
  ) => T | undefined,
): T | undefined {
  const spec = cluster.nodes[node];
  if (spec === undefined) return undefined;
  const shared = spec.class === undefined ? undefined : cluster.classes[spec.class];
  const [below, above] = [shared && pick(shared), pick(spec)];
  return below === undefined && above === undefined ? undefined : { ...below, ...above } as T;
}

/** How the node is to be installed; undefined when nothing says so. The closure is that of the desired system when the plan has none. */
export function installPlanOf(
  cluster: ClusterState,
  node: string,
): InstallPlan | undefined {
  const plan = overlaidPlan(cluster, node);
  if (plan === undefined) return undefined;
  const target = plan.target_system ??
    overlaidDesired(cluster, node)?.target_system;
  return installPlanSchema.parse({
    ...plan,
    ...(target === undefined ? {} : { target_system: target }),
  });
}

/** What the node should become; undefined when nothing says so. */
export function desiredSystemOf(
  cluster: ClusterState,
  node: string,
): DesiredSystem | undefined {
  const desired = overlaidDesired(cluster, node);
  return desired && desiredSystemSchema.parse(desired);
}

/** Labels of a node: its pool's, its class's, its own, and `node`, `role`, `class`, `pool` and `failure-domain`. */
export function labelsOf(
  cluster: ClusterState,
  node: string,
): Record<string, string> {
  const spec = cluster.nodes[node]!;
  return {
    ...(spec.pool === undefined ? {} : { ...cluster.pools[spec.pool]?.labels, pool: spec.pool }),
    ...(spec.class === undefined ? {} : { ...cluster.classes[spec.class]?.labels, class: spec.class }),
    ...(spec.failureDomain === undefined ? {} : { "failure-domain": spec.failureDomain }),
    ...spec.labels,
    node,
    role: spec.role,
  };
}

/** Nodes a rollout covers, in the order of the file. */
export function rolloutNodes(cluster: ClusterState, rollout: string): string[] {
  const { classes, pools, nodes } = cluster.rollouts[rollout]!;
  return Object.entries(cluster.nodes).filter(([name, node]) =>
    nodes.includes(name) ||
    (node.class !== undefined && classes.includes(node.class)) ||
    (node.pool !== undefined && pools.includes(node.pool))
  ).map(([name]) => name);
}

/** The rollout that covers the node; undefined: its changes are offered at once. */
export function rolloutOf(
  cluster: ClusterState,
  node: string,
): string | undefined {
  return Object.keys(cluster.rollouts).find((name) => rolloutNodes(cluster, name).includes(node));
}
