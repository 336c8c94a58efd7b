import {
  type Condition,
  conditionKeyPattern,
  conditionNumberPattern,
  type ConditionOperator,
  conditionOperators,
} from "@ultracloud/authz";
import { invalidField } from "@ultracloud/base";

/** Each is looked at in every decision its binding could make. */
const conditionsMax = 8;
const valuesMax = 16;
const valueCharsMax = 128;
const attributesMax = 16;
const attributeCharsMax = 256;
const attributePattern = /^[a-z][a-z0-9_]{0,30}$/;

/** The conditions of a binding, checked. */
export function checkConditions(
  asked: readonly { readonly key: string; readonly operator: string; readonly values: readonly string[] }[],
): Condition[] {
  if (asked.length > conditionsMax) {
    throw invalidField("conditions", `Cannot keep ${asked.length} conditions: wanted at most ${conditionsMax}`);
  }
  return asked.map(({ key, operator, values }, i) => {
    const wrong = (field: string, message: string) =>
      invalidField(`conditions.${i}.${field}`, message, "invalid_condition");
    if (!conditionKeyPattern.test(key)) {
      throw wrong(
        "key",
        `Cannot compare ${
          JSON.stringify(key.slice(0, 60))
        }: wanted time, resource.service, resource.kind, resource.name or context.NAME`,
      );
    }
    if (!(conditionOperators as readonly string[]).includes(operator)) {
      throw wrong(
        "operator",
        `Cannot compare by ${JSON.stringify(operator.slice(0, 40))}: wanted one of ${conditionOperators.join(", ")}`,
      );
    }
    const numeric = operator === "before" || operator === "after";
    if (key === "time" && !numeric) throw wrong("operator", "Cannot compare time but with before and after");
    if (values.length < 1 || values.length > valuesMax || values.some((value) => value.length > valueCharsMax)) {
      throw wrong(
        "values",
        `Cannot compare with ${values.length} values: wanted 1 to ${valuesMax} of at most ${valueCharsMax} characters`,
      );
    }
    if (numeric && !values.every((value) => conditionNumberPattern.test(value))) {
      throw wrong("values", "Cannot compare by before or after with anything but whole numbers");
    }
    return { key, operator: operator as ConditionOperator, values: [...values] };
  });
}

/** The attributes of a question, checked. */
export function checkAttributes(
  context: Readonly<Record<string, string>>,
  field: string,
): Readonly<Record<string, string>> {
  const entries = Object.entries(context);
  if (entries.length > attributesMax) {
    throw invalidField(field, `Cannot compare ${entries.length} attributes: wanted at most ${attributesMax}`);
  }
  for (const [name, value] of entries) {
    if (attributePattern.test(name) && value.length <= attributeCharsMax) continue;
    throw invalidField(
      field,
      `Cannot use the attribute ${
        JSON.stringify(name.slice(0, 40))
      }: wanted a short lower-case name and at most ${attributeCharsMax} characters`,
    );
  }
  return context;
}
