import { checkName, fault } from "@ultracloud/base";
import { idempotencyOf, toOperation } from "@ultracloud/platform";
import { OperationSchema } from "@ultracloud/proto/common/v1";
import {
  DrainNodeRequestSchema,
  FleetNodeService,
  ForgetNodeRequestSchema,
  ForgetNodeResponseSchema,
} from "@ultracloud/proto/fleetscheduler/v1";
import { bind, type BoundService, type Principal } from "@ultracloud/rpc";
import type { FleetNode, Observed } from "./domain/types.ts";
import type { DrainSaga } from "./drain_saga.ts";
import { type AssignmentFeed, type Assignments, watchersMax } from "./feed.ts";
import { nodeKind, type NodeStatus, statusKey } from "./kinds.ts";
import type { SchedulerDeps } from "./scheduler.ts";
import { nodeView } from "./store.ts";
import { fromHeartbeat, fromRegistration, toJson, toNode } from "./wire.ts";

const root = () => "";
const deadlineMsMax = 24 * 3_600_000;

/** An agent whose identity names a node speaks for that node only. */
function checkOwn(principal: Principal, node: string): void {
  const own = /^spiffe:\/\/[^/]+\/svc\/node-agent\/([^/]+)$/.exec(principal.id)?.[1];
  if (own === undefined || own === node) return;
  throw fault("permission_denied", "node_other", `Cannot speak for node ${node} as the agent of ${own}`);
}

