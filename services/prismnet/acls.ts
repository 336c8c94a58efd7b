import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, type Platform, projectScope, resourceScope, type StoredRecord } from "@ultracloud/platform";
import {
  AclAction,
  AddNetworkAclRuleRequestSchema,
  CreateNetworkAclRequestSchema,
  DeleteNetworkAclRequestSchema,
  DeleteNetworkAclResponseSchema,
  type NetworkAclRule,
  NetworkAclSchema,
  NetworkAclService,
  RemoveNetworkAclRuleRequestSchema,
} from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { checkAclRule, orderRules } from "./domain/acl.ts";
import type { AclRule, NetworkAcl } from "./domain/types.ts";
import { aclKind, subnetKind } from "./kinds.ts";
import { checkDescription } from "./vpcs.ts";
import { type AclInit, fromDirection, fromProtocol, toAcl, views } from "./wire.ts";

function readRule(rule: NetworkAclRule, field: string): AclRule {
  if (rule.action !== AclAction.ALLOW && rule.action !== AclAction.DENY) {
    throw invalidField(`${field}.action`, "Cannot use a rule without action: wanted allow or deny");
  }
  return checkAclRule({
    number: rule.number,
    action: rule.action === AclAction.ALLOW ? "allow" : "deny",
    direction: fromDirection(rule.direction, field),
    protocol: fromProtocol(rule.protocol, field),
    portMin: rule.portMin,
    portMax: rule.portMax === 0 ? rule.portMin : rule.portMax,
    remoteCidr: rule.remoteCidr,
  }, field);
}

export function aclService(platform: Platform): BoundService {
  const scope = (project: string, acl: string) => resourceScope("prismnet", "network_acl", project, acl, "networkAcl");

  function change(
    project: string,
    nameOrId: string,
    next: (acl: StoredRecord<NetworkAcl>) => readonly AclRule[],
    idempotency: ReturnType<typeof idempotencyOf<typeof AddNetworkAclRuleRequestSchema, typeof NetworkAclSchema>>,
  ): Promise<AclInit> {
    return platform.transact<AclInit>(async (tx) => {
      const acl = await tx.get(aclKind, project, nameOrId);
      return toAcl(tx.update(aclKind, acl, { value: { ...acl.value, rules: orderRules(next(acl)) } }));
    }, { idempotency });
  }

  return bind(NetworkAclService, {
    createNetworkAcl(request, context) {
      const name = checkName(request.name, "name");
      const description = checkDescription(request.description, "description");
      const rules = orderRules(request.rules.map((rule, i) => readRule(rule, `rules.${i}`)));
      return platform.transact<AclInit>(async (tx) => {
        const { project, labels } = request;
        return toAcl(await tx.create(aclKind, { project, name, labels, value: { description, rules } }));
      }, { idempotency: idempotencyOf(context, CreateNetworkAclRequestSchema, request, NetworkAclSchema) });
    },
    getNetworkAcl: async (request) => toAcl(await platform.get(aclKind, request.project, request.networkAcl)),
    async listNetworkAcls({ project, page: wanted }) {
      const page = await platform.page(aclKind, { project, page: wanted, view: views.network_acl });
      return { networkAcls: page.items.map(toAcl), page: { nextPageToken: page.nextPageToken } };
    },
    addNetworkAclRule(request, context) {
      const wanted = request.rule;
      if (!wanted) throw invalidField("rule", "Cannot add a rule that is not given");
      const rule = readRule(wanted, "rule");
      const idempotency = idempotencyOf(context, AddNetworkAclRuleRequestSchema, request, NetworkAclSchema);
      return change(request.project, request.networkAcl, (acl) => [...acl.value.rules, rule], idempotency);
    },
    removeNetworkAclRule(request, context) {
      const direction = fromDirection(request.direction, "");
      return change(request.project, request.networkAcl, (acl) => {
        const rules = acl.value.rules.filter((r) => r.number !== request.number || r.direction !== direction);
        if (rules.length < acl.value.rules.length) return rules;
        throw fault(
          "not_found",
          "rule_not_found",
          `Cannot find ${direction} rule ${request.number} in network ACL ${acl.name}`,
        );
      }, idempotencyOf(context, RemoveNetworkAclRuleRequestSchema, request, NetworkAclSchema));
    },
    deleteNetworkAcl(request, context) {
      return platform.transact(async (tx) => {
        const acl = await tx.get(aclKind, request.project, request.networkAcl);
        await tx.guard(acl.id);
        const user = (await platform.list(subnetKind, request.project)).find((s) => s.value.networkAclId === acl.id);
        if (user) {
          throw fault(
            "failed_precondition",
            "network_acl_in_use",
            `Cannot delete network ACL ${acl.name} as subnet ${user.name} uses it: wanted none`,
          );
        }
        tx.remove(aclKind, acl, { etag: request.etag });
        return {};
      }, {
        idempotency: idempotencyOf(context, DeleteNetworkAclRequestSchema, request, DeleteNetworkAclResponseSchema),
      });
    },
  }, {
    createNetworkAcl: { resource: "network_acl", action: "create", scope: (r) => projectScope(r.project) },
    getNetworkAcl: { resource: "network_acl", action: "get", scope: (r) => scope(r.project, r.networkAcl) },
    listNetworkAcls: { resource: "network_acl", action: "list", scope: (r) => projectScope(r.project) },
    addNetworkAclRule: { resource: "network_acl", action: "update", scope: (r) => scope(r.project, r.networkAcl) },
    removeNetworkAclRule: { resource: "network_acl", action: "update", scope: (r) => scope(r.project, r.networkAcl) },
    deleteNetworkAcl: { resource: "network_acl", action: "delete", scope: (r) => scope(r.project, r.networkAcl) },
  });
}
