import type { Vm } from "./types.ts";

export const cooldownMsDefault = 60_000;
export const cooldownMsMin = 1_000;
export const cooldownMsMax = 24 * 3600 * 1000;

/**
 * Why a VM is to be started again now by its policy; undefined: it is not. The cool-down counts from the last restart,
 * so a guest that dies at once is started at that pace and no faster.
 */
export function dueRestart(vm: Vm, nowMs: number): string | undefined {
  if (vm.operation !== "" || vm.desired !== "running" || vm.node === "") return undefined;
  const { policy, cooldownMs, lastMs } = vm.restart;
  if (policy === "never") return undefined;
  const wanted = vm.state === "failed" || (policy === "always" && vm.state === "stopped");
  if (!wanted || (lastMs !== undefined && nowMs - lastMs < cooldownMs)) return undefined;
  return vm.reason === "" ? `it is ${vm.state}` : vm.reason;
}
