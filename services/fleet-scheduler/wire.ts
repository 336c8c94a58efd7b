import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { checkLabels, checkName, fault, invalidField } from "@ultracloud/base";
import { serviceSchema, type ServiceSpec } from "@ultracloud/cluster-state";
import { type StoredRecord, toMeta } from "@ultracloud/platform";
import {
  DrainPhase,
  type HeartbeatRequest,
  InstancePhase,
  type InstanceSchema,
  type Node as NodeMessage,
  type NodeSchema,
  NodeState,
  type ServiceSchema,
  UpdatePhase,
} from "@ultracloud/proto/fleetscheduler/v1";
import { closed } from "./domain/placement.ts";
import type * as domain from "./domain/types.ts";
import type { Snapshot } from "./store.ts";

/** Between messages and domain types: messages stop here. */

const instancesOfNodeMax = 4096;
const reasonCharsMax = 512;

const updatePhases: Record<domain.UpdateStatus["phase"], UpdatePhase> = {
  none: UpdatePhase.NONE,
  canary: UpdatePhase.CANARY,
  rolling: UpdatePhase.ROLLING,
  paused: UpdatePhase.PAUSED,
  rolled_back: UpdatePhase.ROLLED_BACK,
  stalled: UpdatePhase.STALLED,
};

const phases: Record<domain.Phase, InstancePhase> = {
  pending: InstancePhase.PENDING,
  starting: InstancePhase.STARTING,
  running: InstancePhase.RUNNING,
  healthy: InstancePhase.HEALTHY,
  unhealthy: InstancePhase.UNHEALTHY,
  backing_off: InstancePhase.BACKING_OFF,
  failed: InstancePhase.FAILED,
  stopped: InstancePhase.STOPPED,
};
const phaseOf = new Map(Object.entries(phases).map(([name, value]) => [value, name as domain.Phase]));

/** The spec as the cluster state's schema reads it; invalid_argument with the path of what is wrong. */
export function fromSpec(spec: JsonObject | undefined): ServiceSpec {
  if (!spec) throw invalidField("spec", "Cannot apply a service without a spec");
  const result = serviceSchema.safeParse(spec);
  if (result.success) return result.data;
  const { path, message } = result.error.issues[0]!;
  const field = ["spec", ...path].join(".");
  throw invalidField(field, `Cannot use the service's ${path.join(".") || "spec"}: ${message}`);
}

/** A spec or template as JSON: what is absent stays absent. */
export function toJson(value: domain.ServiceSpec | domain.Template): JsonObject {
  return JSON.parse(JSON.stringify(value)) as JsonObject;
}

export function toService(
  record: StoredRecord<domain.Service>,
  view: domain.ServiceView,
  world: Pick<Snapshot, "observed">,
  o: { readonly wanted: number; readonly unplaced: number },
): MessageInitShape<typeof ServiceSchema> {
  const running = view.instances.filter(({ desired }) => desired === "run");
  const healthy = running.filter((instance) => {
    const phase = world.observed.get(instance.id)?.phase;
    return phase === "healthy" || phase === "running" && instance.template.healthCheck === undefined;
  });
  return {
    meta: toMeta(record),
    spec: toJson(record.value.spec),
    revision: BigInt(record.value.revision),
    phase: updatePhases[record.value.update.phase],
    reason: reasonOf(record.value),
    wanted: o.wanted,
    healthy: healthy.length,
    updated: healthy.filter(({ hash }) => hash === record.value.hash).length,
    unplaced: o.unplaced,
    deleting: record.value.deleting,
  };
}

/** What became of the last change; and what has no place, where nothing else is to be said. */
function reasonOf({ update, shortage, stable, revision }: domain.Service): string {
  if (update.reason !== "" || !shortage) return update.reason;
  const { count, wanted, reason, holdsUpdate } = shortage;
  const short = `${count} of ${wanted} ${count === 1 ? "has" : "have"} no place (${reason})`;
  if (update.phase !== "rolling" && update.phase !== "canary") return short;
  // The first template of all waits for room alone.
  if (!holdsUpdate || stable?.revision === revision) return `waits: ${short}`;
  return `waits: ${short}; fewer replicas or more of maxParallel let it go on`;
}

export function toInstance(
  service: string,
  instance: domain.Instance,
  observed: domain.Observed | undefined,
): MessageInitShape<typeof InstanceSchema> {
  return {
    id: instance.id,
    service,
    revision: BigInt(instance.revision),
    node: instance.node,
    phase: phases[observed?.phase ?? "pending"],
    reason: observed?.reason ?? "",
    restarts: observed?.restarts ?? 0,
    pid: observed?.pid ?? 0,
    stopping: instance.desired === "stop",
    stopReason: instance.reason,
    createTime: timestampFromMs(instance.createMs),
    ...(observed ? { sinceTime: timestampFromMs(observed.sinceMs) } : {}),
  };
}

