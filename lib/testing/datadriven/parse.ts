/**
 * Scenario texts in the grammar of cockroachdb/datadriven: blocks of a directive line, input lines, `----` and the
 * expected output up to a blank line. An output with blank lines of its own stands between doubled fences.
 */

/** One `key`, `key=value` or `key=(a, b)` of a directive line; a bare key has no values. */
export interface DirectiveArg {
  readonly key: string;
  readonly values: readonly string[];
}

export interface Directive {
  /** Line of the directive, from 1. */
  readonly line: number;
  readonly command: string;
  readonly args: readonly DirectiveArg[];
  /** Input lines, without blank ones around them. */
  readonly input: string;
  /** Each line with its newline; empty when nothing is expected. */
  readonly expected: string;
}

/** A text that does not follow the grammar; the message names the line. */
export class DatadrivenSyntaxError extends Error {
  override readonly name = "DatadrivenSyntaxError";
}

const FENCE = "----";

/** The blocks of a file, in order. */
export function parseDatadriven(text: string): Directive[] {
  const lines = text.split("\n").map((line) => line.endsWith("\r") ? line.slice(0, -1) : line);
  // What follows the last newline is no line.
  if (lines.at(-1) === "") lines.pop();
  const directives: Directive[] = [];
  let at = 0;
  while (at < lines.length) {
    const line = at + 1;
    let head = lines[at++]!.trim();
    if (head.startsWith("#")) continue;
    while (head.endsWith("\\") && at < lines.length) head = `${head.slice(0, -1)} ${lines[at++]!.trim()}`;
    const { command, args } = parseHead(head, line);
    // A `subtest` only names a part of its file; it has neither input nor output.
    if (command === "" || command === "subtest") continue;
    const input: string[] = [];
    while (at < lines.length && lines[at] !== FENCE) input.push(lines[at++]!);
    if (at === lines.length) {
      throw new DatadrivenSyntaxError(`Cannot read directive ${command} of line ${line}: wanted ${FENCE} after it`);
    }
    const output = readOutput(lines, at + 1, line);
    at = output.end;
    directives.push({ line, command, args, input: input.join("\n").trim(), expected: output.text });
  }
  return directives;
}

function readOutput(lines: readonly string[], from: number, line: number): { text: string; end: number } {
  const output: string[] = [];
  let at = from;
  if (lines[at] !== FENCE) {
    while (at < lines.length && lines[at]!.trim() !== "") output.push(lines[at++]! + "\n");
    return { text: output.join(""), end: at };
  }
  at++;
  while (lines[at] !== FENCE || lines[at + 1] !== FENCE) {
    if (at >= lines.length) {
      throw new DatadrivenSyntaxError(`Cannot read the output of line ${line}: wanted ${FENCE} twice at its end`);
    }
    output.push(lines[at++]! + "\n");
  }
  return { text: output.join(""), end: at + 2 };
}

const ARGUMENT = /^([^\s=()]+)(?:=(\([^)]*\)|[^\s()]*))?(?=\s|$)/;

function parseHead(head: string, line: number): { command: string; args: DirectiveArg[] } {
  const [command = ""] = /^\S*/.exec(head) ?? [];
  const args: DirectiveArg[] = [];
  let rest = head.slice(command.length).trim();
  while (rest !== "") {
    const found = ARGUMENT.exec(rest);
    if (!found) throw new DatadrivenSyntaxError(`Cannot read argument ${rest} of line ${line}: wanted key=value`);
    const [all, key, value] = found;
    args.push({ key: key!, values: value === undefined ? [] : valuesOf(value) });
    rest = rest.slice(all.length).trim();
  }
  return { command, args };
}

function valuesOf(value: string): string[] {
  if (!value.startsWith("(")) return [value];
  const inner = value.slice(1, -1).trim();
  return inner === "" ? [] : inner.split(",").map((part) => part.trim());
}
