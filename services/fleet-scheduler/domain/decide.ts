import { decidePerNode } from "./per_node.ts";
import { Placer, Room } from "./placement.ts";
import { decideReplicas } from "./replicas.ts";
import { changed } from "./rollout.ts";
import type {
  Decision,
  Drain,
  Instance,
  NodeView,
  Observed,
  ServiceSpec,
  ServiceView,
  Template,
  Unplaced,
  World,
} from "./types.ts";

/** What the decisions about one service share. */
export interface Context {
  readonly world: World;
  readonly rooms: ReadonlyMap<string, Room>;
  readonly decisions: Decision[];
  readonly unplaced: Unplaced[];
  /** Instances by node that are not `per-node`: those of `per-node` services leave after them. */
  readonly residents: ReadonlyMap<string, number>;
  placer(
    service: ServiceView,
    template: Template,
    present: Iterable<NodeView>,
  ): Placer;
}

/** The node's time is over: new work goes elsewhere and what it has moves. */
export function isLeaving(node: NodeView): boolean {
  return node.drain !== null && node.drain.phase !== "failed";
}

/** At the deadline a forced drain waits no longer. */
export function isForced(node: NodeView, nowMs: number): boolean {
  const { drain } = node;
  return drain !== null && drain.phase === "draining" &&
    drain.atDeadline === "force" && drain.deadlineMs !== 0 &&
    nowMs >= drain.deadlineMs;
}

/** Up, and well by its health check if it has one. */
export function isHealthy(
  instance: Instance,
  observed: Observed | undefined,
): boolean {
  if (!observed) return false;
  return observed.phase === "healthy" ||
    observed.phase === "running" && instance.template.healthCheck === undefined;
}

/** Counts as serving: healthy for as long as is asked, on a node that is there. */
export function isUsable(
  instance: Instance,
  minHealthyMs: number,
  context: Context,
): boolean {
  const { world, rooms } = context;
  const observed = world.observed.get(instance.id);
  if (!observed || !isHealthy(instance, observed)) return false;
  const { node } = rooms.get(instance.node)!;
  if (node.lostMs !== 0) return false;
  return world.nowMs - observed.sinceMs >= minHealthyMs;
}

/**
 * Why the record of an instance may go; undefined while it may still run. A lost node's lease has ended, and with it
 * what ran there; the delay only spares a move when the node comes back soon.
 */
function isGone(
  instance: Instance,
  spec: ServiceSpec,
  context: Context,
): string | undefined {
  const { world, rooms } = context;
  const node = rooms.get(instance.node)?.node;
  if (!node) return "its node is no longer known";
  if (node.lostMs !== 0) {
    if (instance.desired === "stop") return "its node is lost";
    return world.nowMs - node.lostMs >= spec.lostReplaceDelayMs ? "its node is lost" : undefined;
  }
  if (
    instance.desired === "stop" &&
    world.observed.get(instance.id)?.phase === "stopped"
  ) return "it has stopped";
  return undefined;
}

/**
 * What is to be done now, from nothing but the world as given. The same world gives the same decisions; doing them and
 * asking again leads to rest.
 */
