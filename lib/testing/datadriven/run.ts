import { type Directive, parseDatadriven } from "./parse.ts";

/** Answers the output of one directive; state lives as long as its file. A throw fails the case whatever it expects. */
export type Handler = (directive: Directive) => string;

export interface FailedCase {
  readonly line: number;
  /** What went wrong, ready to print. */
  readonly report: string;
}

/** Runs the directives of a text one after the other; `handlers` is asked once, so that every file starts anew. */
export function runDatadriven(
  text: string,
  handlers: () => Readonly<Record<string, Handler>>,
): { readonly passed: number; readonly failed: readonly FailedCase[] } {
  const byCommand = handlers();
  const failed: FailedCase[] = [];
  const directives = parseDatadriven(text);
  for (const directive of directives) {
    const report = runCase(directive, byCommand);
    if (report !== undefined) failed.push({ line: directive.line, report });
  }
  return { passed: directives.length - failed.length, failed };
}

function runCase(directive: Directive, handlers: Readonly<Record<string, Handler>>): string | undefined {
  const { command, expected } = directive;
  if (!Object.hasOwn(handlers, command)) {
    return `  Cannot run ${command}: wanted one of ${Object.keys(handlers).join(", ")}`;
  }
  let actual: string;
  try {
    actual = handlers[command]!(directive);
  } catch (error) {
    return `  ${error instanceof Error ? error.message : error}`;
  }
  if (actual !== "" && !actual.endsWith("\n")) actual += "\n";
  return actual === expected ? undefined : difference(expected, actual);
}

/** Lines in both, only expected (-) and only printed (+), by the longest common part. */
function difference(expected: string, actual: string): string {
  const a = expected.split("\n").slice(0, -1), b = actual.split("\n").slice(0, -1);
  const common = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i]![j] = a[i] === b[j] ? common[i + 1]![j + 1]! + 1 : Math.max(common[i + 1]![j]!, common[i]![j + 1]!);
    }
  }
  const lines: string[] = [];
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      lines.push(`    ${a[i++]}`);
      j++;
    } else if (j === b.length || (i < a.length && common[i + 1]![j]! >= common[i]![j + 1]!)) {
      lines.push(`  - ${a[i++]}`);
    } else lines.push(`  + ${b[j++]}`);
  }
  return lines.join("\n");
}
