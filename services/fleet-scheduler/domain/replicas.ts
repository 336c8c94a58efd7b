import { type Context, isForced, isLeaving, isUsable } from "./decide.ts";
import type { Placer } from "./placement.ts";
import { groupsOf, nextPhase } from "./rollout.ts";
import type { Instance, NodeView, ServiceView } from "./types.ts";

/** Oldest of the usable first: what is kept when there are too many. */
function byMerit(usable: ReadonlySet<Instance>) {
  return (a: Instance, b: Instance) =>
    Number(usable.has(b)) - Number(usable.has(a)) || a.createMs - b.createMs ||
    (a.id < b.id ? -1 : 1);
}

/**
 * Brings a service to its number of replicas of its template. An instance that shall go (another template, a node that
 * is drained, one too many) goes when others serve in its place, at most `maxParallel` at a time; it goes first only
 * where the policy says so or where its own place is the only one.
 */
export function decideReplicas(service: ServiceView, context: Context): void {
  const { world, rooms, decisions } = context;
  const { spec, name } = service;
  const nodeOf = (instance: Instance): NodeView => rooms.get(instance.node)!.node;
  const live = service.instances.filter((instance) => instance.desired === "run");
  const moving = live.some((instance) => isLeaving(nodeOf(instance)));
  const policy = moving ? spec.drain : spec.update;
  const maxParallel = Math.min(policy.maxParallel, spec.update.maxParallel);
  const usable = new Set(
    live.filter((instance) => isUsable(instance, policy.minHealthyMs, context)),
  );
  const isFailed = (instance: Instance) => {
    const observed = world.observed.get(instance.id);
    return observed?.phase === "failed" &&
      world.nowMs - observed.sinceMs >= spec.restart.backoffMsMax;
  };
  const staying = live.filter((instance) => !isLeaving(nodeOf(instance)) && !isFailed(instance));
  const present = staying.filter((instance) => instance.hash === service.hash).length;
  const groups = groupsOf(service, present, spec.replicas).map((group) => ({
    ...group,
    kept: staying.filter((instance) => instance.hash === group.hash).sort(
      byMerit(usable),
    ).slice(0, group.want),
  }));
  const keep = new Set(groups.flatMap((group) => group.kept));
  const excess = live.filter((instance) => !keep.has(instance));
  const target = groups[0]!;

  const next = nextPhase(service, live, {
    done: groups.length === 1 && keep.size === spec.replicas &&
      excess.length === 0 &&
      [...keep].every((instance) => usable.has(instance)),
    canariesUsable: target.kept.length === target.want &&
      target.kept.every((instance) => usable.has(instance)),
  }, context);
  if (next) {
    decisions.push({ kind: "change", service: name, to: next });
    // A new target makes other instances excess: the next look acts on it.
    if (next.hash !== service.hash) return;
  }

  const stopFirst = spec.update.order === "stop-first";
  const pending = [...keep].filter((instance) => !usable.has(instance)).length;
  const missing = Math.max(0, spec.replicas - live.length);
  let startable = excess.length === 0 ? Infinity : Math.max(missing, maxParallel - pending);
  let room = spec.replicas + (stopFirst ? 0 : maxParallel) -
    service.instances.length;
  let short = 0;
  let placer: Placer | undefined;
  for (const group of groups) {
    let need = group.want - group.kept.length;
    if (need === 0 && excess.length === 0) continue;
    const own = context.placer(service, group.template, live.map(nodeOf));
    placer ??= own;
    for (; need > 0 && startable > 0 && room > 0; need--, startable--, room--) {
      const node = own.place();
      if (!node) break;
      const { template, revision, hash } = group;
      decisions.push({
        kind: "place",
        service: name,
        revision,
        hash,
        template,
        node: node.name,
      });
    }
    if (need > 0 && startable > 0 && room > 0) {
      short += need;
      const reasons: Record<string, number> = {};
      for (const why of Object.values(own.whyNot())) {
        reasons[why] = (reasons[why] ?? 0) + 1;
      }
      // What serves is not taken away for a change that has no room: with fewer than it wants it has nothing to spare.
      const holdsUpdate = excess.some((instance) => usable.has(instance) && !isLeaving(nodeOf(instance)));
      // Where old ones serve meanwhile, only the rest is really without a place.
      const count = missing > 0 ? Math.min(need, missing) : need;
      context.unplaced.push({ service: name, count, wanted: spec.replicas, holdsUpdate, reasons });
    }
  }

  let serving = usable.size;
  const stop = (instance: Instance, reason: string) => {
    decisions.push({ kind: "stop", service: name, id: instance.id, reason });
    if (usable.has(instance)) serving--;
  };
  const servingMin = Math.max(0, spec.replicas - maxParallel);
  for (const instance of excess.sort(byMerit(usable)).reverse()) {
    const leaving = isLeaving(nodeOf(instance));
    const after = serving - (usable.has(instance) ? 1 : 0);
    const reason = leaving
      ? "its node is drained"
      : isFailed(instance)
      ? "it failed"
      : groups.some((group) => group.hash === instance.hash)
      ? "there are more than wanted"
      : `revision ${service.revision} replaces it`;
    if (isForced(nodeOf(instance), world.nowMs)) {
      stop(instance, "its node is drained and the deadline has passed");
    } else if (after === serving && !leaving) stop(instance, reason);
    else if (after >= spec.replicas) stop(instance, reason);
    else if (after >= servingMin && placer) {
      const elsewhere = placer.hasPlace();
      const inPlace = !leaving &&
        placer.wouldFit(rooms.get(instance.node)!, instance.template);
      if (stopFirst ? elsewhere || inPlace : short > 0 && inPlace) {
        stop(instance, reason);
      }
    }
  }
}
