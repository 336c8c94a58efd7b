import type { Platform, StoredRecord } from "@ultracloud/platform";
import { toFault } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import { type Change, lost, missing, observe } from "./domain/observe.ts";
import { dueRestart } from "./domain/restart.ts";
import type { Node, Vm } from "./domain/types.ts";
import { nodeKind, snapshotKind, vmKind, volumeKind } from "./kinds.ts";
import { beginEvacuate } from "./node_sagas.ts";
import type { Sagas } from "./sagas.ts";
import { beginStart, ownRequest } from "./vm_begin.ts";
import { fromObservation } from "./wire.ts";
import type { AgentClient } from "./workers.ts";

/** Restarts by policy under way at once, so that a returning worker is not buried. */
const restartsAtOnce = 16;
const askTimeoutMs = 5_000;

export interface ReconcileOptions {
  readonly settleMs: number;
  /** How long after the loss of its lease a worker is held to have ended its guests. */
  readonly fenceGraceMs: number;
}

/**
 * Applies what an observation changes. Fresh records are left alone for `settleMs`: an observation may be older than
 * the operation that has just ended, and the next one will tell.
 */
export async function changeVm(
  platform: Platform,
  seen: StoredRecord<Vm>,
  decide: (vm: Vm) => Change | undefined,
  settleMs: number,
): Promise<void> {
  const stands = (vm: StoredRecord<Vm>) =>
    platform.clock.nowMs() - vm.updateMs >= settleMs ? decide(vm.value) : undefined;
  if (!stands(seen)) return;
  await platform.transact(async (tx) => {
    const vm = await tx.findById(vmKind, seen.id);
    const change = vm && stands(vm);
    if (change) tx.update(vmKind, vm, { value: { ...vm.value, ...change } });
  });
}

/**
 * One look at the world: VMs of lost workers become unknown or are evacuated, VMs their workers do not have failed,
 * policies are followed, and what workers hold without being asked is removed. Heals whatever a dead process, a lost
 * heartbeat or a returning worker left.
 */
export async function reconcileOnce(
  control: Control,
  sagas: Sagas,
  o: ReconcileOptions,
  signal: AbortSignal,
): Promise<void> {
  const { platform, workers } = control;
  const alive = await workers.leases.alive();
  // Read before workers are asked: a VM made in between is on no worker's list yet and in none of these.
  const vms = await platform.list(vmKind);
  for (const vm of vms) {
    signal.throwIfAborted();
    if (vm.value.node !== "" && !alive.has(vm.value.node)) await changeVm(platform, vm, lost, o.settleMs);
  }
  await restartByPolicy(control, sagas, vms, alive);
  for (const node of await platform.list(nodeKind)) {
    signal.throwIfAborted();
    await noteLoss(platform, node, alive.has(node.name));
    if (!alive.has(node.name)) {
      await evacuateByPolicy(control, sagas, node, vms, o);
      continue;
    }
    try {
      await compare(control, node.name, vms, o, signal);
    } catch (error) {
      if (signal.aborted) return;
      platform.log.warn("cannot compare with a worker", { node: node.name, error: String(error) });
    }
  }
}

/** Keeps when a worker was first seen without its lease. */
async function noteLoss(platform: Platform, node: StoredRecord<Node>, alive: boolean): Promise<void> {
  if (alive === (node.value.lostMs === undefined)) return;
  await platform.transact(async (tx) => {
    const current = await tx.findById(nodeKind, node.id);
    if (!current || alive === (current.value.lostMs === undefined)) return;
    const { lostMs: _, ...rest } = current.value;
    tx.update(nodeKind, current, { value: alive ? rest : { ...rest, lostMs: tx.nowMs } });
  });
}

async function restartByPolicy(
  control: Control,
  sagas: Sagas,
  vms: readonly StoredRecord<Vm>[],
  alive: ReadonlySet<string>,
): Promise<void> {
  const { platform } = control;
  let room = restartsAtOnce - vms.filter((vm) => vm.value.state === "starting" && vm.value.operation !== "").length;
  for (const vm of vms) {
    if (room <= 0) return;
    if (!alive.has(vm.value.node) || dueRestart(vm.value, platform.clock.nowMs()) === undefined) continue;
    await platform.transact(async (tx) => {
      const current = await tx.findById(vmKind, vm.id);
      const why = current && dueRestart(current.value, tx.nowMs);
      if (!current || why === undefined) return;
      await beginStart(control, sagas, tx, current, ownRequest, true);
      tx.afterCommit(() => platform.log.info("VM is restarted by its policy", { vm: vm.id, reason: why }));
    });
    room--;
  }
}

