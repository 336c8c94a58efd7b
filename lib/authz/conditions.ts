import { z } from "zod";

/** What a condition may compare, and how. All values are text; `before` and `after` compare them as whole numbers. */
export const conditionOperators = ["equals", "not_equals", "starts_with", "before", "after"] as const;
export type ConditionOperator = typeof conditionOperators[number];

/** One thing that must hold for a binding to count. */
export const conditionSchema = z.strictObject({
  /** "time" (milliseconds since the epoch), "resource.service", "resource.kind", "resource.name", "context.<name>". */
  key: z.string(),
  operator: z.enum(conditionOperators),
  /** One of them must match; `not_equals` wants all of them to differ. */
  values: z.array(z.string()),
});
export type Condition = z.infer<typeof conditionSchema>;

/** What is known about a question beside who, what and where. */
export interface DecisionContext {
  readonly nowMs: number;
  /** What the caller of Authorize says about the request; empty where a service decides by itself. */
  readonly attributes?: Readonly<Record<string, string>>;
}

export const conditionKeyPattern = /^(time|resource\.(service|kind|name)|context\.[a-z][a-z0-9_]{0,30})$/;
/** What `before` and `after` compare; 15 digits stay exact. */
export const conditionNumberPattern = /^\d{1,15}$/;

/** The attribute a condition speaks of; undefined when the question does not have it. */
export function attributeOf(key: string, scope: string, context: DecisionContext): string | undefined {
  if (key === "time") return String(Math.floor(context.nowMs));
  if (key.startsWith("context.")) {
    const name = key.slice("context.".length);
    const attributes = context.attributes;
    return attributes !== undefined && Object.hasOwn(attributes, name) ? attributes[name] : undefined;
  }
  const [, , service, kind, name] = scope.split("/");
  if (key === "resource.service") return service;
  if (key === "resource.kind") return kind;
  return key === "resource.name" ? name : undefined;
}

/**
 * True when every condition holds. What a question does not tell counts against the caller: an allow whose attribute
 * is missing does not apply, a deny does.
 */
export function conditionsHold(
  conditions: readonly Condition[] | undefined,
  deny: boolean,
  scope: string,
  context: DecisionContext,
): boolean {
  return conditions === undefined ||
    conditions.every((condition) => conditionHolds(condition, attributeOf(condition.key, scope, context), deny));
}

function conditionHolds(condition: Condition, actual: string | undefined, whenUnknown: boolean): boolean {
  if (actual === undefined) return whenUnknown;
  const { operator, values } = condition;
  switch (operator) {
    case "equals":
      return values.includes(actual);
    case "not_equals":
      return !values.includes(actual);
    case "starts_with":
      return values.some((value) => actual.startsWith(value));
    case "before":
    case "after": {
      if (!conditionNumberPattern.test(actual)) return whenUnknown;
      const number = Number(actual);
      return values.some((value) => operator === "before" ? number < Number(value) : number > Number(value));
    }
  }
}
