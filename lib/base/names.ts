import { invalidField } from "./fault.ts";

/** DNS label (RFC 1123): what a resource name must be. */
export const namePattern = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const labelKeyPattern = /^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$/;

/** Bounds on labels: enough for selectors, small enough to store with every record. */
export const labelsCountMax = 32;
export const labelValueCharsMax = 128;

/** The name, or an invalid_argument fault at `field`. */
export function checkName(name: string, field: string): string {
  if (namePattern.test(name)) return name;
  throw invalidField(
    field,
    `Cannot use ${JSON.stringify(name.slice(0, 80))} as ${field}: wanted 1 to 63 of a-z, 0-9 and inner hyphens`,
    "invalid_name",
  );
}

/** "org/project" split into its parts, or an invalid_argument fault at `field`. */
export function checkProject(project: string, field = "project"): { org: string; project: string } {
  const parts = project.split("/");
  if (parts.length === 2 && namePattern.test(parts[0]!) && namePattern.test(parts[1]!)) {
    return { org: parts[0]!, project: parts[1]! };
  }
  throw invalidField(
    field,
    `Cannot use ${JSON.stringify(project.slice(0, 140))} as ${field}: wanted "org/project"`,
    "invalid_project",
  );
}

/** Checks count, keys and values of labels. */
export function checkLabels(labels: Readonly<Record<string, string>>, field = "labels"): void {
  const keys = Object.keys(labels);
  if (keys.length > labelsCountMax) {
    throw invalidField(field, `Cannot keep ${keys.length} labels: wanted at most ${labelsCountMax}`);
  }
  for (const key of keys) {
    if (!labelKeyPattern.test(key)) {
      throw invalidField(
        `${field}.${key.slice(0, 80)}`,
        `Cannot use ${JSON.stringify(key.slice(0, 80))} as a label key`,
      );
    }
    const value = labels[key]!;
    if (value.length > labelValueCharsMax) {
      throw invalidField(
        `${field}.${key}`,
        `Cannot keep a label value of ${value.length} characters: wanted at most ${labelValueCharsMax}`,
      );
    }
  }
}
