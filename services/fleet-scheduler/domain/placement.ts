import type { NodeView, Resources, ServiceSpec, Template } from "./types.ts";

/** Room of one node while decisions are made: what they take is taken from it. */
export class Room {
  readonly node: NodeView;
  cpuMillis = 0;
  memoryBytes = 0;
  /** Host ports, by the service that has them. */
  readonly ports = new Map<string, string>();
  /** Instances by service. */
  readonly services = new Map<string, number>();

  constructor(node: NodeView) {
    this.node = node;
  }

  take(template: Template, service: string): void {
    this.#count(template.resources, service, 1);
    for (const key of portKeys(template)) this.ports.set(key, service);
  }

  give(template: Template, service: string): void {
    this.#count(template.resources, service, -1);
    for (const key of portKeys(template)) this.ports.delete(key);
  }

  #count(resources: Resources, service: string, by: 1 | -1): void {
    this.cpuMillis += by * resources.cpuMillis;
    this.memoryBytes += by * resources.memoryBytes;
    this.services.set(service, (this.services.get(service) ?? 0) + by);
  }
}

function portKeys(template: Template): string[] {
  return Object.values(template.ports).map(({ port, protocol }) => `${port}/${protocol}`);
}

type Constraint = ServiceSpec["constraints"][number];

function meets(
  constraint: Constraint,
  labels: Readonly<Record<string, string>>,
): boolean {
  const value = labels[constraint.label];
  switch (constraint.operator) {
    case "exists":
      return value !== undefined;
    case "absent":
      return value === undefined;
    case "in":
      return value !== undefined && constraint.values.includes(value);
    case "not-in":
      return value === undefined || !constraint.values.includes(value);
  }
}

/** Why the node can never take the service as it is labelled; undefined when it can. */
export function mismatch(
  spec: ServiceSpec,
  node: NodeView,
): string | undefined {
  if (spec.classes.length > 0 && !spec.classes.includes(node.class)) {
    return `its class is ${JSON.stringify(node.class)}, wanted ${spec.classes.join(" or ")}`;
  }
  if (spec.pools.length > 0 && !spec.pools.includes(node.pool)) {
    return `its pool is ${JSON.stringify(node.pool)}, wanted ${spec.pools.join(" or ")}`;
  }
  for (const constraint of spec.constraints) {
    if (meets(constraint, node.labels)) continue;
    const has = node.labels[constraint.label];
    const is = has === undefined ? "absent" : JSON.stringify(has);
    return `its label ${constraint.label} is ${is}, wanted ${constraint.operator} ${constraint.values.join(", ")}`
      .trimEnd();
  }
  return undefined;
}

/** Why no new work goes to the node now; undefined when it may. */
export function closed(node: NodeView): string | undefined {
  if (node.lostMs !== 0) return "it is lost: no heartbeat";
  if (node.drain && node.drain.phase !== "failed") {
    return node.drain.phase === "drained" ? "it is drained" : "it is draining";
  }
  return node.cordoned ? "it is cordoned" : undefined;
}

/** Why the template does not fit into what is left of the node; undefined when it does. */
export function crowded(template: Template, room: Room): string | undefined {
  const { capacity } = room.node;
  const { cpuMillis, memoryBytes } = template.resources;
  const cpuLeft = capacity.cpuMillis - room.cpuMillis;
  if (cpuMillis > cpuLeft) {
    return `${cpuMillis} mCPU wanted, ${Math.max(0, cpuLeft)} free`;
  }
  const memoryLeft = capacity.memoryBytes - room.memoryBytes;
  if (memoryBytes > memoryLeft) {
    return `${mib(memoryBytes)} memory wanted, ${mib(Math.max(0, memoryLeft))} free`;
  }
  for (const key of portKeys(template)) {
    const holder = room.ports.get(key);
    if (holder !== undefined) return `port ${key} is taken by ${holder}`;
  }
  return undefined;
}

function mib(bytes: number): string {
  return `${Math.floor(bytes / 1024 ** 2)} MiB`;
}

/** Why what runs on the node keeps the service away; undefined when it does not. */
export function repelled(spec: ServiceSpec, room: Room): string | undefined {
  for (const { service, rule } of spec.affinity) {
    const there = (room.services.get(service) ?? 0) > 0;
    if (rule === "require" && !there) return `it does not run ${service}`;
    if (rule === "forbid" && there) return `it runs ${service}`;
  }
  return undefined;
}

