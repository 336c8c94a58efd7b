import { type Candidate, type GroupWish, place, sumOf } from "./placement.ts";
import type { Capacity, Resources } from "./types.ts";

/** A VM that could move, as the planner sees it. */
export interface Movable {
  readonly id: string;
  readonly name: string;
  readonly project: string;
  readonly node: string;
  readonly resources: Resources;
  readonly nodeSelector: Readonly<Record<string, string>>;
  /** Its groups with where the other members are now. */
  readonly groups: readonly (Omit<GroupWish, "memberNodes"> & { readonly members: readonly string[] })[];
}

export interface Suggestion {
  readonly vm: Movable;
  readonly source: string;
  readonly target: string;
  readonly reason: string;
}

export interface Plan {
  readonly moves: readonly Suggestion[];
  readonly spreadPercent: number;
  readonly spreadAfterPercent: number;
}

/** A move must close at least this much of the gap, else workers of unlike sizes would swap VMs for ever. */
const gainPercentMin = 5;

function shareOf(candidate: Candidate): number {
  return candidate.allocated.memoryBytes / Math.max(1, candidate.node.capacity.memoryBytes);
}

/** Difference between the fullest and the emptiest worker that takes VMs, in percent of its memory. */
export function spreadOf(candidates: readonly Candidate[]): number {
  const shares = candidates.filter((c) => c.alive && !c.node.cordoned).map(shareOf);
  return shares.length < 2 ? 0 : Math.round(100 * (Math.max(...shares) - Math.min(...shares)));
}

function shifted(candidates: readonly Candidate[], vm: Movable, target: string): Candidate[] {
  const change = (allocated: Capacity, sign: 1 | -1): Capacity => {
    const { vcpus, memoryBytes, diskBytes } = vm.resources;
    const minus = (n: number) => sign * n;
    return sumOf([
      { ...allocated },
      {
        vcpus: minus(vcpus),
        memoryBytes: minus(memoryBytes),
        diskBytes: minus(diskBytes),
        vmSlots: sign,
      },
    ]);
  };
  return candidates.map((c) =>
    c.name === vm.node
      ? { ...c, allocated: change(c.allocated, -1) }
      : c.name === target
      ? { ...c, allocated: change(c.allocated, 1) }
      : c
  );
}

/**
 * Moves that part group members who share a failure domain, then moves that even out memory, each with its gain taken
 * into account by the next. Suggestions only.
 */
export function suggestMoves(candidates: readonly Candidate[], vms: readonly Movable[], limit: number): Plan {
  let now = candidates;
  const places = new Map(vms.map((vm) => [vm.id, vm.node]));
  const moves: Suggestion[] = [];
  const groupsOf = (vm: Movable): GroupWish[] =>
    vm.groups.map(({ members, ...group }) => ({
      ...group,
      memberNodes: members.flatMap((id) => id === vm.id ? [] : places.get(id) ?? []),
    }));
  const take = (vm: Movable, target: string, reason: string) => {
    moves.push({ vm, source: vm.node, target, reason });
    now = shifted(now, { ...vm, node: places.get(vm.id)! }, target);
    places.set(vm.id, target);
  };
  const moved = new Set<string>();

  for (const vm of vms) {
    if (moves.length >= limit) break;
    const groups = groupsOf(vm);
    const domain = (name: string, label: string) =>
      label === "" ? name : now.find((c) => c.name === name)?.node.labels[label] ?? name;
    const crowded = groups.find((g) =>
      g.memberNodes.some((node) => domain(node, g.domainLabel) === domain(vm.node, g.domainLabel))
    );
    if (!crowded) continue;
    // Strict here: a move that only shifts the crowd is none.
    const wanted = {
      resources: vm.resources,
      nodeSelector: vm.nodeSelector,
      groups: groups.map((g) => ({ ...g, strictness: "hard" as const })),
      not: { [vm.node]: "it is there" },
    };
    const { chosen } = place(now, wanted);
    if (!chosen) continue;
    take(vm, chosen.name, `it shares ${crowded.domainLabel || "a worker"} with another VM of group ${crowded.name}`);
    moved.add(vm.id);
  }

  while (moves.length < limit) {
    const before = spreadOf(now);
    if (before < gainPercentMin) break;
    const open = now.filter((c) => c.alive && !c.node.cordoned);
    const fullest = open.reduce((a, b) => shareOf(b) > shareOf(a) ? b : a);
    let best: { vm: Movable; target: string; after: number } | undefined;
    for (const vm of vms) {
      if (moved.has(vm.id) || places.get(vm.id) !== fullest.name) continue;
      const wanted = {
        resources: vm.resources,
        nodeSelector: vm.nodeSelector,
        groups: groupsOf(vm).map((g) => ({ ...g, strictness: "hard" as const })),
        not: { [fullest.name]: "it is there" },
      };
      const { chosen } = place(now, wanted);
      if (!chosen) continue;
      const after = spreadOf(shifted(now, { ...vm, node: fullest.name }, chosen.name));
      if (!best || after < best.after) best = { vm, target: chosen.name, after };
    }
    if (!best || before - best.after < gainPercentMin) break;
    take(best.vm, best.target, `evens out memory from ${before} % to ${best.after} % of difference`);
    moved.add(best.vm.id);
  }
  return { moves, spreadPercent: spreadOf(candidates), spreadAfterPercent: spreadOf(now) };
}
