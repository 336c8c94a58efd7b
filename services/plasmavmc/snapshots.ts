import { checkLabels, checkName, fault, invalidField } from "@ultracloud/base";
import {
  idempotencyOf,
  type OperationRow,
  projectScope,
  resourceScope,
  type StoredRecord,
  toOperation,
  type Tx,
} from "@ultracloud/platform";
import { OperationSchema } from "@ultracloud/proto/common/v1";
import {
  CreateSnapshotRequestSchema,
  CreateSnapshotScheduleRequestSchema,
  DeleteSnapshotScheduleResponseSchema,
  SnapshotRequestSchema,
  SnapshotScheduleRequestSchema,
  SnapshotScheduleSchema,
  SnapshotService,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService, toFault } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import { checkSchedule, expired, nextAfter, snapshotName } from "./domain/schedules.ts";
import type { Snapshot, SnapshotSchedule, Vm } from "./domain/types.ts";
import { scheduleKind, snapshotKind, vmKind, volumeKind } from "./kinds.ts";
import type { Sagas } from "./sagas.ts";
import { checkIdle, checkState, ownRequest, targetOf } from "./vm_begin.ts";
import { views } from "./wire.ts";
import { toSchedule, toSnapshot } from "./wire_storage.ts";

/** Copies of one VM: each is a whole set of disks. */
const snapshotsPerVmMax = 64;
const schedulesPerProjectMax = 64;

interface NewSnapshot {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly scheduleId: string;
  readonly requestId: string;
  /** Only this volume, by name or id; empty: every disk. */
  readonly volume: string;
}

/** Takes a snapshot of a VM that has one to take. */
async function beginSnapshot(
  control: Control,
  sagas: Sagas,
  tx: Tx,
  vm: StoredRecord<Vm>,
  fresh: NewSnapshot,
): Promise<OperationRow> {
  checkIdle(vm, "take a snapshot of");
  checkState(vm, "take a snapshot of", ["running", "paused", "stopped"]);
  const { project, value } = vm;
  if (value.diskBytes === 0 && value.volumes.length === 0) {
    throw fault("failed_precondition", "vm_diskless", `Cannot take a snapshot of VM ${vm.name} as it has no disk`);
  }
  const present = (await tx.list(snapshotKind, project)).filter((s) => s.value.vmId === vm.id);
  if (present.length >= snapshotsPerVmMax) {
    throw fault(
      "resource_exhausted",
      "too_many_snapshots",
      `Cannot take a snapshot of VM ${vm.name} as it has ${present.length}: wanted fewer than ${snapshotsPerVmMax}`,
    );
  }
  const id = tx.newId("snap");
  const { name, labels, scheduleId, requestId } = fresh;
  const only = fresh.volume === "" ? undefined : await tx.get(volumeKind, project, fresh.volume);
  if (only && !value.volumes.some((a) => a.volumeId === only.id)) {
    throw invalidField("volume", `Cannot take a snapshot of volume ${only.name} as VM ${vm.name} does not have it`);
  }
  const operation = control.platform.sagas.start(tx, sagas.snapshot.create, {
    project,
    target: { kind: "snapshot", project, name, id },
    data: { vmId: vm.id, before: value.state, sizeBytes: 0 },
    requestId,
  });
  const snapshot: Snapshot = {
    state: "creating",
    reason: "",
    vmId: vm.id,
    volumeIds: only ? [only.id] : value.volumes.map((a) => a.volumeId),
    ...(only ? { volumesOnly: true } : {}),
    sizeBytes: 0,
    node: value.node,
    scheduleId,
    operation: operation.id,
  };
  await tx.create(snapshotKind, { id, project, name, labels, value: snapshot });
  tx.update(vmKind, vm, { value: { ...value, operation: operation.id } });
  return operation;
}

function beginDelete(
  control: Control,
  sagas: Sagas,
  tx: Tx,
  snapshot: StoredRecord<Snapshot>,
  requestId: string,
): OperationRow {
  const operation = control.platform.sagas.start(tx, sagas.snapshot.delete, {
    project: snapshot.project,
    target: targetOf(snapshot),
    data: {},
    requestId,
  });
  tx.update(snapshotKind, snapshot, { value: { ...snapshot.value, state: "deleting", operation: operation.id } });
  return operation;
}

