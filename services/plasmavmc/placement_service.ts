import { checkLabels, invalidField } from "@ultracloud/base";
import { projectScope, type StoredRecord, type Tx } from "@ultracloud/platform";
import { type ExplainPlacementRequest, PlacementService } from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import { type Movable, suggestMoves } from "./domain/moves.ts";
import { judge, place, type Wanted } from "./domain/placement.ts";
import type { Vm } from "./domain/types.ts";
import { groupKind, type GroupMembers, groupMembersKey, vmKind } from "./kinds.ts";
import { flavorOf } from "./names.ts";
import { shareOf } from "./workers.ts";

const movesDefault = 10;
const movesMax = 100;

/** Says where VMs fit and why not elsewhere, and which moves would make a better whole. Changes nothing. */
export function placementService(control: Control): BoundService {
  const { platform, workers } = control;

  async function wantedOf(tx: Tx, request: ExplainPlacementRequest): Promise<Wanted> {
    const { project } = request;
    if (request.vm !== "") {
      const vm = await tx.get(vmKind, project, request.vm);
      const wanted = await control.wantedOf(tx, vm);
      return vm.value.node === "" ? wanted : { ...wanted, not: { [vm.value.node]: "the VM is there" } };
    }
    checkLabels(request.nodeSelector, "nodeSelector");
    const groups = await Promise.all(request.groups.map((group) => tx.get(groupKind, project, group)));
    return {
      resources: await flavorOf(tx, platform, request.flavor === "" ? "tiny" : request.flavor),
      nodeSelector: request.nodeSelector,
      groups: await workers.groupWishes(tx, groups.map((g) => g.id), ""),
    };
  }

  async function movable(tx: Tx, vm: StoredRecord<Vm>): Promise<Movable> {
    const groups = await Promise.all(vm.value.groupIds.map(async (id) => {
      const group = await tx.getById(groupKind, id);
      const members = Object.keys(await tx.row<GroupMembers>(groupMembersKey(id)) ?? {});
      return { name: group.name, ...group.value, members };
    }));
    const { node, nodeSelector } = vm.value;
    return { id: vm.id, name: vm.name, project: vm.project, node, nodeSelector, resources: shareOf(vm.value), groups };
  }

  return bind(PlacementService, {
    explainPlacement: (request) =>
      platform.transact(async (tx) => {
        const wanted = await wantedOf(tx, request);
        const candidates = await workers.candidates();
        const verdicts = judge(candidates, wanted).map(({ name, whyNot, score }) => ({
          node: name,
          fits: whyNot.length === 0,
          score: whyNot.length === 0 ? score : 0,
          whyNot: [...whyNot],
        }));
        return { verdicts, chosen: place(candidates, wanted).chosen?.name ?? "" };
      }),
    async suggestMoves(request) {
      if (request.limit < 0 || request.limit > movesMax) {
        throw invalidField("limit", `Cannot suggest ${request.limit} moves: wanted 0 to ${movesMax}`);
      }
      const running = (await platform.list(vmKind)).filter((vm) =>
        // One that cannot move is no suggestion.
        vm.value.state === "running" && vm.value.operation === "" && vm.value.machineType !== "microvm"
      );
      const plan = await platform.transact(async (tx) => {
        const vms = await Promise.all(running.map((vm) => movable(tx, vm)));
        return suggestMoves(await workers.candidates(), vms, request.limit === 0 ? movesDefault : request.limit);
      });
      return {
        moves: plan.moves.map(({ vm, source, target, reason }) => ({
          project: vm.project,
          vm: vm.name,
          vmId: vm.id,
          source,
          target,
          reason,
        })),
        spreadPercent: plan.spreadPercent,
        spreadAfterPercent: plan.spreadAfterPercent,
      };
    },
  }, {
    explainPlacement: { resource: "vm", action: "create", scope: (r) => projectScope(r.project) },
    suggestMoves: { resource: "node", action: "list", scope: () => "" },
  });
}
