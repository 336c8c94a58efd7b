import { type Context, isHealthy, isLeaving } from "./decide.ts";
import type { Instance, Service, ServiceSpec, ServiceView, Stable, Template, UpdateStatus } from "./types.ts";
import { templateFields } from "./types.ts";

/** Restarts after which an instance that was never healthy has failed. */
export const crashLoopRestarts = 5;

/** What of a spec its processes are started from. */
export function templateOf(spec: ServiceSpec): Template {
  return Object.fromEntries(
    templateFields.map((field) => [field, spec[field]]),
  ) as unknown as Template;
}

/** One template of a service and how many instances of it there shall be. */
export interface Group {
  readonly template: Template;
  readonly hash: string;
  readonly revision: number;
  readonly want: number;
}

/** The service as it is kept, changed. */
export function changed(service: Service, update: Partial<UpdateStatus>, more: Partial<Service> = {}): Service {
  const { spec, revision, hash, stable, previous, rejectedHash, deleting, shortage = null } = service;
  const kept = { spec, revision, hash, stable, previous, rejectedHash, deleting, shortage };
  return { ...kept, ...more, update: { ...service.update, ...update } };
}

/** The target first, then the one before where both shall run for now. `present`: instances of the target. */
export function groupsOf(
  service: ServiceView,
  present: number,
  total: number,
): Group[] {
  const { update, stable, spec } = service;
  const mixed = stable !== null && stable.hash !== service.hash;
  let fresh = total;
  if (mixed && update.phase === "canary") {
    fresh = Math.min(spec.update.canaries, total);
  }
  if (mixed && (update.phase === "paused" || update.phase === "stalled")) {
    fresh = Math.min(present, total);
  }
  const target = {
    template: templateOf(spec),
    hash: service.hash,
    revision: service.revision,
    want: fresh,
  };
  return fresh === total || !stable ? [target] : [target, { ...stable, want: total - fresh }];
}

/** Why the new template has failed; undefined while it may still succeed. */
function failureOf(
  service: ServiceView,
  live: readonly Instance[],
  context: Context,
): string | undefined {
  const { world, rooms } = context;
  for (const instance of live) {
    const { node } = rooms.get(instance.node)!;
    // A node's own trouble says nothing of the template.
    if (
      instance.hash !== service.hash || node.lostMs !== 0 || isLeaving(node)
    ) continue;
    const observed = world.observed.get(instance.id);
    const why = observed?.reason ? `: ${observed.reason}` : "";
    if (observed?.phase === "failed") {
      return `${instance.id} on ${instance.node} failed${why}`;
    }
    if (isHealthy(instance, observed)) continue;
    if (observed && observed.restarts >= crashLoopRestarts) {
      return `${instance.id} on ${instance.node} was started ${observed.restarts + 1} times${why}`;
    }
    const ageMs = world.nowMs - instance.createMs;
    if (ageMs >= service.spec.update.deadlineMs) {
      return `${instance.id} on ${instance.node} is ${observed?.phase ?? "pending"} after ${ageMs} ms${why}`;
    }
  }
  return undefined;
}

/** The service with a spec laid over it: a change of the template starts an update, any other takes effect at once. */
export function applied(service: Service | undefined, spec: ServiceSpec, hash: string, nowMs: number): Service {
  if (!service) {
    const update = { phase: "rolling", resume: "", startMs: nowMs, reason: "" } as const;
    return { spec, revision: 1, hash, stable: null, previous: null, update, rejectedHash: "", deleting: false };
  }
  if (hash === service.hash) return { ...service, spec };
  const phase = service.stable ? spec.update.strategy : "rolling";
  return changed(service, { phase, resume: "", startMs: nowMs, reason: "" }, {
    spec,
    hash,
    revision: service.revision + 1,
  });
}

/** The service after its new template has failed: back to the one that stood, or stalled. */
function afterFailure(service: ServiceView, reason: string): Service {
  const { stable, spec } = service;
  if (!spec.update.autoRollback || !stable || stable.hash === service.hash) {
    return changed(service, { phase: "stalled", reason });
  }
  return rolledBack(service, stable, reason);
}

/** Back to the template that stood; how many there shall be and where stays the operator's latest word. */
export function rolledBack(service: Service, stable: Stable, reason: string): Service {
  return changed(service, { phase: "rolled_back", reason }, {
    spec: { ...service.spec, ...stable.template },
    hash: stable.hash,
    revision: service.revision + 1,
    rejectedHash: service.hash,
  });
}

/** The change of the update's phase that is due, if any. `done`: the target stands everywhere and nothing else. */
export function nextPhase(
  service: ServiceView,
  live: readonly Instance[],
  o: { readonly done: boolean; readonly canariesUsable: boolean },
  context: Context,
): Service | undefined {
  const { phase } = service.update;
  if (phase === "canary" || phase === "rolling") {
    const failure = failureOf(service, live, context);
    if (failure !== undefined) return afterFailure(service, failure);
  }
  if (phase === "canary" && o.canariesUsable) {
    if (service.spec.update.autoPromote) {
      return changed(service, { phase: "rolling", reason: "" });
    }
    const reason = "the canaries are healthy: promote or roll back";
    if (service.update.reason !== reason) return changed(service, { reason });
  }
  const stands = phase === "none" || phase === "rolled_back";
  if (
    !o.done || phase === "paused" ||
    stands && service.stable?.revision === service.revision
  ) return undefined;
  const stable = {
    template: templateOf(service.spec),
    hash: service.hash,
    revision: service.revision,
  };
  return changed(
    service,
    phase === "rolled_back" ? {} : { phase: "none", reason: "" },
    { stable },
  );
}
