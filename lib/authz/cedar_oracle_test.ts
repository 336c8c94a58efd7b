import assert from "node:assert/strict";
import { preparsePolicySet, statefulIsAuthorized } from "@cedar-policy/cedar-wasm/nodejs";
import { type Rng, seededRng } from "@ultracloud/base";
import {
  attributeOf,
  builtinPermissions,
  type Condition,
  conditionNumberPattern,
  type DecisionContext,
  PolicyIndex,
  type PolicySnapshot,
  scopeChain,
} from "./mod.ts";

const policySets = 500;
const questionsPerSet = 50;

/** Random choices that a seed repeats. */
function chooser(rng: Rng) {
  const below = (n: number) => {
    const [a, b, c] = rng.fill(new Uint8Array(3));
    return (a! * 65_536 + b! * 256 + c!) % n;
  };
  const one = <T>(items: readonly T[]): T => items[below(items.length)]!;
  const some = <T>(max: number, make: () => T): T[] => Array.from({ length: below(max + 1) }, make);
  return { below, one, some };
}
type Chooser = ReturnType<typeof chooser>;

const scopes = [
  "",
  "o",
  "o/p",
  "o/q",
  "r",
  "r/p",
  "o/p/plasmavmc/vm/web",
  "o/p/plasmavmc/vm/db",
  "o/q/prismnet/port/web",
];
const users = ["user:1", "user:2", "service_account:3"];
const groups = ["group:g", "group:h"];
const keys = ["time", "resource.service", "resource.kind", "resource.name", "context.env"];
const texts = ["web", "w", "plasmavmc", "vm", "5", "15"];

function randomCondition({ one, some }: Chooser): Condition {
  const key = one(keys);
  const operator = key === "time"
    ? one(["before", "after"] as const)
    : one(["equals", "not_equals", "starts_with", "before"] as const);
  const value = () => operator === "before" || operator === "after" ? one(["5", "10", "15"]) : one(texts);
  return { key, operator, values: [value(), ...some(1, value)] };
}

function randomSnapshot(c: Chooser): PolicySnapshot {
  const part = () => c.one(["a", "b", "*"]);
  const permission = () => `${part()}.${part()}.${c.one(["x", "get", "*"])}`;
  const roles = ["o", "r"].flatMap((org) =>
    ["x", "y"].map((name) => ({ name, org, permissions: [permission(), ...c.some(2, permission)] }))
  );
  return {
    version: 1,
    issuedAtMs: 0,
    issuer: "i",
    keys: [],
    roles,
    bindings: c.some(9, () => c.below(1 << 24)).map((n, i) => ({
      id: `bind_${i}_${n}`,
      principal: c.one([...users, ...groups]),
      role: c.one(["x", "y", "viewer", "admin", "iam.viewer"]),
      scope: c.one(scopes),
      deny: c.below(4) === 0,
      ...(c.below(3) === 0 ? { conditions: [randomCondition(c), ...c.some(1, () => randomCondition(c))] } : {}),
    })),
    groups: Object.fromEntries(groups.map((g) => [g, users.filter(() => c.below(3) === 0)])),
    boundaries: Object.fromEntries(users.filter(() => c.below(4) === 0).map((u) => [u, [permission(), permission()]])),
    revokedBefore: {},
  };
}

const text = (value: string) => JSON.stringify(value);
const named = (key: string) => key.replace(".", "_");

/** The pattern as a Cedar expression over the parts of the action. */
function matches(pattern: string): string {
  const parts = pattern.split(".").flatMap((part, i) => part === "*" ? [] : [`context.p${i} == ${text(part)}`]);
  return parts.length === 0 ? "true" : `(${parts.join(" && ")})`;
}

const anyOf = (patterns: readonly string[]) => patterns.length === 0 ? "false" : patterns.map(matches).join(" || ");

/** A condition as Cedar has it: an attribute that is not there counts against the caller. */
function holds({ key, operator, values }: Condition, deny: boolean): string {
  const numeric = operator === "before" || operator === "after";
  const attribute = `${numeric ? "n" : "s"}_${named(key)}`;
  const each = values.map((value) => {
    switch (operator) {
      case "equals":
        return `context.${attribute} == ${text(value)}`;
      case "not_equals":
        return `context.${attribute} != ${text(value)}`;
      case "starts_with":
        return `context.${attribute} like ${text(`${value}*`)}`;
      case "before":
        return `context.${attribute} < ${value}`;
      case "after":
        return `context.${attribute} > ${value}`;
    }
  }).join(operator === "not_equals" ? " && " : " || ");
  return deny ? `(!(context has ${attribute}) || (${each}))` : `(context has ${attribute} && (${each}))`;
}

