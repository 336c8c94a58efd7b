import type { OperationFailure, OperationRow, PackedMessage, Tx } from "@ultracloud/platform";
import { fault } from "@ultracloud/base";
import type { Control } from "./control.ts";
import type { Vm } from "./domain/types.ts";
import { vmKind } from "./kinds.ts";
import { fromObservation, packVm } from "./wire.ts";

/** What a worker answered, kept for the end of the saga. */
export interface Outcome {
  readonly state?: Vm["state"];
  readonly reason?: string;
  readonly startedMs?: number;
}

/** As long as it takes: what is not freed would be lost. */
export const triesUnbounded = Number.MAX_SAFE_INTEGER;

/** QEMU's start with an image to fetch, and then some. */
export const startTimeoutMs = 180_000;

export function outcomeOf(observed: Parameters<typeof fromObservation>[0]): Outcome {
  const { vmId: _, ...rest } = fromObservation(observed);
  return rest;
}

/** Hands the VM back from its operation with the worker's last word. */
export async function settle(
  tx: Tx,
  data: Outcome,
  operation: OperationRow,
  fallback: Vm["state"],
  change: Partial<Vm> = {},
): Promise<PackedMessage | undefined> {
  const vm = await tx.findById(vmKind, operation.target.id);
  if (!vm) return undefined;
  const next = tx.update(vmKind, vm, {
    value: {
      ...vm.value,
      ...change,
      state: data.state ?? fallback,
      reason: data.reason ?? "",
      operation: "",
      ...(data.startedMs === undefined ? {} : { startedMs: data.startedMs }),
    },
  });
  return packVm(next);
}

/** Hands the VM back after a failure; the next observation says how it really is. */
export async function give(
  tx: Tx,
  operation: OperationRow,
  state: Vm["state"],
  error: OperationFailure,
): Promise<void> {
  const vm = await tx.findById(vmKind, operation.target.id);
  if (!vm || vm.value.operation !== operation.id) return;
  tx.update(vmKind, vm, { value: { ...vm.value, state, reason: error.message, operation: "" } });
}

/** Functions of sagas that work on one VM, their target. */
export function vmSteps(control: Control) {
  const { platform } = control;
  const vmOf = (operation: OperationRow) => platform.getById(vmKind, operation.target.id);
  const findVm = (operation: OperationRow) => platform.findById(vmKind, operation.target.id);
  return {
    vmOf,
    findVm,
    /** Changes the VM's record unless `decide` finds it as it should be. */
    change: (
      operation: OperationRow,
      decide: (vm: Vm, tx: Tx) => Partial<Vm> | undefined | Promise<Partial<Vm> | undefined>,
    ) =>
      platform.transact(async (tx) => {
        const vm = await tx.findById(vmKind, operation.target.id);
        if (!vm) return;
        if (vm.value.operation !== operation.id) {
          throw fault("aborted", "vm_taken", `Cannot change VM ${vm.name} as operation ${vm.value.operation} has it`);
        }
        const next = await decide(vm.value, tx);
        if (next) tx.update(vmKind, vm, { value: { ...vm.value, ...next } });
      }),
    freePorts: async (operation: OperationRow, signal: AbortSignal) => {
      const vm = await findVm(operation);
      if (vm) await control.ports.free(vm, signal);
    },
    removeFromNode: async (operation: OperationRow, signal: AbortSignal) => {
      const vm = await findVm(operation);
      if (vm) await control.removeFromNode(vm.value.node, vm.id, signal);
    },
    bindPorts: async (operation: OperationRow, signal: AbortSignal) => {
      await control.ports.bind(await vmOf(operation), signal);
    },
    ensure: async (operation: OperationRow, signal: AbortSignal): Promise<Outcome> =>
      outcomeOf(await control.ensureOnNode(operation.target.id, signal)),
  };
}

export type VmSteps = ReturnType<typeof vmSteps>;
