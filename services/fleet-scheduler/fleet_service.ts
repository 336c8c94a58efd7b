import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { fault, invalidField } from "@ultracloud/base";
import { diffValues } from "@ultracloud/cluster-state";
import { idempotencyOf, type StoredRecord, type Tx } from "@ultracloud/platform";
import {
  ApplyServiceRequestSchema,
  ApplyServiceResponseSchema,
  DeleteServiceRequestSchema,
  FleetService,
  ServiceSchema,
  SteerUpdateRequestSchema,
  UpdateAction,
} from "@ultracloud/proto/fleetscheduler/v1";
import { bind, type BoundService, toFault } from "@ultracloud/rpc";
import { decide } from "./domain/decide.ts";
import { explain } from "./domain/explain.ts";
import { closed, mismatch } from "./domain/placement.ts";
import { applied, changed, rolledBack } from "./domain/rollout.ts";
import type { Service } from "./domain/types.ts";
import type { AssignmentFeed } from "./feed.ts";
import { templateHash } from "./hash.ts";
import { nodeKind, type Placement, placementKey, serviceKind } from "./kinds.ts";
import type { SchedulerDeps } from "./scheduler.ts";
import { readSnapshot, serviceView, type Snapshot } from "./store.ts";
import { checkService, fromSpec, notPlaced, toInstance, toService } from "./wire.ts";

const logLimitMax = 1024 * 1024;
const logWaitMsMax = 20_000;
/** What belongs to no tenant is the root's. */
const root = () => "";

