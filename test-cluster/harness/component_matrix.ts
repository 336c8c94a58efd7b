import { fault } from "@ultracloud/base";
import { companions, type ProfileName, profiles } from "@ultracloud/cli";
import type { ClusterFile } from "@ultracloud/launch";

export interface MatrixGap {
  readonly component: string;
  /** Where the profile wants it and the file has it not. */
  readonly where: string;
}

export interface MatrixVerdict {
  /** Required, and absent. */
  readonly missing: readonly MatrixGap[];
  /** Optional, and there: component to its nodes. */
  readonly optional: Readonly<Record<string, readonly string[]>>;
  /** There, and neither required nor optional: the profile says nothing about it. */
  readonly foreign: readonly MatrixGap[];
}

/** Holds what runs where against the profile that the file names. */
export function judgeComponents(cluster: Pick<ClusterFile, "profile" | "nodes">): MatrixVerdict {
  const { required, requiredOnEach, optional } = profiles[cluster.profile];
  const known = (name: string): boolean =>
    required.includes(name) || optional.includes(name) || (name in companions && known(companions[name]!));
  const nodes = Object.entries(cluster.nodes);
  const missing: MatrixGap[] = [];
  for (const component of required) {
    const hosts = nodes.filter(([, node]) => node.components.includes(component)).map(([name]) => name);
    if (hosts.length === 0) missing.push({ component, where: "on no node" });
    else if (requiredOnEach.includes(component)) {
      const lacking = nodes.filter(([name, node]) => node.role === "control-plane" && !hosts.includes(name));
      missing.push(...lacking.map(([name]) => ({ component, where: `on ${name}` })));
    }
  }
  const beyond: Record<string, string[]> = {};
  const foreign: MatrixGap[] = [];
  for (const [node, { components, standby }] of nodes) {
    for (const component of [...components, ...standby]) {
      if (!known(component)) foreign.push({ component, where: node });
      else if (!required.includes(component)) (beyond[component] ??= []).push(node);
    }
  }
  return { missing, optional: beyond, foreign };
}

/** Refuses a file with a component that its profile does not know. */
export function assertKnownComponents(cluster: ClusterFile, source: string): void {
  const [first] = judgeComponents(cluster).foreign;
  if (first === undefined) return;
  const { required, optional } = profiles[cluster.profile];
  throw fault(
    "invalid_argument",
    "component_foreign",
    `Cannot use ${source}: ${first.component} on ${first.where} is no part of ${cluster.profile}: wanted one of ${
      [...required, ...optional].join(", ")
    }`,
  );
}

/** Refuses a file with a component that its profile knows and this workspace does not have. */
export function assertBuilt(cluster: Pick<ClusterFile, "nodes">, built: { has(component: string): boolean }): void {
  for (const [node, { components, standby }] of Object.entries(cluster.nodes)) {
    const absent = [...components, ...standby].find((component) => !built.has(component));
    if (absent === undefined) continue;
    throw fault(
      "failed_precondition",
      "component_not_built",
      `Cannot start ${absent} on ${node}: this release does not have it`,
    );
  }
}

/**
 * The matrix as a table for people: a row for each component, a column for each profile, and where it is. `homes`: the
 * folders of the components that the workspace has, by name.
 */
export function matrixTable(homes: ReadonlyMap<string, string>): string {
  const names = Object.keys(profiles) as ProfileName[];
  const inProfiles = names.flatMap((name) => [...profiles[name].required, ...profiles[name].optional]);
  const components = [...new Set([...inProfiles, ...homes.keys()])];
  const where = (component: string) => {
    const home = homes.get(component);
    return home === undefined ? "not in this release" : `[${home}](../${home})`;
  };
  const cell = (component: string, name: ProfileName) => {
    const { required, requiredOnEach, optional } = profiles[name];
    if (required.includes(component)) {
      return requiredOnEach.includes(component) ? "required on each control-plane node" : "required";
    }
    if (optional.includes(component)) return "optional";
    const service = companions[component];
    return service !== undefined && (required.includes(service) || optional.includes(service)) ? `with ${service}` : "";
  };
  const rows = [
    ["component", ...names.map((name) => profiles[name].name), "where"],
    ...components.sort().map((component) => [
      `\`${component}\``,
      ...names.map((name) => cell(component, name)),
      where(component),
    ]),
  ];
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  const line = (row: readonly string[]) => `| ${row.map((text, i) => text.padEnd(widths[i]!)).join(" | ")} |`;
  const rule = `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`;
  return [line(rows[0]!), rule, ...rows.slice(1).map(line)].join("\n");
}