export function decide(
  world: World,
): { readonly decisions: Decision[]; readonly unplaced: Unplaced[] } {
  const rooms = new Map(world.nodes.map((node) => [node.name, new Room(node)]));
  const ordered = [...rooms.values()];
  const residents = new Map<string, number>();
  const decisions: Decision[] = [];
  const unplaced: Unplaced[] = [];
  const context: Context = {
    world,
    rooms,
    decisions,
    unplaced,
    residents,
    placer: ({ name, spec }, template, present) => new Placer(name, { ...spec, ...template }, ordered, present),
  };
  const services = world.services.map((service) => {
    const instances: Instance[] = [];
    for (const instance of service.instances) {
      const reason = isGone(instance, service.spec, context);
      if (reason !== undefined) {
        decisions.push({
          kind: "forget",
          service: service.name,
          id: instance.id,
          reason,
        });
        continue;
      }
      instances.push(instance);
      rooms.get(instance.node)!.take(instance.template, service.name);
      if (service.spec.mode === "replicas") {
        residents.set(instance.node, (residents.get(instance.node) ?? 0) + 1);
      }
    }
    return { ...service, instances };
  });
  for (const service of services) {
    if (service.deleting) remove(service, decisions);
    else if (service.spec.mode === "per-node") decidePerNode(service, context);
    else decideReplicas(service, context);
  }
  for (const node of world.nodes) drain(node, services, context);
  // Another change of a service's record is under way: the next look sees its shortage, too.
  const changing = new Set(
    decisions.flatMap((decision) => decision.kind === "change" || decision.kind === "remove" ? [decision.service] : []),
  );
  const short = new Map<string, Unplaced[]>();
  for (const entry of unplaced) short.set(entry.service, [...short.get(entry.service) ?? [], entry]);
  for (const service of services) {
    if (!changing.has(service.name)) noteShortage(service, short.get(service.name) ?? [], context);
  }
  return { decisions, unplaced };
}

/** Keeps what has no place and since when, so that the next scheduler tells the same. */
function noteShortage(service: ServiceView, all: readonly Unplaced[], { world, decisions }: Context): void {
  const before = service.shortage ?? null;
  if (all.length === 0) {
    if (before !== null) {
      decisions.push({ kind: "change", service: service.name, to: changed(service, {}, { shortage: null }) });
    }
    return;
  }
  const count = all.reduce((sum, entry) => sum + entry.count, 0);
  const [most] = all.flatMap(({ reasons }) => Object.entries(reasons)).sort(([a, n], [b, m]) =>
    m - n || (a < b ? -1 : 1)
  );
  const { wanted } = all[0]!;
  const holdsUpdate = all.some((entry) => entry.holdsUpdate);
  const reason = most?.[0] ?? "there is no node";
  if (
    before?.count === count && before.wanted === wanted && before.reason === reason &&
    before.holdsUpdate === holdsUpdate
  ) return;
  const shortage = { count, wanted, reason, holdsUpdate, sinceMs: before?.sinceMs ?? world.nowMs };
  decisions.push({ kind: "change", service: service.name, to: changed(service, {}, { shortage }) });
}

function remove(service: ServiceView, decisions: Decision[]): void {
  if (service.instances.length === 0) {
    decisions.push({ kind: "remove", service: service.name });
  }
  for (const { id, desired } of service.instances) {
    if (desired === "run") {
      decisions.push({
        kind: "stop",
        service: service.name,
        id,
        reason: "the service is being deleted",
      });
    }
  }
}

const namedMax = 5;

/** Ends a drain that is done or whose time is over. */
function drain(
  node: NodeView,
  services: readonly ServiceView[],
  context: Context,
): void {
  const { drain } = node;
  if (!drain || drain.phase !== "draining") return;
  const change = (to: Partial<Drain>) =>
    context.decisions.push({
      kind: "drain",
      node: node.name,
      to: { ...drain, ...to },
    });
  const left = services.filter((service) => service.instances.some((instance) => instance.node === node.name));
  if (left.length === 0) return void change({ phase: "drained", reason: "" });
  const blocked = left.slice(0, namedMax).map((service) => {
    const short = context.unplaced.find((entry) => entry.service === service.name);
    return short ? `${service.name} (no place: ${Object.keys(short.reasons)[0] ?? "no other node"})` : service.name;
  });
  const reason = `still there: ${blocked.join(", ")}${left.length > namedMax ? ", ..." : ""}`;
  const overdue = drain.deadlineMs !== 0 &&
    context.world.nowMs >= drain.deadlineMs;
  if (overdue && drain.atDeadline === "abort") {
    change({ phase: "failed", reason: `the deadline passed; ${reason}` });
  } else if (drain.reason !== reason) change({ reason });
}
