import type { Observation, Vm, VmState } from "./types.ts";

/** What an observation changes in a VM. */
export interface Change {
  readonly state: VmState;
  readonly reason: string;
  readonly startedMs?: number;
}

/** States only the controller gives: while one stands an operation is at work or has yet to clean up. */
const controllerStates = new Set<VmState>(["pending", "deleting", "migrating"]);

/** Why a running or stopped VM is not as asked, when the worker says nothing itself. */
function reasonOf(vm: Vm, observed: Observation): string {
  if (observed.reason !== "") return observed.reason;
  if (vm.desired === "running" && observed.state === "stopped") return "the guest has shut down";
  return "";
}

/**
 * What the worker's view of a VM changes; undefined when nothing. Operations have the last word on VMs they hold, and
 * a VM of another worker is none of this one's business.
 */
export function observe(vm: Vm, node: string, observed: Observation): Change | undefined {
  if (vm.operation !== "" || vm.node !== node || controllerStates.has(vm.state)) return undefined;
  const next: Change = {
    state: observed.state,
    reason: reasonOf(vm, observed),
    ...(observed.startedMs === undefined ? {} : { startedMs: observed.startedMs }),
  };
  const same = next.state === vm.state && next.reason === vm.reason &&
    (next.startedMs === undefined || next.startedMs === vm.startedMs);
  return same ? undefined : next;
}

/** What it means that a worker does not know a VM that is placed on it. */
export function missing(vm: Vm, node: string): Change | undefined {
  if (vm.operation !== "" || vm.node !== node || controllerStates.has(vm.state)) return undefined;
  const reason = `worker ${node} does not have the VM`;
  return vm.state === "failed" && vm.reason === reason ? undefined : { state: "failed", reason };
}

/** What it means that a worker's heartbeats have stopped: nobody knows, so nobody claims to. */
export function lost(vm: Vm): Change | undefined {
  if (vm.operation !== "" || vm.node === "" || controllerStates.has(vm.state) || vm.state === "unknown") {
    return undefined;
  }
  return { state: "unknown", reason: `worker ${vm.node} is lost` };
}