export function fleetService(deps: SchedulerDeps, feed: AssignmentFeed): BoundService {
  const { platform } = deps;

  /** Services as callers see them, with what only the whole fleet tells. */
  function viewer(snapshot: Snapshot) {
    const unplaced = new Map(decide(snapshot).unplaced.map(({ service, count }) => [service, count]));
    const byName = new Map(snapshot.services.map((service) => [service.name, service]));
    return (record: StoredRecord<Service>) => {
      const view = byName.get(record.name) ?? serviceView(record, undefined);
      const { spec } = record.value;
      const wanted = spec.mode === "replicas"
        ? spec.replicas
        : snapshot.nodes.filter((node) => closed(node) === undefined && mismatch(spec, node) === undefined).length;
      return toService(record, view, snapshot, { wanted, unplaced: unplaced.get(record.name) ?? 0 });
    };
  }
  const viewIn = async (tx: Tx, record: StoredRecord<Service>) =>
    toService(
      record,
      serviceView(record, await tx.row<Placement>(placementKey(record.name))),
      { observed: new Map() },
      {
        wanted: record.value.spec.mode === "replicas" ? record.value.spec.replicas : 0,
        unplaced: 0,
      },
    );
  const view = async (record: StoredRecord<Service>) => viewer(await readSnapshot(platform))(record);

  return bind(FleetService, {
    applyService(request, context) {
      const name = checkService(request.name);
      const spec = fromSpec(request.spec);
      const hash = templateHash(spec);
      return platform.transact(async (tx) => {
        const before = await tx.find(serviceKind, "", name);
        if (before) tx.checkEtag(serviceKind, before, request.etag);
        if (before?.value.deleting) {
          throw fault(
            "failed_precondition",
            "service_deleting",
            `Cannot apply service ${name} while it is being deleted`,
          );
        }
        if (before?.value.rejectedHash === hash && before.value.hash !== hash && !request.force) {
          throw fault(
            "failed_precondition",
            "template_rejected",
            `Cannot apply service ${name} as this was rolled back (${before.value.update.reason}): wanted another spec, or force`,
          );
        }
        const value = {
          ...applied(before?.value, spec, hash, tx.nowMs),
          ...(request.force ? { rejectedHash: "" } : {}),
        };
        const changes = diffValues(before?.value.spec, spec).map(({ path, before, after }) => ({
          path,
          before: before === undefined ? "" : JSON.stringify(before),
          after: after === undefined ? "" : JSON.stringify(after),
        }));
        const replaces = before !== undefined && value.hash !== before.value.hash;
        if (request.dryRun) return { created: !before, changes: before ? changes : [], replaces };
        let record = before;
        if (!record) record = await tx.create(serviceKind, { project: "", name, value });
        else if (changes.length > 0 || request.force) record = tx.update(serviceKind, record, { value });
        return { service: await viewIn(tx, record), created: !before, changes: before ? changes : [], replaces };
      }, { idempotency: idempotencyOf(context, ApplyServiceRequestSchema, request, ApplyServiceResponseSchema) });
    },
    getService: async (request) => await view(await platform.get(serviceKind, "", request.name)),
    async listServices(request) {
      const page = await platform.page(serviceKind, { project: "", page: request.page });
      const toView = viewer(await readSnapshot(platform));
      return { services: page.items.map(toView), page: { nextPageToken: page.nextPageToken } };
    },
    deleteService: (request, context) =>
      platform.transact(async (tx) => {
        const record = await tx.get(serviceKind, "", request.name);
        tx.checkEtag(serviceKind, record, request.etag);
        const gone = record.value.deleting
          ? record
          : tx.update(serviceKind, record, { value: { ...record.value, deleting: true } });
        return await viewIn(tx, gone);
      }, { idempotency: idempotencyOf(context, DeleteServiceRequestSchema, request, ServiceSchema) }),
    steerUpdate: (request, context) =>
      platform.transact(async (tx) => {
        const record = await tx.get(serviceKind, "", request.name);
        const value = steered(record.name, record.value, request.action);
        return await viewIn(tx, tx.update(serviceKind, record, { value }));
      }, { idempotency: idempotencyOf(context, SteerUpdateRequestSchema, request, ServiceSchema) }),
    async listInstances(request) {
      const snapshot = await readSnapshot(platform);
      const instances = snapshot.services.flatMap((service) =>
        service.instances.map((instance) => toInstance(service.name, instance, snapshot.observed.get(instance.id)))
      );
      return {
        instances: instances.filter((instance) =>
          (request.service === "" || instance.service === request.service) &&
          (request.node === "" || instance.node === request.node)
        ),
      };
    },
    async explainPlacement(request) {
      await platform.get(serviceKind, "", request.name);
      const snapshot = await readSnapshot(platform);
      const { refusals, open } = explain(snapshot, request.name);
      const short = decide(snapshot).unplaced.find(({ service }) => service === request.name);
      const since = snapshot.services.find(({ name }) => name === request.name)?.shortage?.sinceMs;
      return {
        unplaced: short?.count ?? 0,
        refusals,
        openNodes: open,
        ...(short === undefined || since === undefined ? {} : { sinceTime: timestampFromMs(since) }),
      };
    },
    async readLog(request, context) {
      if (request.limit < 0 || request.limit > logLimitMax) {
        throw invalidField("limit", `Cannot read ${request.limit} bytes at a time: wanted 0 to ${logLimitMax}`);
      }
      if (request.waitMs < 0 || request.waitMs > logWaitMsMax) {
        throw invalidField("waitMs", `Cannot wait ${request.waitMs} ms: wanted 0 to ${logWaitMsMax}`);
      }
      const { byNode } = await feed.read();
      const home = [...byNode].find(([, own]) => own.some(({ instance }) => instance.id === request.instance));
      if (!home) throw notPlaced(request.instance);
      const node = await platform.get(nodeKind, "", home[0]);
      try {
        const o = { signal: context.signal, timeoutMs: request.waitMs + 10_000 };
        const { offset, data, nextOffset } = await deps.agents(node.value.agentUrl).readLog(request, o);
        return { offset, data, nextOffset };
      } catch (error) {
        context.signal.throwIfAborted();
        throw toFault(error);
      }
    },
  }, {
    applyService: { resource: "service", action: "apply", scope: root },
    getService: { resource: "service", action: "get", scope: root },
    listServices: { resource: "service", action: "list", scope: root },
    deleteService: { resource: "service", action: "delete", scope: root },
    steerUpdate: { resource: "service", action: "steer", scope: root },
    listInstances: { resource: "instance", action: "list", scope: root },
    explainPlacement: { resource: "service", action: "get", scope: root },
    readLog: { resource: "instance", action: "log", scope: root },
  });
}

/** The service after an operator's word about its update; failed_precondition where that has no sense. */
function steered(name: string, service: Service, action: UpdateAction): Service {
  const { phase, resume } = service.update;
  const refuse = (doing: string, wanted: string) =>
    fault(
      "failed_precondition",
      "update_not_steerable",
      `Cannot ${doing} ${name} as its update is ${phase}: wanted ${wanted}`,
    );
  switch (action) {
    case UpdateAction.PAUSE:
      if (phase !== "canary" && phase !== "rolling") throw refuse("pause", "one under way");
      return changed(service, { phase: "paused", resume: phase, reason: "paused by an operator" });
    case UpdateAction.RESUME:
      if (phase !== "paused" || resume === "") throw refuse("resume", "a paused one");
      return changed(service, { phase: resume, resume: "", reason: "" });
    case UpdateAction.PROMOTE:
      if (phase !== "canary") throw refuse("promote", "canaries");
      return changed(service, { phase: "rolling", reason: "" });
    case UpdateAction.ROLL_BACK: {
      const target = service.stable?.hash === service.hash ? service.previous : service.stable;
      if (!target || target.hash === service.hash) throw refuse("roll back", "a template that stood before");
      return rolledBack(service, target, "rolled back by an operator");
    }
    default:
      throw invalidField(
        "action",
        `Cannot steer an update by action ${action}: wanted pause, resume, promote or roll back`,
      );
  }
}