/** Takes what is due by schedules and removes what they no longer keep. */
export async function followSchedules(control: Control, sagas: Sagas, signal: AbortSignal): Promise<void> {
  const { platform } = control;
  for (const schedule of await platform.list(scheduleKind)) {
    signal.throwIfAborted();
    await takeDue(control, sagas, schedule);
    const all = (await platform.list(snapshotKind, schedule.project)).filter((s) => s.value.scheduleId === schedule.id);
    for (const old of expired(all, schedule.value.keep)) {
      await platform.transact(async (tx) => {
        const current = await tx.findById(snapshotKind, old.id);
        if (current && current.value.operation === "") beginDelete(control, sagas, tx, current, ownRequest);
      });
    }
  }
}

async function takeDue(control: Control, sagas: Sagas, schedule: StoredRecord<SnapshotSchedule>): Promise<void> {
  const { platform } = control;
  if (platform.clock.nowMs() < schedule.value.nextMs) return;
  const step = (tx: Tx, current: StoredRecord<SnapshotSchedule>, lastFailure: string) => {
    const nextMs = nextAfter(current.value, tx.nowMs);
    return tx.update(scheduleKind, current, { value: { ...current.value, nextMs, lastFailure } });
  };
  const due = schedule.value.nextMs;
  try {
    await platform.transact(async (tx) => {
      const current = await tx.findById(scheduleKind, schedule.id);
      if (!current || current.value.nextMs !== due) return;
      const vm = await tx.getById(vmKind, current.value.vmId);
      // Another operation has the VM: it is due until that is over.
      if (vm.value.operation !== "") return;
      const fresh = {
        name: snapshotName(current.name, due),
        labels: {},
        scheduleId: current.id,
        requestId: ownRequest,
        volume: "",
      };
      await beginSnapshot(control, sagas, tx, vm, fresh);
      step(tx, current, current.value.lastFailure);
    });
  } catch (error) {
    const { message } = toFault(error);
    await platform.transact(async (tx) => {
      const current = await tx.findById(scheduleKind, schedule.id);
      if (current && current.value.nextMs === due) step(tx, current, message);
    });
  }
}

