import { invalidField } from "@ultracloud/base";
import { sqlCharsMax } from "./bounds.ts";
import { copiesOf } from "./copies.ts";
import { type ValueWork, valueWork } from "./value_work.ts";

/** A lexical unit of SQL; `word` is upper case for bare words and the bare text for quoted ones. */
export interface Token {
  readonly kind: "word" | "quoted" | "number" | "string" | "parameter" | "symbol";
  readonly word: string;
  readonly at: number;
  readonly end: number;
}

const spaces = /[ \t\n\f\r]+|--[^\n]*(?:\n|$)|\/\*[\s\S]*?(?:\*\/|$)/y;
const lexemes: readonly (readonly [Token["kind"], RegExp])[] = [
  ["string", /[xX]?'(?:[^']|'')*'/y],
  ["quoted", /"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]/y],
  [
    "number",
    /(?:0[xX][0-9a-fA-F_]+|(?:\d[\d_]*)(?:\.[\d_]*)?(?:[eE][+-]?\d[\d_]*)?|\.\d[\d_]*(?:[eE][+-]?\d[\d_]*)?)/y,
  ],
  ["parameter", /\?\d*|[:@$#][A-Za-z0-9_$\u0080-\uffff]+/y],
  ["word", /[A-Za-z_\u0080-\uffff][A-Za-z0-9_$\u0080-\uffff]*/y],
  ["symbol", /[\s\S]/y],
];

/** SQLite's tokens without spaces and comments. What does not close is taken up to the end, as SQLite does. */
export function tokenize(sql: string): Token[] {
  const tokens: Token[] = [];
  for (let at = 0; at < sql.length;) {
    spaces.lastIndex = at;
    const space = spaces.exec(sql);
    if (space !== null) {
      at += space[0].length;
      continue;
    }
    for (const [kind, pattern] of lexemes) {
      pattern.lastIndex = at;
      const match = pattern.exec(sql);
      if (match === null) continue;
      const text = match[0];
      tokens.push({
        kind,
        at,
        end: at + text.length,
        word: kind === "word" ? text.toUpperCase() : kind === "quoted" ? text.slice(1, -1) : text,
      });
      at += text.length;
      break;
    }
  }
  return tokens;
}

export type StatementClass = "read" | "write" | "schema" | "pragma" | "explain";

const classes: Readonly<Record<string, StatementClass>> = {
  SELECT: "read",
  VALUES: "read",
  WITH: "read",
  EXPLAIN: "explain",
  PRAGMA: "pragma",
  INSERT: "write",
  REPLACE: "write",
  UPDATE: "write",
  DELETE: "write",
  CREATE: "schema",
  DROP: "schema",
  ALTER: "schema",
  REINDEX: "schema",
};

/** What a statement wants bound. */
export interface Parameters {
  /** Highest number of `?` and `?NNN`. */
  readonly positional: number;
  /** With their sign: ":name", "@name", "$name". */
  readonly named: readonly string[];
}

/** What the text alone says about one statement. */
export interface StatementText {
  readonly sql: string;
  /** The statement alone, without what follows its last token. */
  readonly body: string;
  /** By the first word; a WITH may still write. */
  readonly class: StatementClass;
  /** Some word in it is one that changes data; a WITH may start a statement that does. */
  readonly writes: boolean;
  /** It answers the rows it changes. */
  readonly returns: boolean;
  /** The word FAIL may be in it, which as a conflict clause keeps what a failed statement did. */
  readonly mayFail: boolean;
  readonly parameters: Parameters;
  /** Common table expressions that end by themselves: the number after LIMIT by name in lower case. */
  readonly bounded: ReadonlyMap<string, number>;
  /** What it does to values. */
  readonly work: ValueWork;
  /** Copies of an expression that preparing it may make. */
  readonly copies: number;
}

const failClause = /fail/i;

/** Rows a recursive common table expression may be limited to. */
export const recursionRowsMax = 100_000;

/**
 * Checks what SQLite's authorizer cannot see: that the text is one statement of a known class, and that nothing in it
 * could end or poison the transaction in which replicas apply many entries.
 */
export function readStatement(sql: string, field: string): StatementText {
  const refuse = (message: string, code = "sql_refused") => invalidField(`${field}.sql`, message, code);
  if (sql.length > sqlCharsMax) {
    throw refuse(`Cannot run SQL of ${sql.length} characters: wanted at most ${sqlCharsMax}`);
  }
  // Half a surrogate pair would become another character on its way into the log.
  if (!sql.isWellFormed()) throw refuse("Cannot run SQL that is no Unicode text: half of a surrogate pair is in it");
  if (sql.includes("\0")) throw refuse("Cannot run SQL with a NUL character");
  const tokens = tokenize(sql);
  const first = tokens[0];
  if (first === undefined) throw refuse("Cannot run an empty statement: wanted SQL");
  const statementClass = first.kind === "word" && Object.hasOwn(classes, first.word) ? classes[first.word] : undefined;
  if (statementClass === undefined) {
    throw refuse(
      `Cannot run a statement that starts with ${JSON.stringify(first.word.slice(0, 40))}: wanted one of ` +
        Object.keys(classes).join(", "),
    );
  }
  for (const token of tokens) {
    // Also where the authorizer is not asked: a foreign key on the store's tables would tie its own writes to callers'.
    if (token.kind !== "number" && token.kind !== "symbol" && /^'?_uc_/i.test(token.word)) {
      throw refuse(
        "Cannot use names that start with _uc_, which are the store's own; bind a value of that kind instead",
      );
    }
    if (token.kind !== "word") continue;
    if (token.word === "ROLLBACK") {
      throw refuse(
        "Cannot use ROLLBACK, not even as a conflict clause, as it would undo other requests too: wanted ABORT",
      );
    }
    if (token.word === "DEFERRED") {
      throw refuse(
        "Cannot use deferred constraints, as they are checked too late to undo one request: wanted IMMEDIATE",
      );
    }
  }
  const end = statementEnd(tokens);
  if (end < tokens.length) {
    throw refuse(`Cannot run several statements at once: the second starts at ${tokens[end]!.at}; wanted a batch`);
  }
  const parameters = parametersOf(tokens);
  if (parameters.positional > 0 && parameters.named.length > 0) {
    throw refuse("Cannot mix positional and named parameters: wanted one kind");
  }
  const bounded = boundedTables(tokens);
  const words = new Set(tokens.map(({ kind, word }) => kind === "word" ? word : ""));
  const writes = ["INSERT", "UPDATE", "DELETE"].some((word) => words.has(word));
  let last = tokens.length - 1;
  while (last > 0 && isSymbol(tokens[last], ";")) last--;
  return {
    sql,
    body: sql.slice(0, tokens[last]!.end),
    class: statementClass,
    writes,
    returns: words.has("RETURNING"),
    mayFail: failClause.test(sql),
    parameters,
    bounded,
    work: valueWork(tokens, bounded.size > 0),
    copies: copiesOf(tokens),
  };
}

/** Names, in lower case, that stand before an opening parenthesis: of functions, among others. */
export function calledNames(sql: string): Set<string> {
  const tokens = tokenize(sql);
  const names = tokens.filter(({ kind }, i) => (kind === "word" || kind === "quoted") && isSymbol(tokens[i + 1], "("));
  return new Set(names.map(({ word }) => word.toLowerCase()));
}

function parametersOf(tokens: readonly Token[]): Parameters {
  let positional = 0;
  const named = new Set<string>();
  for (const { kind, word } of tokens) {
    if (kind !== "parameter") continue;
    if (!word.startsWith("?")) named.add(word);
    else positional = word === "?" ? positional + 1 : Math.max(positional, Number(word.slice(1)));
  }
  return { positional, named: [...named] };
}

/** Position after the first statement and the semicolons that follow it. */
function statementEnd(tokens: readonly Token[]): number {
  const words = tokens.slice(0, 8).filter((token) => token.kind === "word").map((token) => token.word);
  const head = words[0] === "EXPLAIN" ? words.filter((word) => !["EXPLAIN", "QUERY", "PLAN"].includes(word)) : words;
  const trigger = head[0] === "CREATE" &&
    (head[1] === "TRIGGER" || (/^TEMP/.test(head[1] ?? "") && head[2] === "TRIGGER"));
  let i = 0;
  for (; i < tokens.length; i++) {
    if (!isSymbol(tokens[i], ";")) continue;
    // The body of a trigger holds statements; it is over at `; END`, as sqlite3_complete() has it.
    if (trigger && !(tokens[i - 1]?.word === "END" && isSymbol(tokens[i - 2], ";"))) continue;
    break;
  }
  while (isSymbol(tokens[i], ";")) i++;
  return i;
}

function isSymbol(token: Token | undefined, symbol: string): boolean {
  return token?.kind === "symbol" && token.word === symbol;
}

/** Finds `name [(columns)] AS [[NOT] MATERIALIZED] ( ... LIMIT n )` with a literal n of at most `recursionRowsMax`. */
function boundedTables(tokens: readonly Token[]): Map<string, number> {
  const bounded = new Map<string, number>(), unbounded = new Set<string>();
  if (!tokens.some((token) => token.kind === "word" && token.word === "WITH")) return bounded;
  for (let i = 1; i < tokens.length; i++) {
    if (tokens[i]!.kind !== "word" || tokens[i]!.word !== "AS") continue;
    let open = i + 1;
    if (tokens[open]?.word === "NOT") open++;
    if (tokens[open]?.word === "MATERIALIZED") open++;
    if (!isSymbol(tokens[open], "(")) continue;
    let name = i - 1;
    if (isSymbol(tokens[name], ")")) {
      while (name >= 0 && !isSymbol(tokens[name], "(")) name--;
      name--;
    }
    const named = tokens[name];
    if (named === undefined || (named.kind !== "word" && named.kind !== "quoted" && named.kind !== "string")) continue;
    const key = (named.kind === "string" ? named.word.slice(1, -1) : named.word).toLowerCase();
    const limit = limitOf(tokens, open);
    if (limit === undefined) unbounded.add(key);
    else bounded.set(key, Math.max(limit, bounded.get(key) ?? 0));
  }
  // The same name twice: the looser one counts.
  for (const name of unbounded) bounded.delete(name);
  return bounded;
}

function limitOf(tokens: readonly Token[], open: number): number | undefined {
  let depth = 0;
  for (let i = open; i < tokens.length; i++) {
    if (isSymbol(tokens[i], "(")) depth++;
    else if (isSymbol(tokens[i], ")")) {
      if (--depth === 0) return undefined;
    } else if (depth === 1 && tokens[i]!.kind === "word" && tokens[i]!.word === "LIMIT") {
      const count = tokens[i + 1];
      // An OFFSET, in either notation, would be worked through first: the body must end after the number.
      const bound = count?.kind === "number" && /^\d+$/.test(count.word) && isSymbol(tokens[i + 2], ")");
      return bound && Number(count.word) <= recursionRowsMax ? Number(count.word) : undefined;
    }
  }
  return undefined;
}
