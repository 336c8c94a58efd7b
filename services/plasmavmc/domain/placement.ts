import type { Capacity, Node, Reservation, Resources } from "./types.ts";

/** A worker as placement sees it. */
export interface Candidate {
  readonly name: string;
  readonly node: Node;
  readonly alive: boolean;
  /** What is reserved on it, running or not. */
  readonly allocated: Capacity;
}

/** A group the VM is in, with where its other members are. */
export interface GroupWish {
  readonly name: string;
  readonly strictness: "hard" | "soft";
  readonly domainLabel: string;
  /** Workers of the other members, one entry each. */
  readonly memberNodes: readonly string[];
}

export interface Wanted {
  readonly resources: Resources;
  readonly nodeSelector: Readonly<Record<string, string>>;
  readonly groups?: readonly GroupWish[];
  /** Only this worker. */
  readonly only?: string;
  /** Workers that are out of question, with the reason. */
  readonly not?: Readonly<Record<string, string>>;
  /** 0 for what is no VM. */
  readonly vmSlots?: number;
}

export interface Verdict {
  readonly name: string;
  /** Every reason against it, in a fixed order; empty: it fits. */
  readonly whyNot: readonly string[];
  /** The higher the better; of those that fit. */
  readonly score: number;
}

export interface Placed {
  /** The chosen one; undefined when none fits. */
  readonly chosen: Candidate | undefined;
  /** The first reason why not, per worker that does not fit. */
  readonly whyNot: Readonly<Record<string, string>>;
}

/** Each member of a soft group in the same domain weighs more than hardware acceleration and all free memory. */
const softPenalty = 4;

/** Sum of what is reserved. */
export function sumOf(held: Iterable<Reservation>): Capacity {
  let vcpus = 0, memoryBytes = 0, diskBytes = 0, vmSlots = 0;
  for (const one of held) {
    vcpus += one.vcpus;
    memoryBytes += one.memoryBytes;
    diskBytes += one.diskBytes;
    vmSlots += one.vmSlots ?? 1;
  }
  return { vcpus, memoryBytes, diskBytes, vmSlots };
}

function mib(bytes: number): string {
  return `${Math.floor(bytes / 1024 ** 2)} MiB`;
}

/** The failure domain of a worker: its label's value, its name without one. */
function domainOf(name: string, node: Node | undefined, label: string): string {
  return label === "" ? `node ${name}` : node?.labels[label] ?? `node ${name}`;
}

/** Members of the group in the candidate's failure domain. */
function neighbours(candidate: Candidate, group: GroupWish, all: ReadonlyMap<string, Candidate>): number {
  const own = domainOf(candidate.name, candidate.node, group.domainLabel);
  return group.memberNodes.filter((name) => domainOf(name, all.get(name)?.node, group.domainLabel) === own).length;
}

/** Every reason why a worker does not take the VM, in a fixed order. */
export function refusals(candidate: Candidate, wanted: Wanted, all: readonly Candidate[] = [candidate]): string[] {
  const { node, allocated, name } = candidate;
  const why: string[] = [];
  if (!candidate.alive) why.push("it is lost: no heartbeat");
  if (node.draining !== "") why.push("it is being drained");
  else if (node.cordoned) why.push("it is cordoned");
  if (wanted.only !== undefined && wanted.only !== name) why.push(`worker ${wanted.only} is asked for`);
  const not = wanted.not?.[name];
  if (not !== undefined) why.push(not);
  for (const [key, value] of Object.entries(wanted.nodeSelector)) {
    if (node.labels[key] !== value) {
      why.push(`its label ${key} is ${JSON.stringify(node.labels[key] ?? "")}, not ${JSON.stringify(value)}`);
    }
  }
  const byName = new Map(all.map((c) => [c.name, c]));
  for (const group of wanted.groups ?? []) {
    if (group.strictness === "hard" && neighbours(candidate, group, byName) > 0) {
      const where = group.domainLabel === "" ? "it" : `its ${group.domainLabel}`;
      why.push(`${where} has a VM of group ${group.name} already`);
    }
  }
  const free = (key: keyof Capacity) => node.capacity[key] - allocated[key];
  const { vcpus, memoryBytes, diskBytes } = wanted.resources;
  if (free("vmSlots") < (wanted.vmSlots ?? 1)) why.push(`all its ${node.capacity.vmSlots} VM slots are taken`);
  if (free("vcpus") < vcpus) why.push(`${vcpus} vCPUs wanted, ${Math.max(0, free("vcpus"))} free`);
  if (free("memoryBytes") < memoryBytes) {
    why.push(`${mib(memoryBytes)} memory wanted, ${mib(Math.max(0, free("memoryBytes")))} free`);
  }
  if (free("diskBytes") < diskBytes) {
    why.push(`${mib(diskBytes)} disk wanted, ${mib(Math.max(0, free("diskBytes")))} free`);
  }
  return why;
}

function scoreOf(candidate: Candidate, wanted: Wanted, all: ReadonlyMap<string, Candidate>): number {
  const { capacity, accelerator } = candidate.node;
  const left = capacity.memoryBytes - candidate.allocated.memoryBytes - wanted.resources.memoryBytes;
  const crowd = (wanted.groups ?? []).reduce((sum, group) => sum + neighbours(candidate, group, all), 0);
  return (accelerator === "kvm" ? 1 : 0) + left / Math.max(1, capacity.memoryBytes) - softPenalty * crowd;
}

/** What placement thinks of each worker, by name. */
export function judge(candidates: readonly Candidate[], wanted: Wanted): Verdict[] {
  const all = new Map(candidates.map((c) => [c.name, c]));
  return [...candidates].sort((a, b) => (a.name < b.name ? -1 : 1)).map((candidate) => ({
    name: candidate.name,
    whyNot: refusals(candidate, wanted, candidates),
    score: scoreOf(candidate, wanted, all),
  }));
}

/**
 * Chooses the worker with the largest share of memory left afterwards, so that VMs spread; members of a soft group are
 * kept apart first, then hardware acceleration counts; the name decides ties.
 */
export function place(candidates: readonly Candidate[], wanted: Wanted): Placed {
  const whyNot: Record<string, string> = {};
  let best: Verdict | undefined;
  for (const verdict of judge(candidates, wanted)) {
    const [why] = verdict.whyNot;
    if (why !== undefined) whyNot[verdict.name] = why;
    else if (!best || verdict.score > best.score) best = verdict;
  }
  return { chosen: best && candidates.find((c) => c.name === best.name), whyNot };
}
