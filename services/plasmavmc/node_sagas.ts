import { fault } from "@ultracloud/base";
import { isOver, type OperationRow, type Saga, type StoredRecord } from "@ultracloud/platform";
import { toFault } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import type { Vm } from "./domain/types.ts";
import { tiedTo } from "./evacuate_saga.ts";
import { nodeKind, vmKind, volumeKind } from "./kinds.ts";
import type { Sagas } from "./sagas.ts";
import { begin, beginMigrate, ownRequest } from "./vm_begin.ts";

export interface DrainData {
  readonly parallel: number;
  /** Whether the node was cordoned before. */
  readonly cordoned: boolean;
}

export interface EvacuateNodeData {
  readonly rebuild: boolean;
  readonly poweredOff: boolean;
}

export interface NodeSagas {
  readonly drain: Saga<DrainData>;
  readonly evacuate: Saga<EvacuateNodeData>;
}

const pollMs = 250;
const migrateDeadlineMs = 600_000;
/** A VM whose move fails is tried again this often before the drain gives up on it. */
const triesMax = 3;
const drainTimeoutMs = 6 * 3600 * 1000;

/** Work on a whole worker, made of operations on its VMs. */
export function nodeSagas(control: Control, _o: { readonly fenceGraceMs: number }, sagas: () => Sagas): NodeSagas {
  const { platform, workers } = control;

  const setDraining = (name: string, operation: string, cordoned: boolean) =>
    platform.transact(async (tx) => {
      const node = await tx.findById(nodeKind, name);
      if (!node) return;
      tx.update(nodeKind, node, { value: { ...node.value, draining: operation, cordoned } });
    });

  const vmsOf = async (node: string) => (await platform.list(vmKind)).filter((vm) => vm.value.node === node);

  /** The migration that has the VM, undefined when none has. */
  async function moveOf(vm: StoredRecord<Vm>): Promise<OperationRow | undefined> {
    if (vm.value.operation === "") return undefined;
    return await platform.operations.get(vm.project, vm.value.operation).catch(() => undefined);
  }

  async function cancelMoves(node: string): Promise<void> {
    for (const vm of await vmsOf(node)) {
      const running = await moveOf(vm);
      if (running?.kind !== "vm.migrate" || running.requestId !== ownRequest || isOver(running)) continue;
      await platform.transact((tx) => platform.operations.requestCancel(tx, vm.project, running.id)).catch((error) => {
        if (toFault(error).kind !== "failed_precondition") throw error;
      });
    }
  }

  /** Moves everything that runs on the node, a few at a time; throws with what could not go. */
  async function empty(
    operation: OperationRow,
    parallel: number,
    signal: AbortSignal,
    report: (share: number, step: string) => Promise<void>,
  ): Promise<void> {
    const node = operation.target.id;
    const tries = new Map<string, number>();
    const why = new Map<string, string>();
    let most = 0;
    for (;;) {
      signal.throwIfAborted();
      const left = (await vmsOf(node)).filter((vm) => !["stopped", "failed", "pending"].includes(vm.value.state));
      most = Math.max(most, left.length);
      if (left.length === 0) return;
      await report(1 - left.length / most, `Moving VMs: ${most - left.length} of ${most}`);
      let moving = left.filter((vm) => vm.value.state === "migrating").length;
      let waiting = 0;
      for (const vm of left) {
        if (vm.value.operation !== "") {
          waiting++;
          continue;
        }
        const tried = tries.get(vm.id) ?? 0;
        if (tried >= triesMax) continue;
        waiting++;
        if (moving >= parallel) continue;
        tries.set(vm.id, tried + 1);
        try {
          const wish = { node: "", storage: undefined, deadlineMs: migrateDeadlineMs };
          await platform.transact(async (tx) => {
            const current = await tx.getById(vmKind, vm.id);
            return await beginMigrate(control, sagas(), tx, current, wish, ownRequest);
          });
          moving++;
        } catch (error) {
          why.set(vm.id, toFault(error).message);
        }
      }
      if (waiting === 0) {
        const names = left.map((vm) => `${vm.project}/${vm.name}${why.has(vm.id) ? ` (${why.get(vm.id)})` : ""}`);
        throw fault(
          "failed_precondition",
          "drain_incomplete",
          `Cannot drain worker ${node} as ${left.length} VMs do not leave it: ${names.slice(0, 10).join("; ")}`,
        );
      }
      await platform.clock.sleep(pollMs, signal);
    }
  }

  return {
    drain: {
      kind: "node.drain",
      cancellable: true,
      steps: [
        {
          title: "Cordoning",
          do: ({ operation }) => setDraining(operation.target.id, operation.id, true),
          undo: ({ data, operation }) => setDraining(operation.target.id, "", data.cordoned),
        },
        {
          title: "Moving VMs",
          timeoutMs: drainTimeoutMs,
          do: ({ data, operation, signal, report }) => empty(operation, data.parallel, signal, report),
          undo: ({ operation }) => cancelMoves(operation.target.id),
        },
      ],
      async finish(tx, _data, operation) {
        const node = await tx.findById(nodeKind, operation.target.id);
        // It stays cordoned: what was moved away must not come back before its operator says so.
        if (node) tx.update(nodeKind, node, { value: { ...node.value, draining: "", cordoned: true } });
        return undefined;
      },
    },

    evacuate: {
      kind: "node.evacuate",
      cancellable: false,
      steps: [{
        title: "Starting VMs elsewhere",
        timeoutMs: drainTimeoutMs,
        async do({ data, operation, signal, report }) {
          const node = operation.target.id;
          const stay = new Map<string, string>();
          const all = await vmsOf(node);
          for (let rounds = 0;; rounds++) {
            signal.throwIfAborted();
            if (await workers.isAlive(node)) {
              throw fault("failed_precondition", "node_alive", `Cannot evacuate worker ${node} as it is alive`);
            }
            const left = (await vmsOf(node)).filter((vm) => !stay.has(vm.id));
            await report(1 - left.length / Math.max(1, all.length), `Starting VMs elsewhere: ${left.length} left`);
            if (left.length === 0) break;
            for (const vm of left) {
              if (vm.value.operation !== "") continue;
              const why = await beginEvacuate(control, sagas(), vm.id, data, operation.id);
              if (why !== undefined) stay.set(vm.id, `${vm.project}/${vm.name}: ${why}`);
            }
            await platform.clock.sleep(pollMs, signal);
            // One whose own operation fails each time would be tried for ever.
            if (rounds * pollMs > 120_000) {
              for (const vm of left) stay.set(vm.id, `${vm.project}/${vm.name}: ${vm.value.reason || "it did not go"}`);
            }
          }
          if (stay.size > 0) {
            throw fault(
              "failed_precondition",
              "evacuation_incomplete",
              `Cannot evacuate all of worker ${node}: ${[...stay.values()].slice(0, 10).join("; ")}`,
            );
          }
        },
      }],
      finish: () => Promise.resolve(undefined),
    },
  };
}

/** Starts the evacuation of one VM; answers why not. */
export async function beginEvacuate(
  control: Control,
  sagas: Sagas,
  vmId: string,
  o: { readonly rebuild: boolean; readonly poweredOff: boolean },
  requestId: string,
): Promise<string | undefined> {
  return await control.platform.transact(async (tx) => {
    const vm = await tx.findById(vmKind, vmId);
    if (!vm || vm.value.operation !== "" || vm.value.desired === "deleted") return undefined;
    const volumes = await Promise.all(vm.value.volumes.map((a) => tx.getById(volumeKind, a.volumeId)));
    const why = tiedTo(vm, volumes.map((v) => ({ name: v.name, node: v.value.node, shared: v.value.shared })), o);
    if (why !== undefined) return why;
    begin(control, tx, vm, sagas.evacuate, { data: { source: vm.value.node, rebuild: o.rebuild }, requestId });
    return undefined;
  });
}
