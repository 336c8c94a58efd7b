import { fault } from "@ultracloud/base";
import type { OperationFailure, OperationRow, Saga, Tx } from "@ultracloud/platform";
import { orAbsent, typed } from "./calls.ts";
import type { Control } from "./control.ts";
import type { SnapshotState, Vm } from "./domain/types.ts";
import { scheduleKind, snapshotKind, vmKind } from "./kinds.ts";
import { triesUnbounded } from "./saga_support.ts";
import { packSnapshot } from "./wire_storage.ts";

export interface SnapshotData {
  readonly vmId: string;
  /** How the VM was; it stays so. */
  readonly before: Vm["state"];
  readonly sizeBytes: number;
}

export interface SnapshotSagas {
  readonly create: Saga<SnapshotData>;
  readonly restore: Saga<SnapshotData>;
  readonly delete: Saga<Record<string, never>>;
}

/** Copies of a large disk on a busy host. */
const copyTimeoutMs = 1_800_000;

/** Snapshots of VMs. Creating and restoring have the VM too. */
export function snapshotSagas(control: Control): SnapshotSagas {
  const { platform, workers } = control;
  const findSnapshot = (operation: OperationRow) => platform.findById(snapshotKind, operation.target.id);

  async function removeCopies(operation: OperationRow, signal: AbortSignal): Promise<void> {
    const snapshot = await findSnapshot(operation);
    if (!snapshot || !await workers.isAlive(snapshot.value.node)) return;
    const agent = await workers.agentOf(snapshot.value.node);
    await orAbsent(agent.deleteSnapshot({ snapshotId: snapshot.id }, { signal, timeoutMs: 60_000 }));
  }

  async function releaseVm(tx: Tx, data: SnapshotData, operation: OperationRow): Promise<void> {
    const vm = await tx.findById(vmKind, data.vmId);
    if (vm?.value.operation !== operation.id) return;
    tx.update(vmKind, vm, { value: { ...vm.value, operation: "" } });
  }

  async function setState(tx: Tx, operation: OperationRow, state: SnapshotState, reason: string, sizeBytes?: number) {
    const snapshot = await tx.findById(snapshotKind, operation.target.id);
    if (!snapshot) return undefined;
    return tx.update(snapshotKind, snapshot, {
      value: { ...snapshot.value, state, reason, operation: "", sizeBytes: sizeBytes ?? snapshot.value.sizeBytes },
    });
  }

  /** A schedule tells why its last snapshot failed. */
  async function tellSchedule(tx: Tx, operation: OperationRow, lastFailure: string): Promise<void> {
    const snapshot = await tx.findById(snapshotKind, operation.target.id);
    if (!snapshot || snapshot.value.scheduleId === "") return;
    const schedule = await tx.findById(scheduleKind, snapshot.value.scheduleId);
    if (!schedule || schedule.value.lastFailure === lastFailure) return;
    tx.update(scheduleKind, schedule, { value: { ...schedule.value, lastFailure } });
  }

  return {
    create: {
      kind: "snapshot.create",
      cancellable: true,
      steps: [{
        title: "Copying disks",
        timeoutMs: copyTimeoutMs,
        async do({ data, operation, signal }) {
          const vm = await platform.getById(vmKind, data.vmId);
          const agent = await workers.agentOf(vm.value.node);
          const { volumesOnly, volumeIds } = (await platform.getById(snapshotKind, operation.target.id)).value;
          const devices = volumesOnly ? [...volumeIds] : [];
          const made = await typed(
            agent.createSnapshot({ vmId: vm.id, snapshotId: operation.target.id, devices }, {
              signal,
              timeoutMs: copyTimeoutMs,
            }),
          );
          return { sizeBytes: made.disks.reduce((sum, disk) => sum + Number(disk.bytes), 0) };
        },
        undo: ({ operation, signal }) => removeCopies(operation, signal),
      }],
      async finish(tx, data, operation) {
        await releaseVm(tx, data, operation);
        await tellSchedule(tx, operation, "");
        const snapshot = await setState(tx, operation, "ready", "", data.sizeBytes);
        return snapshot && packSnapshot(snapshot);
      },
      async abandon(tx, data, operation, error: OperationFailure) {
        await releaseVm(tx, data, operation);
        await tellSchedule(tx, operation, error.message);
        const snapshot = await tx.findById(snapshotKind, operation.target.id);
        if (snapshot) tx.remove(snapshotKind, snapshot);
      },
    },

    restore: {
      kind: "snapshot.restore",
      cancellable: false,
      steps: [{
        title: "Putting disks back",
        timeoutMs: copyTimeoutMs,
        async do({ data, operation, signal }) {
          const vm = await platform.getById(vmKind, data.vmId);
          const snapshot = await platform.getById(snapshotKind, operation.target.id);
          if (vm.value.node !== snapshot.value.node) {
            throw fault(
              "failed_precondition",
              "snapshot_elsewhere",
              `Cannot restore snapshot ${snapshot.name} as VM ${vm.name} is on ${vm.value.node}: wanted it on ` +
                snapshot.value.node,
            );
          }
          const agent = await workers.agentOf(vm.value.node);
          await typed(
            agent.restoreSnapshot({ vmId: vm.id, snapshotId: snapshot.id }, { signal, timeoutMs: copyTimeoutMs }),
          );
        },
      }],
      async finish(tx, data, operation) {
        await releaseVm(tx, data, operation);
        const snapshot = await setState(tx, operation, "ready", "");
        return snapshot && packSnapshot(snapshot);
      },
      async abandon(tx, data, operation, error) {
        await releaseVm(tx, data, operation);
        await setState(tx, operation, "ready", error.message);
      },
    },

    delete: {
      kind: "snapshot.delete",
      cancellable: false,
      steps: [{
        title: "Removing copies",
        tries: triesUnbounded,
        do: ({ operation, signal }) => removeCopies(operation, signal),
      }],
      async finish(tx, _data, operation) {
        const snapshot = await tx.findById(snapshotKind, operation.target.id);
        if (snapshot) tx.remove(snapshotKind, snapshot);
        return undefined;
      },
    },
  };
}