const drainPhases: Record<domain.Drain["phase"], DrainPhase> = {
  draining: DrainPhase.DRAINING,
  drained: DrainPhase.DRAINED,
  failed: DrainPhase.FAILED,
};

function stateOf(node: domain.NodeView): NodeState {
  if (node.lostMs !== 0) return NodeState.LOST;
  if (node.drain?.phase === "draining") return NodeState.DRAINING;
  if (node.drain?.phase === "drained") return NodeState.DRAINED;
  return closed(node) === undefined ? NodeState.ACTIVE : NodeState.CORDONED;
}

export function toNode(
  node: domain.NodeView,
  here: readonly domain.Instance[],
  lastHeartbeatMs: number,
): MessageInitShape<typeof NodeSchema> {
  const sum = (pick: (resources: domain.Resources) => number) =>
    BigInt(here.reduce((total, { template }) => total + pick(template.resources), 0));
  const { drain } = node;
  return {
    name: node.name,
    agentUrl: node.agentUrl,
    class: node.class,
    pool: node.pool,
    labels: node.labels,
    capacity: { cpuMillis: BigInt(node.capacity.cpuMillis), memoryBytes: BigInt(node.capacity.memoryBytes) },
    allocated: { cpuMillis: sum((r) => r.cpuMillis), memoryBytes: sum((r) => r.memoryBytes) },
    state: stateOf(node),
    instances: here.length,
    agentVersion: node.agentVersion,
    lastHeartbeatTime: timestampFromMs(lastHeartbeatMs),
    ...(node.lostMs === 0 ? {} : { lostTime: timestampFromMs(node.lostMs) }),
    ...(drain
      ? {
        drain: {
          phase: drainPhases[drain.phase],
          startTime: timestampFromMs(drain.startMs),
          ...(drain.deadlineMs === 0 ? {} : { deadlineTime: timestampFromMs(drain.deadlineMs) }),
          force: drain.atDeadline === "force",
          by: drain.by,
          total: drain.total,
          left: here.length,
          reason: drain.reason,
        },
      }
      : {}),
  };
}

export interface Registration {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: Pick<domain.FleetNode, "agentUrl" | "class" | "pool" | "capacity" | "agentVersion">;
}

export function fromRegistration(node: NodeMessage | undefined): Registration {
  if (!node) throw invalidField("node", "Cannot register without a node");
  const capacity = {
    cpuMillis: Number(node.capacity?.cpuMillis ?? 0n),
    memoryBytes: Number(node.capacity?.memoryBytes ?? 0n),
  };
  for (const [field, value] of Object.entries(capacity)) {
    if (Number.isSafeInteger(value) && value > 0) continue;
    throw invalidField(`node.capacity.${field}`, `Cannot register a node of ${value} ${field}: wanted more than 0`);
  }
  if (!URL.canParse(node.agentUrl) || !/^https?:$/.test(new URL(node.agentUrl).protocol)) {
    throw invalidField("node.agentUrl", "Cannot register a node without the http or https URL of its agent");
  }
  checkLabels(node.labels, "node.labels");
  for (const field of ["class", "pool"] as const) if (node[field] !== "") checkName(node[field], `node.${field}`);
  return {
    name: checkName(node.name, "node.name"),
    labels: node.labels,
    value: {
      agentUrl: node.agentUrl,
      class: node.class,
      pool: node.pool,
      capacity,
      agentVersion: node.agentVersion.slice(0, 64),
    },
  };
}

/** What a heartbeat says, bounded. */
export function fromHeartbeat(request: HeartbeatRequest): Omit<domain.Observed, "sinceMs">[] {
  if (request.instances.length > instancesOfNodeMax) {
    throw invalidField(
      "instances",
      `Cannot take the word of ${request.instances.length} instances: wanted at most ${instancesOfNodeMax}`,
    );
  }
  return request.instances.map(({ id, phase, reason, restarts, pid }, i) => {
    const known = phaseOf.get(phase);
    if (!known) throw invalidField(`instances.${i}.phase`, `Cannot use phase ${phase} of instance ${id.slice(0, 80)}`);
    return { id, phase: known, reason: reason.slice(0, reasonCharsMax), restarts, pid };
  });
}

/** A service by its name. */
export function checkService(name: string): string {
  return checkName(name, "name");
}

export function notPlaced(id: string) {
  return fault("not_found", "instance_not_found", `Cannot find instance ${JSON.stringify(id.slice(0, 80))}`);
}
