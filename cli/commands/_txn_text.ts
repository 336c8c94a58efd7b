import { fault } from "@ultracloud/base";
import { CompareResult, type CompareSchema, type RequestOpSchema } from "@ultracloud/proto/chainfire/v1";
import type { MessageInitShape } from "@bufbuild/protobuf";

import { type Encoding, prefixEnd, toBytes } from "./_kv_bytes.ts";

type CompareInit = MessageInitShape<typeof CompareSchema>;
type OpInit = MessageInitShape<typeof RequestOpSchema>;

export interface TxnText {
  readonly compare: readonly CompareInit[];
  readonly success: readonly OpInit[];
  readonly failure: readonly OpInit[];
}

const results: Readonly<Record<string, CompareResult>> = {
  "=": CompareResult.EQUAL,
  "!=": CompareResult.NOT_EQUAL,
  ">": CompareResult.GREATER,
  "<": CompareResult.LESS,
};

export const txnHelp = `Three parts with an empty line between them, from --file or standard input:
  comparisons, all of which must hold   version("key") = "1", value, created, modified, lease; = != > <
  what is done when they hold           put key value, get key, delete key; with --prefix for a range
  what is done when they do not
Words with blanks stand in double quotes; # begins a comment.`;

/** Reads a transaction: comparisons, an empty line, what to do when they hold, an empty line, what otherwise. */
export function parseTxn(text: string, encoding: Encoding): TxnText {
  const parts: { readonly line: string; readonly number: number }[][] = [[]];
  text.split("\n").forEach((raw, i) => {
    const line = raw.trim();
    if (line.startsWith("#")) return;
    if (line !== "") parts.at(-1)!.push({ line, number: i + 1 });
    else if (parts.length < 3) parts.push([]);
  });
  const [compare = [], success = [], failure = []] = parts;
  return {
    compare: compare.map(({ line, number }) => parseCompare(line, number, encoding)),
    success: success.map(({ line, number }) => parseOp(line, number, encoding)),
    failure: failure.map(({ line, number }) => parseOp(line, number, encoding)),
  };
}

function unreadable(number: number, line: string, wanted: string): never {
  throw fault(
    "invalid_argument",
    "bad_transaction",
    `Cannot read line ${number} ${JSON.stringify(line.slice(0, 80))}: wanted ${wanted}`,
  );
}

const compareLine = /^(\w+)\(("(?:[^"\\]|\\.)*")\)\s*(=|!=|<|>)\s*("(?:[^"\\]|\\.)*"|\S+)$/;

function parseCompare(line: string, number: number, encoding: Encoding): CompareInit {
  const match = compareLine.exec(line);
  if (!match) unreadable(number, line, 'a comparison like version("key") = "1"');
  const [, target, key, operator, operand] = match as unknown as [string, string, string, string, string];
  const common = { key: toBytes(unquote(key), encoding), result: results[operator]! };
  const written = unquote(operand);
  const whole = (): bigint => {
    if (/^\d{1,19}$/.test(written)) return BigInt(written);
    return unreadable(number, line, `a number after ${operator}`);
  };
  switch (target) {
    case "value":
    case "val":
      return { ...common, target: { case: "value", value: toBytes(written, encoding) } };
    case "version":
    case "ver":
      return { ...common, target: { case: "version", value: whole() } };
    case "created":
    case "create":
    case "c":
      return { ...common, target: { case: "createRevision", value: whole() } };
    case "modified":
    case "mod":
    case "m":
      return { ...common, target: { case: "modRevision", value: whole() } };
    case "lease":
      return { ...common, target: { case: "lease", value: whole() } };
    default:
      return unreadable(number, line, "one of value, version, created, modified, lease");
  }
}

function parseOp(line: string, number: number, encoding: Encoding): OpInit {
  const words = wordsOf(line, number);
  const prefix = words.includes("--prefix");
  const [verb, key, value, ...rest] = words.filter((word) => word !== "--prefix");
  if (key === undefined || rest.length > 0) unreadable(number, line, "put key value, get key or delete key");
  const first = toBytes(key!, encoding);
  const range = { key: first, rangeEnd: prefix ? prefixEnd(first) : new Uint8Array(0) };
  switch (verb) {
    case "put":
      if (value === undefined || prefix) unreadable(number, line, "put key value");
      return { request: { case: "put", value: { key: first, value: toBytes(value!, encoding) } } };
    case "get":
      if (value !== undefined) unreadable(number, line, "get key");
      return { request: { case: "range", value: range } };
    case "delete":
    case "del":
      if (value !== undefined) unreadable(number, line, "delete key");
      return { request: { case: "deleteRange", value: range } };
    default:
      return unreadable(number, line, "put, get or delete");
  }
}

const wordPattern = /"(?:[^"\\]|\\.)*"|[^\s"]+/y;

function wordsOf(line: string, number: number): string[] {
  const words: string[] = [];
  for (let at = 0; at < line.length;) {
    wordPattern.lastIndex = at;
    const [word] = wordPattern.exec(line) ?? [];
    if (word === undefined) unreadable(number, line, "words, those with blanks in double quotes");
    words.push(unquote(word!));
    at += word!.length;
    while (line[at] === " " || line[at] === "\t") at++;
  }
  return words;
}

function unquote(word: string): string {
  return word.startsWith('"') ? word.slice(1, -1).replace(/\\(.)/g, "$1") : word;
}
