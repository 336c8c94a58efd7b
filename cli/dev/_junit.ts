/** One test as the JUnit report of `deno test` tells it. */
export interface TestCase {
  readonly file: string;
  readonly name: string;
  readonly outcome: "passed" | "failed" | "skipped";
  /** The failure's text, its first lines only; empty otherwise. */
  readonly message: string;
}

const entities: Readonly<Record<string, string>> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };

function unescape(text: string): string {
  return text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|([a-z]+));/gi, (whole, hex, decimal, name) => {
    if (hex) return String.fromCodePoint(Number.parseInt(hex, 16));
    if (decimal) return String.fromCodePoint(Number(decimal));
    return entities[name] ?? whole;
  });
}

function attribute(tag: string, name: string): string {
  return unescape(new RegExp(`\\s${name}="([^"]*)"`).exec(tag)?.[1] ?? "");
}

/** The tests of a report. Steps are parts of their test and not counted again, unless one failed alone. */
export function parseJunit(xml: string): TestCase[] {
  const found: TestCase[] = [];
  const tops = new Set<string>();
  for (const match of xml.matchAll(/<testcase\b([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g)) {
    const [, tag = "", body = ""] = match;
    const name = attribute(tag, "name");
    const file = attribute(tag, "classname").replace(/^\.\//, "");
    if (isStep(tops, file, name)) continue;
    tops.add(`${file}\n${name}`);
    const failure = /<(?:failure|error)\b([^>]*)>/.exec(body)?.[1];
    const outcome = failure !== undefined ? "failed" : /<skipped\b/.test(body) ? "skipped" : "passed";
    const message = failure === undefined ? "" : firstLines(attribute(failure, "message"));
    found.push({ file, name, outcome, message });
  }
  return found;
}

/** Enough to see what a process said before it failed, without the stack of the runner. */
const messageLinesMax = 15;

function firstLines(text: string): string {
  return text.split("\n").slice(0, messageLinesMax).join("\n");
}

/** Steps are reported after their test, as `test > step`. */
function isStep(tops: ReadonlySet<string>, file: string, name: string): boolean {
  for (let at = name.indexOf(" > "); at >= 0; at = name.indexOf(" > ", at + 3)) {
    if (tops.has(`${file}\n${name.slice(0, at)}`)) return true;
  }
  return false;
}

/** Splits `name [skipped: reason]`; a skip without one says so. */
export function skipReason(name: string): { readonly name: string; readonly reason: string } {
  const match = /^(.*?)\s*\[skipped: (.*)\]$/.exec(name);
  return match ? { name: match[1] ?? name, reason: match[2] ?? "" } : { name, reason: "no reason given" };
}