export function nodeService(deps: SchedulerDeps, feed: AssignmentFeed, drains: DrainSaga): BoundService {
  const { platform, leases } = deps;
  /** Times of heartbeats that this replica has heard; for people only, leases decide. */
  const heard = new Map<string, number>();

  async function view(name: string) {
    const record = await platform.get(nodeKind, "", name);
    return toView(record, await feed.read());
  }
  function toView(record: Parameters<typeof nodeView>[0], { byNode }: Assignments) {
    const here = (byNode.get(record.name) ?? []).map(({ instance }) => instance);
    return toNode(nodeView(record), here, heard.get(record.name) ?? record.value.registeredMs);
  }
  const change = async (name: string, to: (node: FleetNode) => FleetNode) => {
    await platform.transact(async (tx) => {
      const node = await tx.get(nodeKind, "", name);
      tx.update(nodeKind, node, { value: to(node.value) });
    });
    return await view(name);
  };

  return bind(FleetNodeService, {
    async registerNode(request, { principal }) {
      const { name, labels, value } = fromRegistration(request.node);
      checkOwn(principal, name);
      // The lease first: a node whose record says that it is there has one.
      await leases.grant(name);
      await platform.transact(async (tx) => {
        const present = await tx.find(nodeKind, "", name);
        const kept = present?.value ?? { cordoned: false, drain: null, lostMs: 0 };
        // What it ran ended with its lease, whatever it said last.
        if (kept.lostMs !== 0) tx.deleteRow(statusKey(name));
        const node: FleetNode = {
          ...value,
          cordoned: kept.cordoned,
          drain: kept.drain,
          lostMs: 0,
          registeredMs: tx.nowMs,
        };
        if (present) tx.update(nodeKind, present, { value: node, labels });
        else await tx.create(nodeKind, { project: "", name, labels, value: node });
      });
      heard.set(name, platform.clock.nowMs());
      platform.log.info("node registered", { node: name, agentUrl: value.agentUrl });
      return { leaseTtlMs: BigInt(leases.ttlMs) };
    },
    async heartbeat(request, { principal }) {
      checkName(request.node, "node");
      checkOwn(principal, request.node);
      const said = fromHeartbeat(request);
      const leaseTtlMs = BigInt(leases.ttlMs);
      const known = await platform.find(nodeKind, "", request.node);
      if (!known || known.value.lostMs !== 0 || !await leases.renew(known.name)) {
        return { leaseTtlMs, reregister: true };
      }
      heard.set(known.name, platform.clock.nowMs());
      const assigned = (await feed.read()).byNode.get(known.name) ?? [];
      const version = Number(request.assignmentVersion || "0");
      await platform.transact(async (tx) => {
        const before = await tx.row<NodeStatus>(statusKey(known.name));
        const observed = merge(before?.observed ?? [], said, assigned, version, tx.nowMs);
        if (observed) tx.putRow(statusKey(known.name), { observed } satisfies NodeStatus);
      });
      return { leaseTtlMs, reregister: false };
    },
    async *watchAssignment(request, { principal, signal }) {
      const node = checkName(request.node, "node");
      checkOwn(principal, node);
      if (feed.watchers >= watchersMax) {
        throw fault("resource_exhausted", "watchers_full", `Cannot serve more than ${watchersMax} watchers`);
      }
      let sent: string | undefined;
      while (!signal.aborted) {
        const { version, byNode } = await feed.read();
        const instances = (byNode.get(node) ?? []).map(({ service, instance }) => ({
          id: instance.id,
          service,
          revision: BigInt(instance.revision),
          template: toJson(instance.template),
          stop: instance.desired === "stop",
        }));
        const content = instances.map(({ id, stop }) => `${id}${stop ? "-" : "+"}`).join();
        if (content !== sent) {
          sent = content;
          yield { version: String(version), instances };
        }
        await feed.pause(signal);
      }
    },
    getNode: (request) => view(request.name),
    async listNodes() {
      const [nodes, assignments] = await Promise.all([platform.list(nodeKind, ""), feed.read()]);
      return { nodes: nodes.map((node) => toView(node, assignments)) };
    },
    setNodeCordoned: (request) => change(request.name, (node) => ({ ...node, cordoned: request.cordoned })),
    async drainNode(request, context) {
      if (request.deadlineMs < 0n || request.deadlineMs > deadlineMsMax) {
        throw fault(
          "invalid_argument",
          "invalid_field",
          `Cannot drain within ${request.deadlineMs} ms: wanted 0 to ${deadlineMsMax}`,
          { field: "deadlineMs" },
        );
      }
      const total = ((await feed.read()).byNode.get(request.name) ?? []).length;
      return await platform.transact(async (tx) => toOperation(await drains.start(tx, request, total, context)), {
        idempotency: idempotencyOf(context, DrainNodeRequestSchema, request, OperationSchema),
      });
    },
    activateNode: (request) => change(request.name, (node) => ({ ...node, cordoned: false, drain: null })),
    forgetNode: (request, context) =>
      platform.transact(async (tx) => {
        const node = await tx.get(nodeKind, "", request.name);
        if (node.value.lostMs === 0) {
          throw fault("failed_precondition", "node_alive", `Cannot forget node ${node.name} as it heartbeats`);
        }
        tx.remove(nodeKind, node);
        tx.deleteRow(statusKey(node.name));
        return {};
      }, { idempotency: idempotencyOf(context, ForgetNodeRequestSchema, request, ForgetNodeResponseSchema) }),
  }, {
    registerNode: { resource: "node", action: "register", scope: root },
    heartbeat: { resource: "node", action: "heartbeat", scope: root },
    watchAssignment: { resource: "node", action: "heartbeat", scope: root },
    getNode: { resource: "node", action: "get", scope: root },
    listNodes: { resource: "node", action: "list", scope: root },
    setNodeCordoned: { resource: "node", action: "cordon", scope: root },
    drainNode: { resource: "node", action: "drain", scope: root },
    activateNode: { resource: "node", action: "activate", scope: root },
    forgetNode: { resource: "node", action: "forget", scope: root },
  });
}

/** What is known of a node's instances after its word; undefined when that is nothing new. */
function merge(
  before: readonly Observed[],
  said: readonly Omit<Observed, "sinceMs">[],
  assigned: Assignments["byNode"] extends ReadonlyMap<string, infer T> ? T : never,
  version: number,
  nowMs: number,
): Observed[] | undefined {
  const was = new Map(before.map((observed) => [observed.id, observed]));
  const ids = new Set(said.map(({ id }) => id));
  const after = said.map((status): Observed => {
    const old = was.get(status.id);
    return { ...status, sinceMs: old && old.phase === status.phase ? old.sinceMs : nowMs };
  });
  for (const { instance: { id, desired, stopVersion } } of assigned) {
    // Silence means stopped only from a node that has heard of the stop.
    if (ids.has(id) || desired === "run" || version < stopVersion) continue;
    after.push({ id, phase: "stopped", reason: "", restarts: 0, pid: 0, sinceMs: was.get(id)?.sinceMs ?? nowMs });
  }
  return JSON.stringify(after) === JSON.stringify(before) ? undefined : after;
}
