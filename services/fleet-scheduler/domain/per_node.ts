import { type Context, isForced, isLeaving, isUsable } from "./decide.ts";
import { closed, mismatch } from "./placement.ts";
import { groupsOf, nextPhase } from "./rollout.ts";
import type { Instance, ServiceView } from "./types.ts";

/** One instance on every node that matches; a new template replaces `maxParallel` of them at a time, in place. */
export function decidePerNode(service: ServiceView, context: Context): void {
  const { world, rooms, decisions } = context;
  const { spec, name } = service;
  const live = service.instances.filter((instance) => instance.desired === "run");
  const occupied = new Set(service.instances.map((instance) => instance.node));
  const stop = (instance: Instance, reason: string) =>
    decisions.push({ kind: "stop", service: name, id: instance.id, reason });

  for (const instance of live) {
    const { node } = rooms.get(instance.node)!;
    if (mismatch(spec, node) !== undefined) {
      stop(instance, "its node no longer matches");
    } else if (isForced(node, world.nowMs)) {
      stop(instance, "its node is drained and the deadline has passed");
    } // What the others may need goes last.
    else if (isLeaving(node) && (context.residents.get(node.name) ?? 0) === 0) {
      stop(instance, "its node is drained");
    }
  }

  const targets = [...rooms.values()].filter(({ node }) =>
    closed(node) === undefined && mismatch(spec, node) === undefined
  );
  const targetNames = new Set(targets.map(({ node }) => node.name));
  const there = live.filter((instance) => targetNames.has(instance.node));
  const usable = new Set(
    there.filter((instance) => isUsable(instance, spec.update.minHealthyMs, context)),
  );
  const fresh = there.filter((instance) => instance.hash === service.hash);
  const [target, before] = groupsOf(service, fresh.length, targets.length);
  const freshUsable = fresh.every((instance) => usable.has(instance));
  const next = nextPhase(service, live, {
    done: !before && fresh.length === targets.length && freshUsable,
    canariesUsable: fresh.length >= target!.want && freshUsable,
  }, context);
  if (next) {
    decisions.push({ kind: "change", service: name, to: next });
    if (next.hash !== service.hash) return;
  }

  let freshCount = fresh.length, short = 0;
  const reasons: Record<string, number> = {};
  const present = live.map((instance) => rooms.get(instance.node)!.node);
  for (const room of targets) {
    if (occupied.has(room.node.name)) continue;
    const group = before && freshCount >= target!.want ? before : target!;
    const placer = context.placer(service, group.template, present);
    if (!placer.placeOn(room)) {
      short++;
      const why = placer.whyNot()[room.node.name] ?? "it is full";
      reasons[why] = (reasons[why] ?? 0) + 1;
      continue;
    }
    if (group === target) freshCount++;
    const { template, revision, hash } = group;
    decisions.push({
      kind: "place",
      service: name,
      revision,
      hash,
      template,
      node: room.node.name,
    });
  }
  if (short > 0) {
    context.unplaced.push({ service: name, count: short, wanted: targets.length, holdsUpdate: false, reasons });
  }

  // Nodes without a serving instance: stopped, starting or ill.
  let down = targets.length - usable.size;
  let replaceable = target!.want - freshCount;
  for (const instance of there) {
    if (instance.hash === service.hash || replaceable <= 0) continue;
    const cost = usable.has(instance) ? 1 : 0;
    if (cost === 1 && down >= spec.update.maxParallel) continue;
    stop(instance, `revision ${service.revision} replaces it`);
    down += cost;
    replaceable--;
  }
}