function toCedar(snapshot: PolicySnapshot): Record<string, string> {
  const policies: Record<string, string> = {};
  for (const { id, principal, role, scope, deny, conditions } of snapshot.bindings) {
    const permissions = builtinPermissions(role) ??
      snapshot.roles.find((r) => r.name === role && r.org === scope.split("/")[0])?.permissions ?? [];
    const who = principal.startsWith("group:")
      ? `principal in Group::${text(principal)}`
      : `principal == User::${text(principal)}`;
    const when = [`(${anyOf(permissions)})`, ...(conditions ?? []).map((condition) => holds(condition, deny))].join(
      " && ",
    );
    policies[id] = `${deny ? "forbid" : "permit"}(${who}, action, resource in Scope::${text(scope)}) when { ${when} };`;
  }
  for (const [principal, permissions] of Object.entries(snapshot.boundaries ?? {})) {
    policies[`boundary ${principal}`] = `forbid(principal == User::${text(principal)}, action, resource) unless { ${
      anyOf(permissions)
    } };`;
  }
  return policies;
}

function cedarQuestion(snapshot: PolicySnapshot, name: string, q: Question) {
  const context: Record<string, string | number> = {};
  q.permission.split(".").forEach((part, i) => context[`p${i}`] = part);
  for (const key of keys) {
    const value = attributeOf(key, q.scope, q.context);
    if (value === undefined) continue;
    context[`s_${named(key)}`] = value;
    if (conditionNumberPattern.test(value)) context[`n_${named(key)}`] = Number(value);
  }
  const chain = scopeChain(q.scope);
  const scope = (id: string) => ({ type: "Scope", id });
  const memberships = Object.entries(snapshot.groups!).filter(([, members]) => members.includes(q.principal)).map((
    [id],
  ) => ({ type: "Group", id }));
  return statefulIsAuthorized({
    principal: { type: "User", id: q.principal },
    action: { type: "Action", id: "do" },
    resource: scope(q.scope),
    context,
    preparsedPolicySetId: name,
    entities: [
      ...chain.map((id, i) => ({ uid: scope(id), attrs: {}, parents: chain.slice(0, i).map(scope) })),
      { uid: { type: "User", id: q.principal }, attrs: {}, parents: memberships },
    ],
  });
}

interface Question {
  readonly principal: string;
  readonly permission: string;
  readonly scope: string;
  readonly context: DecisionContext;
}

function randomQuestion(c: Chooser): Question {
  return {
    principal: c.one(users),
    permission: `${c.one(["a", "b", "iam"])}.${c.one(["a", "b"])}.${c.one(["x", "get", "z"])}`,
    scope: c.one(scopes),
    context: { nowMs: c.one([4, 9, 20]), attributes: c.below(2) === 0 ? { env: c.one(texts) } : {} },
  };
}

Deno.test("evaluate() decides as Cedar does on 25 000 random questions, and names a policy that Cedar names", () => {
  const seed = Number(Deno.env.get("UC_SEED") ?? crypto.getRandomValues(new Uint32Array(1))[0]);
  const c = chooser(seededRng(seed));
  let asked = 0;
  const seen = { allow: 0, deny: 0, denied: 0, bounded: 0 };
  for (let set = 0; set < policySets; set++) {
    const snapshot = randomSnapshot(c);
    const index = new PolicyIndex(snapshot);
    const parsed = preparsePolicySet("p", { staticPolicies: toCedar(snapshot), templates: {}, templateLinks: [] });
    assert.equal(parsed.type, "success", JSON.stringify(parsed));
    for (let n = 0; n < questionsPerSet; n++) {
      const q = randomQuestion(c);
      const ours = index.evaluate(q.principal, q.permission, q.scope, q.context);
      const answer = cedarQuestion(snapshot, "p", q);
      assert.equal(answer.type, "success", JSON.stringify(answer));
      if (answer.type !== "success") continue;
      const { decision, diagnostics } = answer.response;
      const where = () => `UC_SEED=${seed} set ${set} ${JSON.stringify({ q, ours, answer, snapshot })}`;
      assert.deepEqual(diagnostics.errors, [], where());
      assert.equal(ours.allow, decision === "allow", where());
      if (ours.bindingId !== undefined) assert.ok(diagnostics.reason.includes(ours.bindingId), where());
      // With nothing named, no binding decided: a boundary may have.
      else assert.ok(diagnostics.reason.every((id) => id.startsWith("boundary ")), where());
      asked++;
      seen[
        ours.allow
          ? "allow"
          : ours.bindingId !== undefined
          ? "denied"
          : /boundary/.test(ours.reason)
          ? "bounded"
          : "deny"
      ]++;
    }
  }
  assert.ok(asked >= 20_000);
  // A test of nothing but refusals would prove little.
  for (const [kind, count] of Object.entries(seen)) assert.ok(count > 200, `only ${count} of ${kind}`);
  console.log(`${asked} questions: ${JSON.stringify(seen)}`);
});