/** How much what runs on the node draws the service to it. */
function attraction(spec: ServiceSpec, room: Room): number {
  let sum = 0;
  for (const { service, rule } of spec.affinity) {
    if ((room.services.get(service) ?? 0) === 0) continue;
    if (rule === "prefer") sum++;
    if (rule === "avoid") sum--;
  }
  return sum;
}

function domainOf(key: string, node: NodeView): string {
  if (key === "node") return node.name;
  if (key === "pool") return node.pool;
  return key === "class" ? node.class : node.labels[key] ?? "";
}

/** The fullest dimension of the node with the template on it, 0 to 1. */
function load(template: Template, room: Room): number {
  const { capacity } = room.node;
  return Math.max(
    (room.cpuMillis + template.resources.cpuMillis) /
      Math.max(1, capacity.cpuMillis),
    (room.memoryBytes + template.resources.memoryBytes) /
      Math.max(1, capacity.memoryBytes),
  );
}

interface Rank {
  readonly room: Room;
  readonly attraction: number;
  /** Instances of the service in the node's domain of each key of `spread`, the first counting most. */
  readonly crowd: readonly number[];
  readonly load: number;
}

/** Negative when `a` is the better place. */
function compare(a: Rank, b: Rank): number {
  if (a.attraction !== b.attraction) return b.attraction - a.attraction;
  for (let i = 0; i < a.crowd.length; i++) {
    if (a.crowd[i] !== b.crowd[i]) return a.crowd[i]! - b.crowd[i]!;
  }
  return a.load - b.load || (a.room.node.name < b.room.node.name ? -1 : 1);
}

/** Places instances of one service one after the other. */
export class Placer {
  readonly #name: string;
  readonly #spec: ServiceSpec;
  readonly #rooms: readonly Room[];
  /** Those that match and take work. */
  readonly #open: readonly Room[];
  readonly #counts: readonly Map<string, number>[];

  /** `present`: where instances of the service are, once for each. */
  constructor(
    name: string,
    spec: ServiceSpec,
    rooms: readonly Room[],
    present: Iterable<NodeView>,
  ) {
    this.#name = name;
    this.#spec = spec;
    this.#rooms = rooms;
    this.#open = rooms.filter(({ node }) => closed(node) === undefined && mismatch(spec, node) === undefined);
    this.#counts = spec.spread.map(() => new Map());
    for (const node of present) this.#spread(node, 1);
  }

  #spread(node: NodeView, by: 1 | -1): void {
    this.#spec.spread.forEach((key, i) => {
      const domain = domainOf(key, node), counts = this.#counts[i]!;
      counts.set(domain, (counts.get(domain) ?? 0) + by);
    });
  }

  #fits(room: Room): boolean {
    return crowded(this.#spec, room) === undefined &&
      repelled(this.#spec, room) === undefined;
  }

  #take(room: Room): void {
    room.take(this.#spec, this.#name);
    this.#spread(room.node, 1);
  }

  /** Takes the best place: by affinity, spread, load, name; undefined when there is none. */
  place(): NodeView | undefined {
    let best: Rank | undefined;
    for (const room of this.#open) {
      if (!this.#fits(room)) continue;
      const rank: Rank = {
        room,
        attraction: attraction(this.#spec, room),
        crowd: this.#spec.spread.map((key, i) => this.#counts[i]!.get(domainOf(key, room.node)) ?? 0),
        load: load(this.#spec, room),
      };
      if (!best || compare(rank, best) < 0) best = rank;
    }
    if (best) this.#take(best.room);
    return best?.room.node;
  }

  /** Takes a place on this node; false when it has none. */
  placeOn(room: Room): boolean {
    if (!this.#fits(room)) return false;
    this.#take(room);
    return true;
  }

  /** Whether there is a place for one more as things are. */
  hasPlace(): boolean {
    return this.#open.some((room) => this.#fits(room));
  }

  /** Whether one more would fit where `template` of the same service runs, were that gone. */
  wouldFit(room: Room, template: Template): boolean {
    if (!this.#open.includes(room)) return false;
    room.give(template, this.#name);
    const fits = this.#fits(room);
    room.take(template, this.#name);
    return fits;
  }

  /** Why each node takes no further instance, by node. */
  whyNot(): Record<string, string> {
    const reasons: Record<string, string> = {};
    for (const room of this.#rooms) {
      const why = closed(room.node) ?? mismatch(this.#spec, room.node) ??
        crowded(this.#spec, room) ??
        repelled(this.#spec, room);
      if (why !== undefined) reasons[room.node.name] = why;
    }
    return reasons;
  }
}
