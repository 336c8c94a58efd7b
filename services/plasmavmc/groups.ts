import { checkLabels, checkName, fault, invalidField } from "@ultracloud/base";
import {
  idempotencyOf,
  type Platform,
  projectScope,
  resourceScope,
  type StoredRecord,
  type Tx,
} from "@ultracloud/platform";
import {
  CreatePlacementGroupRequestSchema,
  DeletePlacementGroupResponseSchema,
  PlacementGroupRequestSchema,
  PlacementGroupSchema,
  PlacementGroupService,
} from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { PlacementGroup } from "./domain/types.ts";
import { groupKind, type GroupMembers, groupMembersKey } from "./kinds.ts";
import { fromStrictness, toGroup } from "./wire_storage.ts";

/** Placement groups of a project: VMs that are kept apart. */
export function placementGroupService(platform: Platform): BoundService {
  const scope = (project: string, group: string) =>
    resourceScope("plasmavmc", "placement_group", project, group, "group");
  const membersOf = (tx: Tx, id: string) => tx.row<GroupMembers>(groupMembersKey(id)).then((row) => row ?? {});
  const view = async (tx: Tx, record: StoredRecord<PlacementGroup>) =>
    toGroup(record, Object.keys(await membersOf(tx, record.id)));

  return bind(PlacementGroupService, {
    createPlacementGroup(request, context) {
      const name = checkName(request.name, "name");
      checkLabels(request.labels);
      const { project, labels, domainLabel } = request;
      if (!/^([a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?)?$/.test(domainLabel)) {
        throw invalidField("domainLabel", `Cannot use ${JSON.stringify(domainLabel.slice(0, 80))} as a label key`);
      }
      const value = { strictness: fromStrictness(request.strictness), domainLabel };
      return platform.transact(
        async (tx) => toGroup(await tx.create(groupKind, { project, name, labels, value }), []),
        { idempotency: idempotencyOf(context, CreatePlacementGroupRequestSchema, request, PlacementGroupSchema) },
      );
    },
    getPlacementGroup: (request) =>
      platform.transact(async (tx) => view(tx, await tx.get(groupKind, request.project, request.group))),
    async listPlacementGroups(request) {
      const page = await platform.page(groupKind, { project: request.project, page: request.page });
      const groups = await platform.transact((tx) => Promise.all(page.items.map((record) => view(tx, record))));
      return { groups, page: { nextPageToken: page.nextPageToken } };
    },
    deletePlacementGroup: (request, context) =>
      platform.transact(async (tx) => {
        const group = await tx.get(groupKind, request.project, request.group);
        const members = Object.keys(await membersOf(tx, group.id));
        if (members.length > 0) {
          throw fault(
            "failed_precondition",
            "group_in_use",
            `Cannot delete group ${group.name} as ${members.length} VMs are in it: wanted none`,
          );
        }
        tx.remove(groupKind, group);
        tx.deleteRow(groupMembersKey(group.id));
        return {};
      }, {
        idempotency: idempotencyOf(context, PlacementGroupRequestSchema, request, DeletePlacementGroupResponseSchema),
      }),
  }, {
    createPlacementGroup: { resource: "placement_group", action: "create", scope: (r) => projectScope(r.project) },
    getPlacementGroup: { resource: "placement_group", action: "get", scope: (r) => scope(r.project, r.group) },
    listPlacementGroups: { resource: "placement_group", action: "list", scope: (r) => projectScope(r.project) },
    deletePlacementGroup: { resource: "placement_group", action: "delete", scope: (r) => scope(r.project, r.group) },
  });
}
