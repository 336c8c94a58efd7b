/** One module reference in a source text. */
export interface ImportRef {
  readonly specifier: string;
  /** 1-based. */
  readonly line: number;
  /** True when nothing of it is left at run time: `import type`, `export type`. */
  readonly typeOnly: boolean;
}

type Token =
  | { readonly kind: "word" | "punct"; readonly text: string; readonly line: number }
  | { readonly kind: "string"; readonly text: string; readonly line: number };

/** Words after which a slash starts a regular expression and not a division. */
const regexAfter = new Set(["return", "typeof", "case", "in", "of", "do", "else", "void", "delete", "await", "yield"]);

/** Tokens of TypeScript as far as imports need them: comments, strings, templates and expressions in slashes fall away. */
function tokenize(source: string): Token[] {
  const tokens: Token[] = [];
  // Depth of braces inside each open `${`, innermost last.
  const templates: number[] = [];
  let line = 1;
  let at = 0;

  const skipTemplateText = () => {
    while (at < source.length) {
      const c = source[at];
      if (c === "\\") at++;
      else if (c === "\n") line++;
      else if (c === "`") {
        at++;
        return;
      } else if (c === "$" && source[at + 1] === "{") {
        at += 2;
        templates.push(0);
        return;
      }
      at++;
    }
  };

  while (at < source.length) {
    const c = source[at] as string;
    if (c === "\n") {
      line++;
      at++;
    } else if (/\s/.test(c)) {
      at++;
    } else if (c === "/" && source[at + 1] === "/") {
      while (at < source.length && source[at] !== "\n") at++;
    } else if (c === "/" && source[at + 1] === "*") {
      const end = source.indexOf("*/", at + 2);
      const stop = end < 0 ? source.length : end + 2;
      for (; at < stop; at++) if (source[at] === "\n") line++;
    } else if (c === '"' || c === "'") {
      let text = "";
      at++;
      while (at < source.length && source[at] !== c && source[at] !== "\n") {
        if (source[at] === "\\") at++;
        text += source[at++] ?? "";
      }
      at++;
      tokens.push({ kind: "string", text, line });
    } else if (c === "`") {
      at++;
      skipTemplateText();
      tokens.push({ kind: "punct", text: "`", line });
    } else if (/[\w$]/.test(c)) {
      const start = at;
      while (at < source.length && /[\w$]/.test(source[at] as string)) at++;
      tokens.push({ kind: "word", text: source.slice(start, at), line });
    } else if (c === "/" && startsRegex(tokens.at(-1))) {
      at = skipRegex(source, at);
      tokens.push({ kind: "punct", text: "/", line });
    } else {
      const depth = templates.at(-1);
      at++;
      if (depth !== undefined && c === "{") templates[templates.length - 1] = depth + 1;
      if (depth !== undefined && c === "}") {
        if (depth === 0) {
          templates.pop();
          skipTemplateText();
          continue;
        }
        templates[templates.length - 1] = depth - 1;
      }
      tokens.push({ kind: "punct", text: c, line });
    }
  }
  return tokens;
}

function startsRegex(before: Token | undefined): boolean {
  if (before === undefined) return true;
  if (before.kind === "string") return false;
  if (before.kind === "word") return regexAfter.has(before.text);
  return !")]}`/".includes(before.text);
}

function skipRegex(source: string, from: number): number {
  let inClass = false;
  for (let at = from + 1; at < source.length; at++) {
    const c = source[at];
    if (c === "\n") return from + 1;
    if (c === "\\") at++;
    else if (c === "[") inClass = true;
    else if (c === "]") inClass = false;
    else if (c === "/" && !inClass) return at + 1;
  }
  return from + 1;
}

/** Tokens an import clause may span before its `from`; a longer list of names is not believable. */
const clauseTokensMax = 2_000;

/** Every static import, re-export and dynamic import of a literal in `source`. */
export function scanImports(source: string): ImportRef[] {
  const tokens = tokenize(source);
  const refs: ImportRef[] = [];
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i] as Token;
    if (token.kind !== "word" || (token.text !== "import" && token.text !== "export")) continue;
    const before = tokens[i - 1];
    if (before?.kind === "punct" && before.text === ".") continue;
    const next = tokens[i + 1];
    if (next === undefined) continue;
    if (token.text === "import" && next.kind === "string") {
      refs.push({ specifier: next.text, line: next.line, typeOnly: false });
      continue;
    }
    if (token.text === "import" && next.text === "(") {
      const argument = tokens[i + 2];
      if (argument?.kind === "string") {
        // `import("x").Y` in a type position reads the same; it counts as a use either way.
        refs.push({ specifier: argument.text, line: argument.line, typeOnly: false });
      }
      continue;
    }
    if (next.kind === "punct" && next.text === ".") continue;
    const ref = scanClause(tokens, i, token.text === "export");
    if (ref) refs.push(ref);
  }
  return refs;
}

/** The specifier of a clause that starts at `start`; undefined for `export const` and its like. */
function scanClause(tokens: readonly Token[], start: number, isExport: boolean): ImportRef | undefined {
  let i = start + 1;
  let typeOnly = false;
  const first = tokens[i];
  const second = tokens[i + 1];
  if (first?.text === "type" && second !== undefined && second.text !== "from" && second.text !== ",") {
    typeOnly = true;
    i++;
  }
  const opening = tokens[i];
  if (isExport && opening?.text !== "{" && opening?.text !== "*") return undefined;
  let names = 0;
  let typedNames = 0;
  for (let seen = 0; i < tokens.length && seen < clauseTokensMax; i++, seen++) {
    const token = tokens[i] as Token;
    if (token.kind === "punct" && (token.text === ";" || token.text === "=")) return undefined;
    if (token.kind === "word" && token.text === "from") {
      const specifier = tokens[i + 1];
      if (specifier?.kind === "string") {
        const allTyped = names > 0 && names === typedNames;
        return { specifier: specifier.text, line: specifier.line, typeOnly: typeOnly || allTyped };
      }
    }
    if (token.kind === "string") return undefined;
    const starts = tokens[i - 1]?.text === "{" || tokens[i - 1]?.text === ",";
    if (token.kind === "word" && (starts || tokens[i - 1]?.text === "import")) {
      names++;
      if (token.text === "type" && starts && tokens[i + 1]?.kind === "word" && tokens[i + 1]?.text !== "as") {
        typedNames++;
      }
    }
    if (token.text === "*") names++;
  }
  return undefined;
}
