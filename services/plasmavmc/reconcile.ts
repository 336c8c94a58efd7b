import type { Platform, StoredRecord } from "@ultracloud/platform";
import type { Control } from "./control.ts";
import { type Change, lost, missing, observe } from "./domain/observe.ts";
import type { Vm } from "./domain/types.ts";
import { nodeKind, vmKind } from "./kinds.ts";
import { fromObservation } from "./wire.ts";

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
 * One look at the world: VMs of lost workers become unknown, VMs their workers do not have failed, and what workers run
 * without being asked is removed. Heals whatever a dead process, a lost heartbeat or a returning worker left.
 */
export async function reconcileOnce(control: Control, o: { settleMs: number }, signal: AbortSignal): Promise<void> {
  const { platform } = control;
  const alive = await control.leases.alive();
  // Read before workers are asked: a VM made in between is on no worker's list yet and in none of these.
  const vms = await platform.list(vmKind);
  for (const vm of vms) {
    signal.throwIfAborted();
    if (vm.value.node !== "" && !alive.has(vm.value.node)) await changeVm(platform, vm, lost, o.settleMs);
  }
  for (const node of await platform.list(nodeKind)) {
    signal.throwIfAborted();
    if (!alive.has(node.name)) continue;
    try {
      const agent = await control.agentOf(node.name);
      const found = (await agent.listVms({}, { signal, timeoutMs: 5_000 })).vms.map(fromObservation);
      const byId = new Map(found.map((observed) => [observed.vmId, observed]));
      for (const vm of vms.filter((v) => v.value.node === node.name)) {
        const observed = byId.get(vm.id);
        const decide = (value: Vm) => observed ? observe(value, node.name, observed) : missing(value, node.name);
        await changeVm(platform, vm, decide, o.settleMs);
      }
      for (const observed of found) {
        // Asked again: the list above may be older than the VM.
        const vm = await platform.findById(vmKind, observed.vmId);
        if (vm && (vm.value.node === node.name || vm.value.node === "")) continue;
        platform.log.warn("worker has a VM that is not its own: removing it", { vm: observed.vmId, node: node.name });
        await agent.deleteVm({ vmId: observed.vmId }, { signal, timeoutMs: 60_000 });
      }
    } catch (error) {
      if (signal.aborted) return;
      platform.log.warn("cannot compare with a worker", { node: node.name, error: String(error) });
    }
  }
}
