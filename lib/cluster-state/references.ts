import { installPlanSchema } from "./install_plan.ts";
import { overlaidDesired, overlaidPlan } from "./resolve.ts";
import type { ClusterState } from "./schema.ts";
import { desiredSystemSchema } from "./system.ts";

type Refuse = (path: readonly (string | number)[], message: string) => void;

/** What one part of the state says about another: names that must exist, values that must be unique. */
export function checkReferences(cluster: ClusterState, refuse: Refuse): void {
  if (Object.keys(cluster.nodes).length === 0) {
    refuse(["nodes"], "must have a node");
  }
  checkNodes(cluster, refuse);
  checkPlans(cluster, refuse);
  checkRollouts(cluster, refuse);
  checkServices(cluster, refuse);
}

function checkNodes(cluster: ClusterState, refuse: Refuse): void {
  const inside = rangeOf(cluster.network.cidr);
  const taken = new Map([[cluster.network.operatorAddress, "the operator"]]);
  const members = new Map<number, string>();
  const serials = new Map<string, string>();
  const unique = <K>(
    seen: Map<K, string>,
    key: K,
    name: string,
    field: string,
    what: string,
  ) => {
    const owner = seen.get(key);
    if (owner !== undefined) {
      refuse(["nodes", name, field], `is the ${what} of ${owner}`);
    }
    seen.set(key, name);
  };
  for (const [name, node] of Object.entries(cluster.nodes)) {
    if (!inside(node.address)) {
      refuse(
        ["nodes", name, "address"],
        `must be inside ${cluster.network.cidr}`,
      );
    }
    unique(taken, node.address, name, "address", "address");
    unique(members, node.member, name, "member", "member");
    if (node.serial !== undefined) {
      unique(serials, node.serial, name, "serial", "serial");
    }
    for (const component of node.standby) {
      if (node.components.includes(component)) {
        refuse(["nodes", name, "standby"], `${component} runs here already`);
      }
    }
    mustExist(
      cluster.classes,
      node.class,
      ["nodes", name, "class"],
      "class",
      refuse,
    );
    mustExist(
      cluster.pools,
      node.pool,
      ["nodes", name, "pool"],
      "pool",
      refuse,
    );
  }
  if (!inside(cluster.network.operatorAddress)) {
    refuse(
      ["network", "operatorAddress"],
      `must be inside ${cluster.network.cidr}`,
    );
  }
}

/** What is left open by a class may be said by the node; both together must be whole. */
function checkPlans(cluster: ClusterState, refuse: Refuse): void {
  for (const name of Object.keys(cluster.nodes)) {
    const parts = [
      ["install_plan", installPlanSchema, overlaidPlan(cluster, name)],
      ["desired_system", desiredSystemSchema, overlaidDesired(cluster, name)],
    ] as const;
    for (const [field, schema, value] of parts) {
      if (value === undefined) continue;
      const result = schema.safeParse(value);
      for (const issue of result.error?.issues ?? []) {
        const where = issue.path.join(".");
        refuse(
          ["nodes", name, field, ...issue.path as string[]],
          `${where} is missing or wrong here and in its class: ${issue.message}`,
        );
      }
    }
  }
}

function checkRollouts(cluster: ClusterState, refuse: Refuse): void {
  const covered = new Map<string, string>();
  for (const [name, rollout] of Object.entries(cluster.rollouts)) {
    const path = ["rollouts", name];
    for (const [i, item] of rollout.classes.entries()) {
      mustExist(
        cluster.classes,
        item,
        [...path, "classes", i],
        "class",
        refuse,
      );
    }
    for (const [i, item] of rollout.pools.entries()) {
      mustExist(cluster.pools, item, [...path, "pools", i], "pool", refuse);
    }
    for (const [i, item] of rollout.nodes.entries()) {
      mustExist(cluster.nodes, item, [...path, "nodes", i], "node", refuse);
    }
    if (
      rollout.classes.length + rollout.pools.length + rollout.nodes.length === 0
    ) {
      refuse(path, "must name classes, pools or nodes");
    }
    for (const [node, spec] of Object.entries(cluster.nodes)) {
      const inside = rollout.nodes.includes(node) ||
        (spec.class !== undefined && rollout.classes.includes(spec.class)) ||
        (spec.pool !== undefined && rollout.pools.includes(spec.pool));
      if (!inside) continue;
      const other = covered.get(node);
      if (other !== undefined) {
        refuse(path, `covers ${node}, which ${other} covers already`);
      }
      covered.set(node, name);
    }
  }
}

function checkServices(cluster: ClusterState, refuse: Refuse): void {
  for (const [name, service] of Object.entries(cluster.services)) {
    const path = ["services", name];
    for (const [i, item] of service.classes.entries()) {
      mustExist(
        cluster.classes,
        item,
        [...path, "classes", i],
        "class",
        refuse,
      );
    }
    for (const [i, item] of service.pools.entries()) {
      mustExist(cluster.pools, item, [...path, "pools", i], "pool", refuse);
    }
    for (const [i, { service: other }] of service.affinity.entries()) {
      mustExist(
        cluster.services,
        other,
        [...path, "affinity", i, "service"],
        "service",
        refuse,
      );
    }
  }
}

function mustExist(
  known: Readonly<Record<string, unknown>>,
  name: string | undefined,
  path: readonly (string | number)[],
  what: string,
  refuse: Refuse,
): void {
  if (name === undefined || Object.hasOwn(known, name)) return;
  const names = Object.keys(known).slice(0, 20).join(", ");
  refuse(
    path,
    `names the ${what} ${name}, which is not there: wanted ${names === "" ? `a ${what} to exist` : `one of ${names}`}`,
  );
}

function rangeOf(cidr: string): (address: string) => boolean {
  const [base, bits] = cidr.split("/") as [string, string];
  const shift = 32 - Number(bits);
  const network = (address: string) =>
    Math.floor(
      address.split(".").reduce((n, part) => n * 256 + Number(part), 0) /
        2 ** shift,
    );
  return (address) => network(address) === network(base);
}