/** Snapshots of VMs and what takes them by itself. */
export function snapshotService(control: Control, sagas: Sagas): BoundService {
  const { platform } = control;
  const scope = (project: string, snapshot: string) => resourceScope("plasmavmc", "snapshot", project, snapshot);
  const scheduleScope = (project: string, schedule: string) =>
    resourceScope("plasmavmc", "snapshot_schedule", project, schedule, "schedule");

  function checkReady(snapshot: StoredRecord<Snapshot>, doing: string): void {
    if (snapshot.value.operation === "" && snapshot.value.state === "ready") return;
    throw fault(
      "failed_precondition",
      "snapshot_busy",
      `Cannot ${doing} snapshot ${snapshot.name} as it is ${snapshot.value.state}: wanted it ready`,
      { retryAfterMs: 1000 },
    );
  }

  return bind(SnapshotService, {
    createSnapshot(request, context) {
      const name = checkName(request.name, "name");
      checkLabels(request.labels);
      return platform.transact(async (tx) => {
        const vm = await tx.get(vmKind, request.project, request.vm);
        const { labels, volume } = request;
        const { requestId } = context;
        const fresh = { name, labels, scheduleId: "", requestId, volume };
        return toOperation(await beginSnapshot(control, sagas, tx, vm, fresh));
      }, { idempotency: idempotencyOf(context, CreateSnapshotRequestSchema, request, OperationSchema) });
    },
    getSnapshot: async (request) => toSnapshot(await platform.get(snapshotKind, request.project, request.snapshot)),
    async listSnapshots(request) {
      const { project, page: asked } = request;
      const vmId = request.vm === "" ? "" : (await platform.get(vmKind, project, request.vm)).id;
      const where = (record: StoredRecord<Snapshot>) => vmId === "" || record.value.vmId === vmId;
      const page = await platform.page(snapshotKind, { project, page: asked, where, view: views.snapshot });
      return { snapshots: page.items.map(toSnapshot), page: { nextPageToken: page.nextPageToken } };
    },
    restoreSnapshot: (request, context) =>
      platform.transact(async (tx) => {
        const snapshot = await tx.get(snapshotKind, request.project, request.snapshot);
        checkReady(snapshot, "restore");
        const vm = await tx.getById(vmKind, snapshot.value.vmId);
        checkIdle(vm, "restore a snapshot of");
        checkState(vm, "restore a snapshot of", ["stopped"]);
        const operation = platform.sagas.start(tx, sagas.snapshot.restore, {
          project: snapshot.project,
          target: targetOf(snapshot),
          data: { vmId: vm.id, before: vm.value.state, sizeBytes: snapshot.value.sizeBytes },
          requestId: context.requestId,
        });
        tx.update(snapshotKind, snapshot, {
          value: { ...snapshot.value, state: "restoring", operation: operation.id },
        });
        tx.update(vmKind, vm, { value: { ...vm.value, operation: operation.id } });
        return toOperation(operation);
      }, { idempotency: idempotencyOf(context, SnapshotRequestSchema, request, OperationSchema) }),
    deleteSnapshot: (request, context) =>
      platform.transact(async (tx) => {
        const snapshot = await tx.get(snapshotKind, request.project, request.snapshot);
        checkReady(snapshot, "delete");
        return toOperation(beginDelete(control, sagas, tx, snapshot, context.requestId));
      }, { idempotency: idempotencyOf(context, SnapshotRequestSchema, request, OperationSchema) }),
    createSnapshotSchedule(request, context) {
      const name = checkName(request.name, "name");
      const { intervalMs, keep } = checkSchedule(Number(request.intervalMs), request.keep);
      return platform.transact(async (tx) => {
        const { project } = request;
        const vm = await tx.get(vmKind, project, request.vm);
        if ((await tx.list(scheduleKind, project)).length >= schedulesPerProjectMax) {
          throw fault(
            "resource_exhausted",
            "too_many_schedules",
            `Cannot keep more than ${schedulesPerProjectMax} schedules in ${project}`,
          );
        }
        const value = { vmId: vm.id, intervalMs, keep, nextMs: tx.nowMs + intervalMs, lastFailure: "" };
        return toSchedule(await tx.create(scheduleKind, { project, name, value }));
      }, {
        idempotency: idempotencyOf(context, CreateSnapshotScheduleRequestSchema, request, SnapshotScheduleSchema),
      });
    },
    async listSnapshotSchedules(request) {
      const page = await platform.page(scheduleKind, { project: request.project, page: request.page });
      return { schedules: page.items.map(toSchedule), page: { nextPageToken: page.nextPageToken } };
    },
    deleteSnapshotSchedule: (request, context) =>
      platform.transact(async (tx) => {
        tx.remove(scheduleKind, await tx.get(scheduleKind, request.project, request.schedule));
        return {};
      }, {
        idempotency: idempotencyOf(
          context,
          SnapshotScheduleRequestSchema,
          request,
          DeleteSnapshotScheduleResponseSchema,
        ),
      }),
  }, {
    createSnapshot: { resource: "snapshot", action: "create", scope: (r) => projectScope(r.project) },
    getSnapshot: { resource: "snapshot", action: "get", scope: (r) => scope(r.project, r.snapshot) },
    listSnapshots: { resource: "snapshot", action: "list", scope: (r) => projectScope(r.project) },
    restoreSnapshot: { resource: "snapshot", action: "restore", scope: (r) => scope(r.project, r.snapshot) },
    deleteSnapshot: { resource: "snapshot", action: "delete", scope: (r) => scope(r.project, r.snapshot) },
    createSnapshotSchedule: {
      resource: "snapshot_schedule",
      action: "create",
      scope: (r) => projectScope(r.project),
    },
    listSnapshotSchedules: { resource: "snapshot_schedule", action: "list", scope: (r) => projectScope(r.project) },
    deleteSnapshotSchedule: {
      resource: "snapshot_schedule",
      action: "delete",
      scope: (r) => scheduleScope(r.project, r.schedule),
    },
  });
}
