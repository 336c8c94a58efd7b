import { type Finding, matches, type Tree } from "./finding.ts";
import { isShipped } from "./wording.ts";

interface Rpc {
  readonly file: string;
  readonly line: number;
  readonly service: string;
  readonly method: string;
  /** Folder of the component that serves it. */
  readonly home: string;
}

const camel = (name: string) => name[0]!.toLowerCase() + name.slice(1);

/** RPCs of every contract whose component is in the tree, by the hyphens that folders have and packages have not. */
function rpcsOf(tree: Tree): Rpc[] {
  const homes = new Map<string, string>();
  for (const file of tree.keys()) {
    const match = /^((?:services|agents)\/([a-z0-9-]+))\/component\.json$/.exec(file);
    if (match !== null) homes.set(match[2]!.replaceAll("-", ""), match[1]!);
  }
  const rpcs: Rpc[] = [];
  for (const [file, text] of tree) {
    const component = /^proto\/ultracloud\/([a-z0-9]+)\/v1\/[^/]+\.proto$/.exec(file)?.[1];
    const home = component === undefined ? undefined : homes.get(component);
    if (home === undefined) continue;
    let service = "";
    text.split("\n").forEach((line, i) => {
      service = /^\s*service\s+(\w+)/.exec(line)?.[1] ?? service;
      const method = /^\s*rpc\s+(\w+)\s*\(/.exec(line)?.[1];
      if (method !== undefined) rpcs.push({ file, line: i + 1, service, method, home });
    });
  }
  return rpcs;
}

/**
 * Shipped RPCs without an answer of their own: no handler at all, one that refuses as unimplemented, or one that answers
 * the same whatever it was asked.
 */
export function judgeStubs(tree: Tree): Finding[] {
  const findings: Finding[] = [];
  const codeOf = new Map<string, [string, string][]>();
  for (const rpc of rpcsOf(tree)) {
    let code = codeOf.get(rpc.home);
    if (code === undefined) {
      code = [...tree].filter(([file]) => file.startsWith(`${rpc.home}/`) && isShipped(file));
      codeOf.set(rpc.home, code);
    }
    const name = camel(rpc.method);
    const handler = new RegExp(`(?<![.\\w])${name}\\s*(\\(|:|=|,|\\n?\\s*\\})`);
    if (!code.some(([, text]) => handler.test(text))) {
      const what = `${rpc.service}.${rpc.method}`;
      const reason = `${rpc.home} has no handler ${name}: it would answer unimplemented`;
      findings.push({ file: rpc.file, line: rpc.line, text: what, reason });
      continue;
    }
    for (const [file, text] of code) {
      for (const { line, text: found } of constantHandlers(text, name)) {
        findings.push({
          file,
          line,
          text: found,
          reason: `${rpc.service}.${rpc.method} answers the same whatever it is asked`,
        });
      }
    }
  }
  for (const [file, text] of tree) {
    if (!/^(services|agents)\//.test(file) || !isShipped(file)) continue;
    for (const { line, text: found } of matches(text, /Code\.Unimplemented\b|fault\(\s*"unimplemented"/)) {
      findings.push({ file, line, text: found, reason: "a call of a shipped service that answers unimplemented" });
    }
    for (
      const { line, text: found } of matches(text, /throw new Error\((["'`])(not implemented|todo|unsupported|stub)/i)
    ) {
      findings.push({ file, line, text: found, reason: "a call of a shipped service that does nothing" });
    }
  }
  return findings;
}

/** Handlers `name` whose whole body is one literal. */
function* constantHandlers(text: string, name: string): Generator<{ line: number; text: string }> {
  const heads = new RegExp(
    `(?<![.\\w])(?:async\\s+)?${name}\\s*(?:\\([^()]*\\)\\s*(?::[^{=;]+)?\\{\\s*return\\b|(?::|=)\\s*(?:async\\s*)?\\([^()]*\\)\\s*(?::[^={;]+)?=>)`,
    "g",
  );
  for (const head of text.matchAll(heads)) {
    const rest = text.slice(head.index + head[0].length);
    const value = expressionOf(rest);
    if (value === undefined || !isLiteral(value)) continue;
    // A body may go on after a return only as dead code, which the linter finds.
    yield {
      line: text.slice(0, head.index).split("\n").length,
      text: `${head[0]}${value}`.replaceAll(/\s+/g, " ").slice(0, 100),
    };
  }
}

/** The expression that a text begins with, up to its `;`, `,` or closing bracket. */
function expressionOf(text: string): string | undefined {
  let depth = 0;
  for (let i = 0; i < Math.min(text.length, 4_000); i++) {
    const c = text[i]!;
    if (c === '"' || c === "'" || c === "`") {
      i = text.indexOf(c, i + 1);
      if (i < 0) return undefined;
    } else if ("([{".includes(c)) depth++;
    else if (")]}".includes(c)) {
      if (depth-- === 0) return text.slice(0, i);
    } else if (depth === 0 && (c === ";" || c === ",")) return text.slice(0, i);
  }
  return undefined;
}

/** Whether an expression holds nothing but constants: no call, no name of anything. */
function isLiteral(expression: string): boolean {
  const bare = expression
    .replaceAll(/(["'])(?:\\.|(?!\1).)*\1|`[^`$]*`/g, " 0 ")
    .replaceAll(/\b(Promise\.resolve|create\s*\(\s*\w+Schema|timestampNow)\b/g, " ")
    .replaceAll(/[{,]\s*[\w$]+\s*:/g, " ")
    .replaceAll(/\b(true|false|null|undefined|new|await|return|\d[\d_]*n?)\b/g, " ");
  // An enumeration's member is a constant, too.
  return !/[A-Za-z_$]/.test(bare.replaceAll(/\b[A-Z]\w+\.[A-Z][A-Z0-9_]*\b/g, " "));
}