async function evacuateByPolicy(
  control: Control,
  sagas: Sagas,
  node: StoredRecord<Node>,
  vms: readonly StoredRecord<Vm>[],
  o: ReconcileOptions,
): Promise<void> {
  const { platform } = control;
  const { lostMs } = node.value;
  if (lostMs === undefined || platform.clock.nowMs() - lostMs < o.fenceGraceMs) return;
  for (const vm of vms) {
    if (vm.value.node !== node.name || vm.value.nodeLoss !== "evacuate" || vm.value.operation !== "") continue;
    if (vm.value.desired !== "running") continue;
    const why = await beginEvacuate(control, sagas, vm.id, { rebuild: false, poweredOff: false }, ownRequest);
    if (why === undefined) continue;
    const reason = `worker ${node.name} is lost, and it cannot be started elsewhere: ${why}`;
    await changeVm(
      platform,
      vm,
      (v) => v.reason === reason || v.operation !== "" ? undefined : { state: "unknown", reason },
      0,
    );
  }
}

/** Compares one worker with the records. */
async function compare(
  control: Control,
  node: string,
  vms: readonly StoredRecord<Vm>[],
  o: ReconcileOptions,
  signal: AbortSignal,
): Promise<void> {
  const { platform } = control;
  const agent = await control.workers.agentOf(node);
  const found = (await agent.listVms({}, { signal, timeoutMs: askTimeoutMs })).vms.map(fromObservation);
  const byId = new Map(found.map((observed) => [observed.vmId, observed]));
  for (const vm of vms.filter((v) => v.value.node === node)) {
    const observed = byId.get(vm.id);
    const decide = (value: Vm) => observed ? observe(value, node, observed) : missing(value, node);
    await changeVm(platform, vm, decide, o.settleMs);
  }
  for (const observed of found) {
    // Asked again: the list above may be older than the VM. One that moves is its operation's business.
    const vm = await platform.findById(vmKind, observed.vmId);
    if (vm && (vm.value.node === node || vm.value.node === "" || vm.value.operation !== "")) continue;
    platform.log.warn("worker has a VM that is not its own: removing it", { vm: observed.vmId, node });
    await agent.deleteVm({ vmId: observed.vmId }, { signal, timeoutMs: 60_000 });
  }
  await compareVolumes(control, agent, node, signal);
  await compareSnapshots(control, agent, node, signal);
}

/** Removes volumes whose record is gone or on another worker. */
async function compareVolumes(control: Control, agent: AgentClient, node: string, signal: AbortSignal): Promise<void> {
  const { platform } = control;
  if (control.volumes.everywhere) return;
  const found = await known(agent.listVolumes({}, { signal, timeoutMs: askTimeoutMs }));
  for (const { volumeId } of found?.volumes ?? []) {
    const record = await platform.findById(volumeKind, volumeId);
    if (record && (record.value.node === node || record.value.node === "" || record.value.operation !== "")) continue;
    // A migration's mirror stands on its target before the record says so.
    const vm = record && record.value.vmId !== "" ? await platform.findById(vmKind, record.value.vmId) : undefined;
    if (vm && vm.value.operation !== "") continue;
    platform.log.warn("worker has a volume that is not its own: removing it", { volume: volumeId, node });
    await agent.unexportVolume({ volumeId, writerEpoch: 0n }, { signal, timeoutMs: 60_000 });
    await agent.deleteVolume({ volumeId }, { signal, timeoutMs: 60_000 });
  }
}

/** Removes copies whose record is gone. */
async function compareSnapshots(
  control: Control,
  agent: AgentClient,
  node: string,
  signal: AbortSignal,
): Promise<void> {
  const { platform } = control;
  const found = await known(agent.listSnapshots({}, { signal, timeoutMs: askTimeoutMs }));
  for (const { snapshotId } of found?.snapshots ?? []) {
    if (await platform.findById(snapshotKind, snapshotId)) continue;
    platform.log.warn("worker has a snapshot nobody knows: removing it", { snapshot: snapshotId, node });
    await agent.deleteSnapshot({ snapshotId }, { signal, timeoutMs: 60_000 });
  }
}

/** An agent of an earlier version lists none of what it cannot have. */
async function known<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (toFault(error).kind === "unimplemented") return undefined;
    throw error;
  }
}
