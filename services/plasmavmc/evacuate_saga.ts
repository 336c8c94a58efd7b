import { fault } from "@ultracloud/base";
import type { OperationRow, Saga, StoredRecord } from "@ultracloud/platform";
import type { Control } from "./control.ts";
import type { Vm } from "./domain/types.ts";
import { nodeKind, vmKind, volumeKind } from "./kinds.ts";
import { give, type Outcome, settle, startTimeoutMs, vmSteps } from "./saga_support.ts";
import { freshEpoch } from "./vm_begin.ts";
import { placementTurn, shareOf } from "./workers.ts";

export interface EvacuateData extends Outcome {
  readonly source: string;
  /** A root disk that was on the lost worker is made anew. */
  readonly rebuild: boolean;
}

/** Why a VM cannot leave its lost worker; undefined: it can. */
export function tiedTo(
  vm: Pick<StoredRecord<Vm>, "value">,
  homes: readonly { readonly name: string; readonly node: string; readonly shared: boolean }[],
  o: { readonly rebuild: boolean; readonly poweredOff: boolean },
): string | undefined {
  const { node, diskBytes, nodeLoss } = vm.value;
  if (diskBytes > 0 && !o.rebuild) return "its root disk was a file of the worker: wanted rebuild";
  const file = homes.find((v) => !v.shared || v.node === node);
  if (file) return `volume ${file.name} is on the worker`;
  const stops = nodeLoss === "evacuate" || homes.length > 0;
  if (!stops && !o.poweredOff) return "it keeps running on a worker that is only cut off: wanted powered_off";
  return undefined;
}

/**
 * Starts a VM of a lost worker elsewhere. Its worker has fenced itself by then: it ends such guests before its lease
 * can have run out, and disks refuse the old writer from the new epoch on.
 */
export function evacuateSaga(control: Control, o: { readonly fenceGraceMs: number }): Saga<EvacuateData> {
  const { platform, workers } = control;
  const steps = vmSteps(control);

  async function checkFenced(data: EvacuateData): Promise<void> {
    const node = await platform.findById(nodeKind, data.source);
    const alive = await workers.isAlive(data.source);
    const { lostMs } = node?.value ?? {};
    if (!alive && (!node || (lostMs !== undefined && platform.clock.nowMs() - lostMs >= o.fenceGraceMs))) return;
    throw fault(
      "failed_precondition",
      "node_not_fenced",
      alive
        ? `Cannot evacuate worker ${data.source} as it is alive: wanted it lost`
        : `Cannot evacuate worker ${data.source} yet: wanted ${o.fenceGraceMs} ms without its lease`,
      { retryAfterMs: o.fenceGraceMs },
    );
  }

  const move = (operation: OperationRow, data: EvacuateData) =>
    platform.transact(async (tx) => {
      const vm = await tx.getById(vmKind, operation.target.id);
      if (vm.value.node !== data.source) return;
      const wanted = {
        resources: shareOf(vm.value),
        nodeSelector: vm.value.nodeSelector,
        groups: await workers.groupWishes(tx, vm.value.groupIds, vm.id),
        not: { [data.source]: "it is the lost one" },
      };
      const chosen = workers.choose(`VM ${vm.name}`, wanted, await workers.candidates(tx));
      await workers.reserve(tx, data.source, vm.id, undefined);
      await workers.reserve(tx, chosen.name, vm.id, shareOf(vm.value));
      await workers.noteGroups(tx, vm, chosen.name);
      const epochs = await freshEpoch(tx, vm.value, 1);
      for (const { volumeId } of vm.value.volumes) {
        const volume = await tx.getById(volumeKind, volumeId);
        tx.update(volumeKind, volume, { value: { ...volume.value, writerEpoch: epochs.writerEpoch! } });
      }
      tx.update(vmKind, vm, {
        value: {
          ...vm.value,
          ...epochs,
          node: chosen.name,
          accelerator: chosen.node.accelerator,
          state: "starting",
          generation: vm.value.generation + 1,
          rootEpoch: vm.value.rootEpoch + 1,
        },
      });
    }, placementTurn);

  return {
    kind: "vm.evacuate",
    cancellable: false,
    steps: [
      {
        title: "Fencing the lost worker",
        async do({ data, operation }) {
          if ((await steps.vmOf(operation)).value.node === data.source) await checkFenced(data);
        },
      },
      { title: "Choosing a worker", do: ({ data, operation }) => move(operation, data) },
      {
        title: "Binding ports",
        timeoutMs: 90_000,
        async do({ operation, signal }) {
          const vm = await steps.vmOf(operation);
          if (vm.value.desired === "running") await steps.bindPorts(operation, signal);
        },
      },
      {
        title: "Starting on the worker",
        timeoutMs: startTimeoutMs,
        async do({ operation, signal }): Promise<Partial<EvacuateData>> {
          const vm = await steps.vmOf(operation);
          return vm.value.desired === "running" ? await steps.ensure(operation, signal) : { state: "stopped" };
        },
      },
    ],
    finish: (tx, data, operation) => settle(tx, data, operation, "running"),
    async abandon(tx, data, operation, error) {
      const vm = await tx.findById(vmKind, operation.target.id);
      await give(tx, operation, vm?.value.node === data.source ? "unknown" : "failed", error);
    },
  };
}
