import { fault } from "@ultracloud/base";
import { type OperationRow, type Saga, type StoredRecord, type Tx } from "@ultracloud/platform";
import type { Control } from "./control.ts";
import type { DesiredState, MigrationStorage, Vm } from "./domain/types.ts";
import { vmKind, volumeKind } from "./kinds.ts";
import { refuseMicrovm } from "./machine_rules.ts";
import type { Sagas } from "./sagas.ts";

/** Requests the platform makes by itself stand under these in operations. */
export const ownRequest = "req_plasmavmc";

export function targetOf(record: Pick<StoredRecord, "kind" | "project" | "name" | "id">) {
  return { kind: record.kind, project: record.project, name: record.name, id: record.id };
}

/** How a VM that cannot migrate gets to another worker. */
export const movedByHand =
  "it deleted and made anew, as such a machine has no versions that two workers could agree on";

/** Operations have a VM one at a time. */
export function checkIdle(vm: StoredRecord<Vm>, doing: string): void {
  if (vm.value.operation === "") return;
  throw fault(
    "failed_precondition",
    "vm_busy",
    `Cannot ${doing} VM ${vm.name} as operation ${vm.value.operation} has it: wanted that to be over`,
    { metadata: { operation: vm.value.operation }, retryAfterMs: 1000 },
  );
}

export function checkState(vm: StoredRecord<Vm>, doing: string, wanted: readonly Vm["state"][]): void {
  if (wanted.includes(vm.value.state)) return;
  throw fault(
    "failed_precondition",
    wanted.includes("stopped") ? "vm_not_stopped" : "vm_not_running",
    `Cannot ${doing} VM ${vm.name} as it is ${vm.value.state}: wanted it ${wanted.join(" or ")}`,
  );
}

/** Gives the VM to a new operation. */
export function begin<D>(
  control: Control,
  tx: Tx,
  vm: StoredRecord<Vm>,
  saga: Saga<D>,
  o: { readonly data: D; readonly requestId: string; readonly change?: Partial<Vm> },
): OperationRow {
  const operation = control.platform.sagas.start(tx, saga, {
    project: vm.project,
    target: targetOf(vm),
    data: o.data,
    requestId: o.requestId,
  });
  tx.update(vmKind, vm, { value: { ...vm.value, ...o.change, operation: operation.id } });
  return operation;
}

/** The VM under an epoch that no disk has seen a higher one of: what it writes under from a power-on. */
export async function freshEpoch(tx: Tx, vm: Vm, raise = 0): Promise<Partial<Vm>> {
  let epoch = Math.max(vm.epochMax, vm.writerEpoch) + raise;
  for (const { volumeId } of vm.volumes) {
    const volume = await tx.findById(volumeKind, volumeId);
    epoch = Math.max(epoch, volume?.value.writerEpoch ?? 0);
  }
  return {
    writerEpoch: epoch,
    epochMax: epoch,
    volumes: vm.volumes.map(({ source: _, ...attachment }) => ({ ...attachment, epoch })),
  };
}

/** Starts a VM that is not on; `restart` when its policy asks for it. */
export async function beginStart(
  control: Control,
  sagas: Sagas,
  tx: Tx,
  vm: StoredRecord<Vm>,
  requestId: string,
  restart = false,
): Promise<OperationRow> {
  const { value } = vm;
  const desired: DesiredState = "running";
  const counted = { ...value.restart, count: value.restart.count + 1, lastMs: tx.nowMs };
  // A worker that is only out of reach may still run it: its disks keep their writer.
  const epochs = value.state === "unknown" || value.state === "paused" ? {} : await freshEpoch(tx, value);
  return begin(control, tx, vm, sagas.vm.start, {
    data: {},
    requestId,
    change: {
      ...epochs,
      desired,
      state: "starting",
      reason: "",
      generation: value.generation + 1,
      ...(restart ? { restart: counted } : {}),
    },
  });
}

export interface MoveWish {
  /** Empty: placement chooses. */
  readonly node: string;
  readonly storage: MigrationStorage | undefined;
  readonly deadlineMs: number;
}

/** How a VM's disks can come along; refuses what cannot. */
export async function storageOf(
  control: Control,
  tx: Tx,
  vm: StoredRecord<Vm>,
  asked: MigrationStorage | undefined,
): Promise<MigrationStorage> {
  const volumes = await Promise.all(vm.value.volumes.map((a) => tx.getById(volumeKind, a.volumeId)));
  const local = volumes.filter((v) => !v.value.shared && !control.volumes.everywhere).map((v) => `volume ${v.name}`);
  if (vm.value.diskBytes > 0) local.unshift("its root disk");
  if (asked === "shared" && local.length > 0) {
    throw fault(
      "failed_precondition",
      "disks_not_shared",
      `Cannot migrate VM ${vm.name} by shared storage as ${local.join(", ")} is a file of its worker: wanted mirror`,
      { field: "storage" },
    );
  }
  return asked ?? (local.length > 0 ? "mirror" : "shared");
}

/** Moves a running VM to another worker. */
export async function beginMigrate(
  control: Control,
  sagas: Sagas,
  tx: Tx,
  vm: StoredRecord<Vm>,
  wish: MoveWish,
  requestId: string,
): Promise<OperationRow> {
  checkIdle(vm, "migrate");
  checkState(vm, "migrate", ["running"]);
  refuseMicrovm(vm, "migrate", movedByHand);
  if (wish.node === vm.value.node) {
    throw fault("failed_precondition", "already_there", `Cannot migrate VM ${vm.name} to ${wish.node} as it is there`, {
      field: "node",
    });
  }
  const storage = await storageOf(control, tx, vm, wish.storage);
  const { epochMax = 0 } = await freshEpoch(tx, vm.value, 1);
  return begin(control, tx, vm, sagas.migrate, {
    data: {
      source: vm.value.node,
      wantedNode: wish.node,
      target: "",
      storage,
      deadlineMs: wish.deadlineMs,
      epoch: epochMax,
      before: vm.value.state,
      targetNics: [],
      targetSources: {},
    },
    requestId,
    change: { state: "migrating", reason: "" },
  });
}
