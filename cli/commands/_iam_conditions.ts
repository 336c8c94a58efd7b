/** A condition of a binding, as the API takes it. */
export interface ConditionText {
  readonly key: string;
  readonly operator: string;
  readonly values: readonly string[];
}

const operators = ["equals", "not_equals", "starts_with", "before", "after"] as const;
const grammar = "KEY OPERATOR VALUE[,VALUE...]";

/**
 * "resource.name starts_with web-", "time before 2026-04-01T00:00:00Z", "context.ip equals 10.0.0.1,10.0.0.2". Times
 * may be dates; iam compares milliseconds.
 */
export function parseCondition(text: string): ConditionText {
  const [, key, operator, list] = /^(\S+)\s+(\S+)\s+(.+)$/.exec(text.trim()) ?? [];
  if (key === undefined || operator === undefined || list === undefined) {
    throw new Error(`Cannot read ${JSON.stringify(text)} as a condition: wanted ${grammar}`);
  }
  if (!(operators as readonly string[]).includes(operator)) {
    throw new Error(`Cannot compare by ${JSON.stringify(operator)}: wanted one of ${operators.join(", ")}`);
  }
  const values = list.split(",").map((value) => value.trim());
  if (values.some((value) => value === "")) {
    throw new Error(`Cannot read ${JSON.stringify(text)} as a condition: one of its values is empty`);
  }
  return { key, operator, values: key === "time" ? values.map(milliseconds) : values };
}

function milliseconds(text: string): string {
  if (/^\d+$/.test(text)) return text;
  const ms = Date.parse(text);
  if (Number.isFinite(ms)) return String(ms);
  throw new Error(`Cannot read ${JSON.stringify(text)} as a time: wanted 2026-04-01T00:00:00Z or milliseconds`);
}

/** A condition as people write it. */
export function conditionText({ key, operator, values }: ConditionText): string {
  const shown = key === "time" ? values.map((value) => new Date(Number(value)).toISOString()) : values;
  return `${key} ${operator} ${shown.join(",")}`;
}

/** "name=value" of a question's attribute. */
export function parseAttribute(text: string): readonly [name: string, value: string] {
  const at = text.indexOf("=");
  if (at < 1) throw new Error(`Cannot read ${JSON.stringify(text)} as an attribute: wanted name=value`);
  return [text.slice(0, at), text.slice(at + 1)];
}
