import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, notFound, type StoredRecord, type Tx } from "@ultracloud/platform";
import {
  AddGroupMemberRequestSchema,
  CreateGroupRequestSchema,
  DeleteGroupRequestSchema,
  DeleteGroupResponseSchema,
  GroupSchema,
  GroupService,
  RemoveGroupMemberRequestSchema,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService, type Principal } from "@ultracloud/rpc";
import { changePolicy, type Core, dropBindingsOf, memberOf } from "./core.ts";
import { orgOrRootScope } from "./domain/scope.ts";
import { type Group, groupKind, principalOf, rowKeys } from "./kinds.ts";
import { orgForChild } from "./orgs.ts";
import { toGroup, views } from "./wire.ts";

/** Each is in the policy every service holds. */
export const membersPerGroupMax = 1_000;
/** Every decision looks at all groups of its principal. */
export const groupsPerPrincipalMax = 32;

export function groupService(core: Core): BoundService {
  const { platform, access } = core;
  const find = (org: string, group: string) => platform.get(groupKind, org, group);
  /** Being in a group is being bound to all its roles, and freed from none of its denies. */
  const requireGroup = async (caller: Principal, group: StoredRecord<Group>) =>
    await access.requireAllOf(caller, principalOf.group(group.id), { denies: true });
  return bind(GroupService, {
    createGroup(request, context) {
      const name = checkName(request.name, "name");
      return changePolicy(core, async (tx) => {
        const project = request.org === "" ? "" : (await orgForChild(tx, request.org)).name;
        return toGroup(await tx.create(groupKind, { project, name, labels: request.labels, value: { members: [] } }));
      }, { idempotency: idempotencyOf(context, CreateGroupRequestSchema, request, GroupSchema) });
    },
    getGroup: async (request) => toGroup(await find(request.org, request.group)),
    async listGroups({ org, page: asked }) {
      const page = await platform.page(groupKind, { project: org, page: asked, view: views.group });
      return { groups: page.items.map(toGroup), page: { nextPageToken: page.nextPageToken } };
    },
    async addGroupMember(request, context) {
      const { principal } = request;
      const { id } = await find(request.org, request.group);
      await requireGroup(context.principal, await find(request.org, id));
      return await changePolicy(core, async (tx) => {
        const group = await tx.get(groupKind, request.org, id);
        const member = await memberOf(tx, request.org, principal);
        if (!member) {
          throw fault(
            "not_found",
            "principal_not_found",
            `Cannot add ${JSON.stringify(principal.slice(0, 80))} as it is not in ${request.org || "the root"}`,
            { field: "principal" },
          );
        }
        if (group.value.members.includes(principal)) return toGroup(group);
        if (group.value.members.length >= membersPerGroupMax) {
          throw invalidField(
            "principal",
            `Cannot keep more than ${membersPerGroupMax} members in a group`,
            "group_full",
          );
        }
        if ((await tx.rows(rowKeys.member(principal))).length >= groupsPerPrincipalMax) {
          throw invalidField(
            "principal",
            `Cannot put a principal into more than ${groupsPerPrincipalMax} groups`,
            "groups_full",
          );
        }
        // Its removal takes it out of its groups: it must not miss this one.
        tx.touch(member.id);
        tx.putRow(rowKeys.member(principal, group.id), {});
        return toGroup(tx.update(groupKind, group, { value: { members: [...group.value.members, principal].sort() } }));
      }, { idempotency: idempotencyOf(context, AddGroupMemberRequestSchema, request, GroupSchema) });
    },
    async removeGroupMember(request, context) {
      const { principal } = request;
      const { id } = await find(request.org, request.group);
      await requireGroup(context.principal, await find(request.org, id));
      return await changePolicy(core, async (tx) => {
        const group = await tx.get(groupKind, request.org, id);
        if (!group.value.members.includes(principal)) throw notFound(groupKind, request.org, request.group);
        return toGroup(leave(tx, group, principal));
      }, { idempotency: idempotencyOf(context, RemoveGroupMemberRequestSchema, request, GroupSchema) });
    },
    async deleteGroup(request, context) {
      const { id } = await find(request.org, request.group);
      await requireGroup(context.principal, await find(request.org, id));
      return await changePolicy(core, async (tx) => {
        const group = await tx.get(groupKind, request.org, id);
        await tx.guard(group.id);
        for (const member of group.value.members) tx.deleteRow(rowKeys.member(member, group.id));
        await dropBindingsOf(tx, principalOf.group(group.id));
        tx.remove(groupKind, group);
        return {};
      }, { idempotency: idempotencyOf(context, DeleteGroupRequestSchema, request, DeleteGroupResponseSchema) });
    },
  }, {
    createGroup: { resource: "group", action: "create", scope: (r) => orgOrRootScope(r.org) },
    getGroup: { resource: "group", action: "get", scope: (r) => orgOrRootScope(r.org) },
    listGroups: { resource: "group", action: "list", scope: (r) => orgOrRootScope(r.org) },
    addGroupMember: { resource: "group", action: "update", scope: (r) => orgOrRootScope(r.org) },
    removeGroupMember: { resource: "group", action: "update", scope: (r) => orgOrRootScope(r.org) },
    deleteGroup: { resource: "group", action: "delete", scope: (r) => orgOrRootScope(r.org) },
  });
}

/** Takes a principal out of a group. */
function leave(tx: Tx, group: StoredRecord<Group>, principal: string): StoredRecord<Group> {
  tx.deleteRow(rowKeys.member(principal, group.id));
  return tx.update(groupKind, group, { value: { members: group.value.members.filter((m) => m !== principal) } });
}

/** Takes a principal that is removed out of all its groups. */
export async function leaveGroups(tx: Tx, principal: string): Promise<void> {
  const prefix = rowKeys.member(principal);
  for (const { key } of await tx.rows(prefix)) {
    const group = await tx.findById(groupKind, key.slice(prefix.length));
    if (group) leave(tx, group, principal);
  }
}
