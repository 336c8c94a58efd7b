import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, maskedFields, type StoredRecord, type Tx } from "@ultracloud/platform";
import {
  CreateOrgRequestSchema,
  DeleteOrgRequestSchema,
  DeleteOrgResponseSchema,
  OrgSchema,
  OrgService,
  UpdateOrgRequestSchema,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { changePolicy, type Core, dropBindingsAt, dropBindingsOf } from "./core.ts";
import { orgScope } from "./domain/scope.ts";
import { clientKind, groupKind, type Org, orgKind, principalOf, projectKind, roleKind, userKind } from "./kinds.ts";
import { toOrg, views } from "./wire.ts";

const displayNameCharsMax = 128;

export function checkDisplayName(text: string, field: string): string {
  if (text.length <= displayNameCharsMax) return text;
  throw invalidField(field, `Cannot keep ${text.length} characters: wanted at most ${displayNameCharsMax}`);
}

/** The organisation a new member goes into; its removal meanwhile makes the transaction start again. */
export async function orgForChild(tx: Tx, org: string): Promise<StoredRecord<Org>> {
  const record = await tx.get(orgKind, "", org);
  tx.touch(record.id);
  return record;
}

export function orgService(core: Core): BoundService {
  const { platform, access } = core;
  return bind(OrgService, {
    createOrg(request, context) {
      const name = checkName(request.name, "name");
      const displayName = checkDisplayName(request.displayName, "displayName");
      return platform.transact(
        async (tx) =>
          toOrg(await tx.create(orgKind, { project: "", name, labels: request.labels, value: { displayName } })),
        { idempotency: idempotencyOf(context, CreateOrgRequestSchema, request, OrgSchema) },
      );
    },
    getOrg: async (request) => toOrg(await platform.get(orgKind, "", request.org)),
    async listOrgs(request, { principal }) {
      const all = await access.allowed(principal, "iam.org.list", "");
      const seen = new Set<string>();
      if (!all) {
        for (const { binding, permissions } of core.policy.present().grantsOf(principal.id)) {
          const org = binding.scope.split("/")[0]!;
          // Whoever has anything in an organisation may know that it is there.
          if (!binding.deny && permissions.length > 0) seen.add(org);
        }
      }
      const page = await platform.page(orgKind, {
        project: "",
        page: request.page,
        view: views.org,
        where: (org) => all || seen.has(org.name),
      });
      return { orgs: page.items.map(toOrg), page: { nextPageToken: page.nextPageToken } };
    },
    updateOrg(request, context) {
      const fields = maskedFields(request.updateMask, ["displayName", "labels"]);
      const displayName = checkDisplayName(request.value?.displayName ?? "", "value.displayName");
      return platform.transact(async (tx) => {
        const org = await tx.get(orgKind, "", request.org);
        return toOrg(tx.update(orgKind, org, {
          etag: request.etag,
          ...(fields.has("displayName") ? { value: { displayName } } : {}),
          ...(fields.has("labels") ? { labels: request.value?.meta?.labels ?? {} } : {}),
        }));
      }, { idempotency: idempotencyOf(context, UpdateOrgRequestSchema, request, OrgSchema) });
    },
    deleteOrg(request, context) {
      return changePolicy(core, async (tx) => {
        const org = await tx.get(orgKind, "", request.org);
        await tx.guard(org.id);
        for (const [kind, title] of [[projectKind, "project"], [userKind, "user"]] as const) {
          const member = (await tx.list<unknown>(kind, org.name))[0];
          if (!member) continue;
          throw fault(
            "failed_precondition",
            "org_not_empty",
            `Cannot delete organisation ${org.name} as ${title} ${member.name} is in it: wanted none`,
          );
        }
        for (const role of await tx.list(roleKind, org.name)) tx.remove(roleKind, role);
        for (const client of await tx.list(clientKind, org.name)) tx.remove(clientKind, client);
        for (const group of await tx.list(groupKind, org.name)) {
          await dropBindingsOf(tx, principalOf.group(group.id));
          tx.remove(groupKind, group);
        }
        await dropBindingsAt(tx, org.name);
        tx.remove(orgKind, org, { etag: request.etag });
        return {};
      }, { idempotency: idempotencyOf(context, DeleteOrgRequestSchema, request, DeleteOrgResponseSchema) });
    },
  }, {
    createOrg: { resource: "org", action: "create", scope: () => "" },
    getOrg: { resource: "org", action: "get", scope: (r) => orgScope(r.org) },
    listOrgs: { authenticated: "answers only the organisations the caller has something in" },
    updateOrg: { resource: "org", action: "update", scope: (r) => orgScope(r.org) },
    deleteOrg: { resource: "org", action: "delete", scope: (r) => orgScope(r.org) },
  });
}
