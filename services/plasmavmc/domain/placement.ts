import type { Capacity, Node, Resources } from "./types.ts";

/** A worker as placement sees it. */
export interface Candidate {
  readonly name: string;
  readonly node: Node;
  readonly alive: boolean;
  /** What VMs placed on it have reserved, running or not. */
  readonly allocated: Capacity;
}

export interface Wanted {
  readonly resources: Resources;
  readonly nodeSelector: Readonly<Record<string, string>>;
}

export interface Placed {
  /** The chosen one; undefined when none fits. */
  readonly chosen: Candidate | undefined;
  /** Why not, per worker that does not fit. */
  readonly whyNot: Readonly<Record<string, string>>;
}

/** Sum of what VMs reserve. */
export function sumOf(vms: Iterable<Resources>): Capacity {
  let vcpus = 0, memoryBytes = 0, diskBytes = 0, vmSlots = 0;
  for (const vm of vms) {
    vcpus += vm.vcpus;
    memoryBytes += vm.memoryBytes;
    diskBytes += vm.diskBytes;
    vmSlots++;
  }
  return { vcpus, memoryBytes, diskBytes, vmSlots };
}

function mib(bytes: number): string {
  return `${Math.floor(bytes / 1024 ** 2)} MiB`;
}

/** Why a worker does not take the VM; undefined when it does. The first reason found, in a fixed order. */
export function refusal(candidate: Candidate, wanted: Wanted): string | undefined {
  const { node, allocated } = candidate;
  if (!candidate.alive) return "it is lost: no heartbeat";
  if (node.cordoned) return "it is cordoned";
  for (const [key, value] of Object.entries(wanted.nodeSelector)) {
    if (node.labels[key] !== value) {
      return `its label ${key} is ${JSON.stringify(node.labels[key] ?? "")}, not ${JSON.stringify(value)}`;
    }
  }
  const free = (name: keyof Capacity) => node.capacity[name] - allocated[name];
  const { vcpus, memoryBytes, diskBytes } = wanted.resources;
  if (free("vmSlots") < 1) return `all its ${node.capacity.vmSlots} VM slots are taken`;
  if (free("vcpus") < vcpus) return `${vcpus} vCPUs wanted, ${Math.max(0, free("vcpus"))} free`;
  if (free("memoryBytes") < memoryBytes) {
    return `${mib(memoryBytes)} memory wanted, ${mib(Math.max(0, free("memoryBytes")))} free`;
  }
  if (free("diskBytes") < diskBytes) {
    return `${mib(diskBytes)} disk wanted, ${mib(Math.max(0, free("diskBytes")))} free`;
  }
  return undefined;
}

/**
 * Chooses the worker with the largest share of memory left afterwards, so that VMs spread; hardware acceleration comes
 * first, the name decides ties.
 */
export function place(candidates: readonly Candidate[], wanted: Wanted): Placed {
  const whyNot: Record<string, string> = {};
  let best: { candidate: Candidate; score: number } | undefined;
  for (const candidate of [...candidates].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const why = refusal(candidate, wanted);
    if (why !== undefined) {
      whyNot[candidate.name] = why;
      continue;
    }
    const { capacity, accelerator } = candidate.node;
    const left = capacity.memoryBytes - candidate.allocated.memoryBytes - wanted.resources.memoryBytes;
    const score = (accelerator === "kvm" ? 1 : 0) + left / Math.max(1, capacity.memoryBytes);
    if (!best || score > best.score) best = { candidate, score };
  }
  return { chosen: best?.candidate, whyNot };
}
