import { isAllowedFunction } from "./sql_rules.ts";
import type { Token } from "./sql_text.ts";

/**
 * What a statement does to values for each row that it visits, from its text alone: how many rows a plan visits says
 * nothing of a row that makes 16 MiB of text a hundred times over.
 */
export interface ValueWork {
  /** Passes over a value, in units of copying it; 0: it is read and nothing else. */
  readonly linear: number;
  /** Calls whose time does not go by lengths, in units of copying a short value. */
  readonly called: number;
  /** As `linear`, for what grows with the square of a value's length. */
  readonly square: number;
  /** It makes long values out of short ones. */
  readonly makes: boolean;
  /** Added to `square` where parameters are long: they are what is looked for. */
  readonly needles: number;
  /** A parameter takes the place of something shorter, wherever that is found. */
  readonly replaces: boolean;
  /** LIKE and GLOB with a parameter as their pattern. */
  readonly asked: number;
  /** LIKE and GLOB whose pattern only running tells. */
  readonly patterns: number;
  /** A window whose frame is gone through anew for each row. */
  readonly frames: boolean;
}

export const noWork: ValueWork = {
  linear: 0,
  called: 0,
  square: 0,
  makes: false,
  needles: 0,
  replaces: false,
  asked: 0,
  patterns: 0,
  frames: false,
};

/** Functions that are an order slower than copying their argument. */
const slow: ReadonlySet<string> = new Set(
  ("char concat concat_ws format glob group_concat hex instr like lower ltrim printf quote replace rtrim soundex " +
    "string_agg trim unhex unistr unistr_quote upper").split(" "),
);
export const slowWork = 8;
/** Functions that hand values on or look at numbers. */
const still: ReadonlySet<string> = new Set(
  ("abs avg ceil ceiling changes coalesce count cume_dist dense_rank first_value floor if ifnull iif lag " +
    "last_insert_rowid last_value lead likelihood likely max min mod nth_value ntile nullif octet_length percent_rank " +
    "rank round row_number sign sum total typeof unlikely").split(" "),
);
/** A call into the runtime and back, in copies of a short value: it costs its microseconds whatever the length. */
const calledWork: Readonly<Record<string, number>> = {
  random: 32,
  randomblob: 32,
  date: 256,
  time: 256,
  datetime: 256,
  julianday: 256,
  unixepoch: 256,
  strftime: 256,
  timediff: 256,
};
/** By the square of the length, relative to comparing bytes in bulk. */
const squareWork: Readonly<Record<string, number>> = {
  instr: 1,
  replace: 1,
  json_patch: 20,
  jsonb_patch: 20,
  trim: 400,
  ltrim: 400,
  rtrim: 400,
};
/** Collects values of many rows into one. */
const collects: ReadonlySet<string> = new Set(["group_concat", "string_agg", "json_group_array", "json_group_object"]);
/** What keeps rows until it has seen all. */
const keeps: ReadonlySet<string> = new Set([
  "ORDER",
  "GROUP",
  "DISTINCT",
  "UNION",
  "EXCEPT",
  "INTERSECT",
  "MATERIALIZED",
]);
const keepsWork = 4;
const castWork = 2;
/** Comparing two values stops where they differ. */
const comparisonWork = 1 / 8;
/** Bytes that come out of one that goes in. */
const doubling: Readonly<Record<string, number>> = { hex: 2, quote: 4, json_quote: 4, unistr_quote: 6 };
/** Functions whose arguments tell what they cost. */
const looked: ReadonlySet<string> = new Set(["zeroblob", "randomblob", "printf", "format"]);

/** Bytes that a statement may make of nothing without counting as one that makes long values. */
const shortBytesMax = 4_096;
/** Needles up to here cost no more than a pass or two. */
export const needleMax = 64;
/** Times a value may grow from the columns to the answer without counting as making long ones. */
const growthMax = 64;
/** Literals beyond this are long values by themselves. */
export const literalMax = 65_536;
/** Passes that a literal pattern may cost and still count as one. */
export const patternPassesMax = 8;
/** Names and operators of a statement that cost no more than visiting a row does. */
const stepsFree = 256;
/** Tokens looked at for the arguments of one call; beyond, they count as anything. */
const argumentTokensMax = 64;

