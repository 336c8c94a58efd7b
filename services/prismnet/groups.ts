import { checkName, fault, invalidField } from "@ultracloud/base";
import {
  idempotencyOf,
  type Platform,
  projectScope,
  resourceScope,
  type StoredRecord,
  type Tx,
} from "@ultracloud/platform";
import {
  AddRuleRequestSchema,
  CreateSecurityGroupRequestSchema,
  DeleteSecurityGroupRequestSchema,
  DeleteSecurityGroupResponseSchema,
  RemoveRuleRequestSchema,
  type SecurityGroupRule,
  SecurityGroupSchema,
  SecurityGroupService,
} from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { checkRule, egressRule, rulesPerGroupMax, sameRule, withoutRule } from "./domain/rules.ts";
import type { Rule, SecurityGroup } from "./domain/types.ts";
import { type Engine, requireFeature } from "./engine.ts";
import { groupKind, groupUseKey } from "./kinds.ts";
import { refreshGroup } from "./ports_core.ts";
import { checkDescription } from "./vpcs.ts";
import { fromRule, type GroupInit, toGroup, views } from "./wire.ts";

export function groupService(platform: Platform, engine: Engine): BoundService {
  const scope = (project: string, group: string) =>
    resourceScope("prismnet", "security_group", project, group, "securityGroup");

  /** The rule checked, its peer group present in the project. */
  async function readRule(tx: Tx, project: string, rule: SecurityGroupRule, field: string): Promise<Rule> {
    const checked = checkRule(fromRule(rule, tx.newId("rule"), field), field);
    if (checked.remoteGroupId === "") return checked;
    const peer = await tx.find(groupKind, project, checked.remoteGroupId);
    if (!peer || peer.id !== checked.remoteGroupId) {
      throw invalidField(
        `${field}.remoteGroupId`,
        `Cannot find security group ${JSON.stringify(checked.remoteGroupId.slice(0, 80))} in ${project}`,
        "security_group_not_found",
      );
    }
    return checked;
  }

  /** Notes which groups this one's rules name. */
  function noteRules(tx: Tx, id: string, before: readonly Rule[], after: readonly Rule[]): void {
    const peers = (rules: readonly Rule[]) => new Set(rules.map((r) => r.remoteGroupId).filter((r) => r && r !== id));
    const now = peers(after);
    for (const peer of peers(before)) if (!now.has(peer)) tx.deleteRow(groupUseKey(peer, id));
    for (const peer of now) {
      tx.putRow(groupUseKey(peer, id), id);
      tx.touch(peer);
    }
  }

  function checkCount(count: number): void {
    if (count <= rulesPerGroupMax) return;
    throw fault(
      "resource_exhausted",
      "rules_exceeded",
      `Cannot keep ${count} rules in a security group: wanted at most ${rulesPerGroupMax}`,
    );
  }

  /** Writes the rules, then brings running ports up to them. A crash in between is healed by the reconciler. */
  async function change(
    project: string,
    nameOrId: string,
    next: (tx: Tx, group: StoredRecord<SecurityGroup>) => Promise<Pick<SecurityGroup, "rules" | "ending">>,
    idempotency: ReturnType<typeof idempotencyOf<typeof RemoveRuleRequestSchema, typeof SecurityGroupSchema>>,
  ): Promise<GroupInit> {
    let id = "";
    const answer = await platform.transact<GroupInit>(async (tx) => {
      const group = await tx.get(groupKind, project, nameOrId);
      id = group.id;
      const { rules, ending = [] } = await next(tx, group);
      noteRules(tx, group.id, group.value.rules, rules);
      return toGroup(tx.update(groupKind, group, { value: { ...group.value, rules, ending } }));
    }, { idempotency });
    if (id !== "") await refreshGroup(platform, engine, id);
    return answer;
  }

  return bind(SecurityGroupService, {
    createSecurityGroup(request, context) {
      const name = checkName(request.name, "name");
      const description = checkDescription(request.description, "description");
      checkCount(request.rules.length);
      return platform.transact<GroupInit>(async (tx) => {
        const rules: Rule[] = [];
        for (const [i, rule] of request.rules.entries()) {
          rules.push(await readRule(tx, request.project, rule, `rules.${i}`));
        }
        if (rules.length === 0) rules.push(egressRule(tx.newId("rule")));
        const value: SecurityGroup = { description, rules };
        const group = await tx.create(groupKind, { project: request.project, name, labels: request.labels, value });
        noteRules(tx, group.id, [], rules);
        return toGroup(group);
      }, { idempotency: idempotencyOf(context, CreateSecurityGroupRequestSchema, request, SecurityGroupSchema) });
    },
    getSecurityGroup: async (request) => toGroup(await platform.get(groupKind, request.project, request.securityGroup)),
    async listSecurityGroups(request) {
      const page = await platform.page(groupKind, {
        project: request.project,
        page: request.page,
        view: views.security_group,
      });
      return { securityGroups: page.items.map(toGroup), page: { nextPageToken: page.nextPageToken } };
    },
    addRule(request, context) {
      const wanted = request.rule;
      if (!wanted) throw invalidField("rule", "Cannot add a rule that is not given");
      return change(request.project, request.securityGroup, async (tx, group) => {
        const rule = await readRule(tx, request.project, wanted, "rule");
        if (group.value.rules.some((present) => sameRule(present, rule))) {
          throw fault(
            "already_exists",
            "rule_exists",
            `Cannot add the rule to security group ${group.name} as it is there already`,
            { field: "rule" },
          );
        }
        checkCount(group.value.rules.length + 1);
        return { ...group.value, rules: [...group.value.rules, rule] };
      }, idempotencyOf(context, AddRuleRequestSchema, request, SecurityGroupSchema));
    },
    removeRule(request, context) {
      if (request.letFlowsEnd) requireFeature(engine, "east_west", "let the connections of a rule end");
      return change(request.project, request.securityGroup, (tx, group) => {
        const { rules, ending } = withoutRule(group.value, request.ruleId, request.letFlowsEnd, tx.nowMs);
        if (rules.length < group.value.rules.length) return Promise.resolve({ rules, ending });
        throw fault(
          "not_found",
          "rule_not_found",
          `Cannot find rule ${JSON.stringify(request.ruleId.slice(0, 80))} in security group ${group.name}`,
        );
      }, idempotencyOf(context, RemoveRuleRequestSchema, request, SecurityGroupSchema));
    },
    deleteSecurityGroup(request, context) {
      return platform.transact(async (tx) => {
        const group = await tx.get(groupKind, request.project, request.securityGroup);
        await tx.guard(group.id);
        const [use] = await platform.kv.scan("rows", { prefix: groupUseKey(group.id), limit: 1 });
        if (use) {
          const user = use.key.slice(groupUseKey(group.id).length);
          throw fault(
            "failed_precondition",
            "security_group_in_use",
            `Cannot delete security group ${group.name} as ${user} uses it: wanted no ports and no rules with it`,
          );
        }
        noteRules(tx, group.id, group.value.rules, []);
        tx.remove(groupKind, group, { etag: request.etag });
        return {};
      }, {
        idempotency: idempotencyOf(
          context,
          DeleteSecurityGroupRequestSchema,
          request,
          DeleteSecurityGroupResponseSchema,
        ),
      });
    },
  }, {
    createSecurityGroup: { resource: "security_group", action: "create", scope: (r) => projectScope(r.project) },
    getSecurityGroup: { resource: "security_group", action: "get", scope: (r) => scope(r.project, r.securityGroup) },
    listSecurityGroups: { resource: "security_group", action: "list", scope: (r) => projectScope(r.project) },
    addRule: { resource: "security_group", action: "update", scope: (r) => scope(r.project, r.securityGroup) },
    removeRule: { resource: "security_group", action: "update", scope: (r) => scope(r.project, r.securityGroup) },
    deleteSecurityGroup: {
      resource: "security_group",
      action: "delete",
      scope: (r) => scope(r.project, r.securityGroup),
    },
  });
}
