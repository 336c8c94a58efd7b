import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, type StoredRecord, toOperation } from "@ultracloud/platform";
import { OperationSchema } from "@ultracloud/proto/common/v1";
import {
  DrainNodeRequestSchema,
  EvacuateNodeRequestSchema,
  NodeMaintenanceService,
  RemoveNodeRequestSchema,
  RemoveNodeResponseSchema,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import type { Node } from "./domain/types.ts";
import { allocationKey, nodeKind } from "./kinds.ts";
import type { Sagas } from "./sagas.ts";

/** Migrations of one drain at once: each slows both workers down. */
const parallelDefault = 2;
const parallelMax = 8;
/** Drains at once: each holds a place among the operations that run until its migrations have found theirs. */
const drainsMax = 4;

/** What operators do to whole workers. */
export function maintenanceService(control: Control, sagas: Sagas): BoundService {
  const { platform, workers } = control;
  const scope = (name: string) => {
    checkName(name, "name");
    return "";
  };
  const target = (node: StoredRecord<Node>) => ({ kind: "node", project: "", name: node.name, id: node.id });

  return bind(NodeMaintenanceService, {
    drainNode(request, context) {
      if (request.parallel < 0 || request.parallel > parallelMax) {
        throw invalidField("parallel", `Cannot migrate ${request.parallel} VMs at once: wanted 0 to ${parallelMax}`);
      }
      const parallel = request.parallel === 0 ? parallelDefault : request.parallel;
      return platform.transact(async (tx) => {
        const node = await tx.get(nodeKind, "", request.name);
        if (node.value.draining !== "") {
          const running = await platform.operations.read(tx, "", node.value.draining);
          if (running) return toOperation(running);
        }
        if ((await tx.list(nodeKind, "")).filter((n) => n.value.draining !== "").length >= drainsMax) {
          throw fault(
            "resource_exhausted",
            "too_many_drains",
            `Cannot drain ${node.name} now as ${drainsMax} workers are being drained: wanted one to end`,
            { retryAfterMs: 10_000 },
          );
        }
        const operation = platform.sagas.start(tx, sagas.node.drain, {
          project: "",
          target: target(node),
          data: { parallel, cordoned: node.value.cordoned },
          requestId: context.requestId,
        });
        tx.update(nodeKind, node, { value: { ...node.value, cordoned: true, draining: operation.id } });
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, DrainNodeRequestSchema, request, OperationSchema) });
    },
    async evacuateNode(request, context) {
      const alive = await workers.isAlive(request.name);
      return await platform.transact(async (tx) => {
        const node = await tx.get(nodeKind, "", request.name);
        if (alive) {
          throw fault(
            "failed_precondition",
            "node_alive",
            `Cannot evacuate worker ${node.name} as it is alive: wanted it lost, or drained`,
          );
        }
        const { rebuild, poweredOff } = request;
        return toOperation(platform.sagas.start(tx, sagas.node.evacuate, {
          project: "",
          target: target(node),
          data: { rebuild, poweredOff },
          requestId: context.requestId,
        }));
      }, { idempotency: idempotencyOf(context, EvacuateNodeRequestSchema, request, OperationSchema) });
    },
    async removeNode(request, context) {
      const alive = await workers.isAlive(request.name);
      return await platform.transact(async (tx) => {
        const node = await tx.get(nodeKind, "", request.name);
        const held = Object.keys(await workers.held(node.name, tx));
        if (alive || held.length > 0) {
          const why = alive ? "it is alive" : `${held.length} VMs and volumes are on it`;
          throw fault(
            "failed_precondition",
            "node_in_use",
            `Cannot forget worker ${node.name} as ${why}: wanted it lost and empty`,
          );
        }
        tx.remove(nodeKind, node);
        tx.deleteRow(allocationKey(node.name));
        return {};
      }, { idempotency: idempotencyOf(context, RemoveNodeRequestSchema, request, RemoveNodeResponseSchema) });
    },
  }, {
    drainNode: { resource: "node", action: "drain", scope: (r) => scope(r.name) },
    evacuateNode: { resource: "node", action: "evacuate", scope: (r) => scope(r.name) },
    removeNode: { resource: "node", action: "remove", scope: (r) => scope(r.name) },
  });
}