/** The work in one statement, or in the definition of a trigger, a view, a table or an index. */
export function valueWork(tokens: readonly Token[], recursive: boolean): ValueWork {
  const work = { ...noWork as { -readonly [K in keyof ValueWork]: ValueWork[K] } };
  let literals = 0, growth = 1, joined = 0, selects = 0, calls = 0, steps = 0;
  let over = false, collected = false;
  for (const [i, token] of tokens.entries()) {
    const next = tokens[i + 1];
    if (token.kind === "string") literals += token.end - token.at;
    if (token.kind === "word" || token.kind === "quoted" || /[-+*\/%&|<>=~]/.test(token.word[0]!)) steps++;
    if (token.kind === "symbol") {
      if (token.word === "|" && isSymbol(next, "|")) {
        work.linear++;
        joined++;
      } else if (/[<>=]/.test(token.word)) work.linear += comparisonWork;
      else if (token.word === "-" && isSymbol(next, ">")) work.linear += slowWork;
    }
    if (token.kind !== "word" && token.kind !== "quoted") continue;
    if (token.kind === "word" && !isSymbol(next, "(")) {
      if ((token.word === "LIKE" || token.word === "GLOB") && next !== undefined) {
        const parts = patternAt(tokens, i + 1);
        if (parts === undefined) work.patterns++;
        else if (parts.asks) work.asked++;
        else {
          const passes = patternPasses(parts.literal);
          work.linear += slowWork * passes;
          work.makes ||= passes > patternPassesMax;
        }
      } else if (token.word === "EXCLUDE") work.frames ||= next?.word !== "NO";
    }
    if (token.kind === "word") {
      if (token.word === "SELECT") selects++;
      else if (token.word === "OVER") over = true;
      else if (token.word === "CAST") work.linear += castWork;
      else if (keeps.has(token.word)) work.linear += keepsWork;
    }
    if (!isSymbol(next, "(")) continue;
    const name = token.word.toLowerCase();
    if (!isAllowedFunction(name)) continue;
    calls++;
    if (Object.hasOwn(calledWork, name)) work.called += calledWork[name]!;
    else if (!still.has(name)) work.linear += slow.has(name) || name.startsWith("json") ? slowWork : 1;
    if (collects.has(name)) collected = true;
    if (name === "like" || name === "glob") work.patterns++;
    if (Object.hasOwn(doubling, name)) growth *= doubling[name]!;
    if (!looked.has(name) && !Object.hasOwn(squareWork, name)) continue;
    const args = argumentsOf(tokens, i + 1);
    if (name === "zeroblob" || name === "randomblob") {
      work.makes ||= !(isNumber(args[0]) && Number(args[0]![0]!.word) <= shortBytesMax);
    } else if (name === "printf" || name === "format") {
      work.makes ||= !isLiteral(args[0]) || /[*]|\d{4}/.test(args[0]![0]!.word);
    } else {
      // Also names of tables with their columns, and the statement REPLACE: they have no work of this kind.
      if (args.length < 2 || (name === "replace" && args.length < 3)) continue;
      if (name === "replace") {
        if (isParameter(args[2])) work.replaces = true;
        else if (!isLiteral(args[2])) work.makes = true;
        else growth *= Math.max(1, textLength(args[2]) / Math.max(1, isLiteral(args[1]) ? textLength(args[1]) : 1));
      }
      const weight = squareWork[name]!;
      if (name.endsWith("_patch")) work.square += weight;
      else if (isParameter(args[1])) work.needles += weight;
      else if (!isShort(args[1])) work.square += weight;
    }
  }
  // Each query doubles at best what the one within it made.
  const levels = Math.max(1, selects);
  growth *= (joined / levels + 1) ** levels;
  work.makes ||= growth > growthMax || literals > literalMax || (collected && over);
  work.called += Math.max(0, steps - stepsFree);
  work.makes ||= recursive && (joined > 0 || calls > 1);
  return work;
}

/** Both together. */
export function addWork(a: ValueWork, b: ValueWork): ValueWork {
  return {
    linear: a.linear + b.linear,
    called: a.called + b.called,
    square: a.square + b.square,
    makes: a.makes || b.makes,
    needles: a.needles + b.needles,
    replaces: a.replaces || b.replaces,
    asked: a.asked + b.asked,
    patterns: a.patterns + b.patterns,
    frames: a.frames || b.frames,
  };
}

/**
 * How often at most LIKE or GLOB looks at a character with this pattern: where a comparison that failed late starts
 * anew one character on, as often as the run between two wildcards begins again within itself.
 */
export function patternPasses(pattern: string): number {
  let most = 1;
  for (const run of pattern.toLowerCase().split(/[%*]/)) {
    const first = run[0];
    if (first === undefined) continue;
    if (/[_?[]/.test(run)) most = Math.max(most, run.length);
    else most = Math.max(most, run.split(first).length - 1);
  }
  return most;
}

function isSymbol(token: Token | undefined, symbol: string): boolean {
  return token?.kind === "symbol" && token.word === symbol;
}

const isNumber = (arg: readonly Token[] | undefined) => arg?.length === 1 && arg[0]!.kind === "number";
const isLiteral = (arg: readonly Token[] | undefined) => arg?.length === 1 && arg[0]!.kind === "string";
const isParameter = (arg: readonly Token[] | undefined) => arg?.length === 1 && arg[0]!.kind === "parameter";
const isCharacter = (arg: readonly Token[] | undefined) =>
  arg?.length === 4 && arg[0]!.word === "CHAR" && arg[2]!.kind === "number";
const textLength = (arg: readonly Token[] | undefined) => (arg?.[0]?.word.length ?? 2) - 2;
const isShort = (arg: readonly Token[] | undefined) =>
  isNumber(arg) || isCharacter(arg) || (isLiteral(arg) && textLength(arg) <= needleMax);

/** The pattern that starts here, where it is of literals and parameters only. */
function patternAt(tokens: readonly Token[], start: number): { literal: string; asks: boolean } | undefined {
  let literal = "", asks = false;
  for (let i = start;; i += 3) {
    const token = tokens[i];
    if (token?.kind === "string") literal += token.word.slice(1, -1);
    else if (token?.kind === "parameter") asks = true;
    else return undefined;
    if (!isSymbol(tokens[i + 1], "|") || !isSymbol(tokens[i + 2], "|")) return { literal, asks };
  }
}

/** The arguments of the call whose parenthesis opens at `open`, as far as it is looked at. */
function argumentsOf(tokens: readonly Token[], open: number): Token[][] {
  const args: Token[][] = [[]];
  let depth = 0;
  for (let i = open; i < tokens.length && i < open + argumentTokensMax; i++) {
    const token = tokens[i]!;
    if (isSymbol(token, "(") && ++depth === 1) continue;
    if (isSymbol(token, ")") && --depth === 0) return args[0]!.length === 0 ? [] : args;
    if (depth === 1 && isSymbol(token, ",")) args.push([]);
    else args.at(-1)!.push(token);
  }
  return [[], [], []];
}
