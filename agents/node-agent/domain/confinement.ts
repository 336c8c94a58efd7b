import type { ServiceSpec } from "@ultracloud/cluster-state";

/**
 * What holds an instance together: `systemd` a transient scope, bound to the unit of its launcher; `cgroup` a control
 * group of version 2 of our own; `group` its process group alone, which a process may leave.
 */
export const confinementKinds = ["systemd", "cgroup", "group"] as const;
export type ConfinementKind = typeof confinementKinds[number];

/** What an instance may take at most: thousandths of a core, bytes, processes and threads. */
export type Limits = Pick<NonNullable<ServiceSpec["limits"]>, "cpuMillis" | "memoryBytes" | "tasksMax">;
