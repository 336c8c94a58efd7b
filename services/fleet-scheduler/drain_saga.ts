import { fault } from "@ultracloud/base";
import type { OperationRow, Platform, Saga, Tx } from "@ultracloud/platform";
import type { DrainNodeRequest } from "@ultracloud/proto/fleetscheduler/v1";
import type { CallContext } from "@ultracloud/rpc";
import { newDrain } from "./drain_desk.ts";
import { nodeKind } from "./kinds.ts";

/** A drain may wait for days; the operation with it. */
const dayMs = 24 * 3_600_000;
const lookMs = 300;

/** A node's drain as an operation: done when the node is drained, failed when it is given up, undone by cancel. */
export interface DrainSaga {
  start(tx: Tx, request: DrainNodeRequest, total: number, context: CallContext): Promise<OperationRow>;
}

export function drainSaga(platform: Platform): DrainSaga {
  const by = (operation: OperationRow) => `operation ${operation.id}`;
  const saga: Saga<Record<string, never>> = {
    kind: "node.drain",
    cancellable: true,
    steps: [{
      title: "Moving instances",
      timeoutMs: 7 * dayMs,
      tries: 1,
      async do({ operation, signal }) {
        for (;;) {
          signal.throwIfAborted();
          const node = await platform.get(nodeKind, "", operation.target.name);
          const { drain } = node.value;
          if (drain?.by !== by(operation)) {
            throw fault("aborted", "drain_ended", `Cannot go on draining ${node.name} as somebody else ended it`);
          }
          if (drain.phase === "drained") return;
          if (drain.phase === "failed") {
            throw fault("failed_precondition", "drain_failed", `Cannot drain ${node.name}: ${drain.reason}`);
          }
          await platform.clock.sleep(lookMs, signal);
        }
      },
      async undo({ operation }) {
        await platform.transact(async (tx) => {
          const node = await tx.find(nodeKind, "", operation.target.name);
          const drain = node?.value.drain;
          // A drain that was given up stays to be seen; the node works on.
          if (!node || drain?.by !== by(operation) || drain.phase === "failed") return;
          tx.update(nodeKind, node, { value: { ...node.value, drain: null } });
        });
      },
    }],
  };
  platform.sagas.define(saga);
  return {
    async start(tx, request, total, context) {
      const node = await tx.get(nodeKind, "", request.name);
      const { drain } = node.value;
      if (drain && drain.phase !== "failed") {
        throw fault(
          "failed_precondition",
          "node_draining",
          `Cannot drain node ${node.name} as it is ${drain.phase} by ${drain.by}: wanted an active one`,
        );
      }
      const operation = platform.sagas.start(tx, saga, {
        project: "",
        target: { kind: "node", project: "", name: node.name, id: node.id },
        data: {},
        requestId: context.requestId,
      });
      const deadlineMs = request.deadlineMs === 0n ? 0 : tx.nowMs + Number(request.deadlineMs);
      const value = {
        ...node.value,
        drain: newDrain(by(operation), { deadlineMs, force: request.force }, tx.nowMs, total),
      };
      tx.update(nodeKind, node, { value });
      return operation;
    },
  };
}
