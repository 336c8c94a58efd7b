import type { OperationFailure, OperationRow, Saga, SagaStep, StoredRecord, Tx } from "@ultracloud/platform";
import { toFault } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import type { Vm } from "./domain/types.ts";
import { guestKey, imageUseKey, vmKind } from "./kinds.ts";
import { fromObservation, packVm } from "./wire.ts";

/** What a worker answered, kept for the end of the saga. */
export interface Outcome {
  readonly state?: Vm["state"];
  readonly reason?: string;
  readonly startedMs?: number;
}

export interface StopData extends Outcome {
  readonly force: boolean;
  readonly graceMs: number;
}

export interface VmSagas {
  readonly create: Saga<Outcome>;
  readonly start: Saga<Outcome>;
  readonly stop: Saga<StopData>;
  readonly reboot: Saga<Outcome>;
  readonly delete: Saga<Record<string, never>>;
}

/** As long as it takes: what is not freed would be lost. */
const triesUnbounded = Number.MAX_SAFE_INTEGER;

/** Removes the VM's record and everything that hangs on it. */
function forget(tx: Tx, vm: StoredRecord<Vm>): void {
  tx.remove(vmKind, vm);
  tx.deleteRow(guestKey(vm.id));
  tx.deleteRow(imageUseKey(vm.value.imageId, vm.id));
}

/** The VM's life as sagas; `define` them before the runner starts. */
export function vmSagas(control: Control): VmSagas {
  const { platform } = control;
  const vmOf = (operation: OperationRow) => platform.getById(vmKind, operation.target.id);
  const findVm = (operation: OperationRow) => platform.findById(vmKind, operation.target.id);

  /** Hands the VM back from its operation with the worker's last word. */
  async function settle(tx: Tx, data: Outcome, operation: OperationRow, fallback: Vm["state"]) {
    const vm = await tx.getById(vmKind, operation.target.id);
    const next = tx.update(vmKind, vm, {
      value: {
        ...vm.value,
        state: data.state ?? fallback,
        reason: data.reason ?? "",
        operation: "",
        ...(data.startedMs === undefined ? {} : { startedMs: data.startedMs }),
      },
    });
    return packVm(next);
  }

  /** Hands the VM back after a failure. */
  async function give(tx: Tx, operation: OperationRow, state: Vm["state"], error: OperationFailure): Promise<void> {
    const vm = await tx.findById(vmKind, operation.target.id);
    if (!vm) return;
    tx.update(vmKind, vm, { value: { ...vm.value, state, reason: error.message, operation: "" } });
  }

  const outcome = (observed: Parameters<typeof fromObservation>[0]): Outcome => {
    const { vmId: _, ...rest } = fromObservation(observed);
    return rest;
  };

  const bind: SagaStep<Outcome> = {
    title: "Binding ports",
    do: async ({ operation, signal }) => await control.bindPorts(await vmOf(operation), signal),
  };
  const ensure: SagaStep<Outcome> = {
    title: "Starting on the worker",
    timeoutMs: 180_000,
    do: async ({ operation, signal }) => outcome(await control.ensureOnNode(operation.target.id, signal)),
  };
  const freePorts = async (operation: OperationRow, signal: AbortSignal) => {
    const vm = await findVm(operation);
    if (vm) await control.freePorts(vm, signal);
  };
  const removeFromNode = async (operation: OperationRow, signal: AbortSignal) => {
    const vm = await findVm(operation);
    if (vm) await control.removeFromNode(vm.value.node, vm.id, signal);
  };

  return {
    create: {
      kind: "vm.create",
      cancellable: true,
      steps: [
        {
          title: "Reserving quota",
          do: async ({ operation }) => {
            const vm = await vmOf(operation);
            await control.quota.reserve(vm.project, vm.id, vm.value);
          },
          undo: ({ operation }) => control.quota.release(operation.project, operation.target.id),
        },
        {
          title: "Choosing a worker",
          do: async ({ operation }) => void await control.placeVm(operation.target.id),
          undo: ({ operation }) => control.unplaceVm(operation.target.id),
        },
        {
          title: "Making ports",
          do: async ({ operation, signal }) => await control.makePorts(await vmOf(operation), signal),
          undo: ({ operation, signal }) => freePorts(operation, signal),
        },
        bind,
        { ...ensure, undo: ({ operation, signal }) => removeFromNode(operation, signal) },
      ],
      finish: (tx, data, operation) => settle(tx, data, operation, "running"),
      async abandon(tx, _data, operation) {
        const vm = await tx.findById(vmKind, operation.target.id);
        if (vm) forget(tx, vm);
      },
    },

    start: {
      kind: "vm.start",
      cancellable: false,
      steps: [bind, ensure],
      finish: (tx, data, operation) => settle(tx, data, operation, "running"),
      abandon: (tx, _data, operation, error) => give(tx, operation, "failed", error),
    },

    stop: {
      kind: "vm.stop",
      cancellable: false,
      steps: [{
        title: "Stopping on the worker",
        timeoutMs: 660_000,
        async do({ data, operation, signal }) {
          const vm = await vmOf(operation);
          const agent = await control.agentOf(vm.value.node);
          const { force, graceMs } = data;
          try {
            const timeoutMs = (force ? 0 : graceMs) + 30_000;
            return outcome(await agent.stopVm({ vmId: vm.id, force, graceMs }, { signal, timeoutMs }));
          } catch (error) {
            const known = toFault(error);
            // A worker that has no such VM runs none.
            if (known.kind === "not_found") return { state: "stopped" };
            throw known;
          }
        },
      }],
      finish: (tx, data, operation) => settle(tx, data, operation, "stopped"),
      abandon: (tx, _data, operation, error) => give(tx, operation, "unknown", error),
    },

    reboot: {
      kind: "vm.reboot",
      cancellable: false,
      steps: [{
        title: "Rebooting on the worker",
        async do({ operation, signal }) {
          const vm = await vmOf(operation);
          const agent = await control.agentOf(vm.value.node);
          try {
            return outcome(await agent.rebootVm({ vmId: vm.id }, { signal, timeoutMs: 60_000 }));
          } catch (error) {
            throw toFault(error);
          }
        },
      }],
      finish: (tx, data, operation) => settle(tx, data, operation, "running"),
      abandon: (tx, _data, operation, error) => give(tx, operation, "unknown", error),
    },

    delete: {
      kind: "vm.delete",
      cancellable: false,
      steps: [
        {
          title: "Removing from the worker",
          tries: triesUnbounded,
          do: ({ operation, signal }) => removeFromNode(operation, signal),
        },
        { title: "Freeing ports", tries: triesUnbounded, do: ({ operation, signal }) => freePorts(operation, signal) },
        {
          title: "Freeing capacity",
          tries: triesUnbounded,
          do: ({ operation }) => control.unplaceVm(operation.target.id),
        },
        {
          title: "Freeing quota",
          tries: triesUnbounded,
          do: ({ operation }) => control.quota.release(operation.project, operation.target.id),
        },
      ],
      async finish(tx, _data, operation) {
        const vm = await tx.findById(vmKind, operation.target.id);
        if (vm) forget(tx, vm);
        return undefined;
      },
      abandon: (tx, _data, operation, error) => give(tx, operation, "failed", error),
    },
  };
}
