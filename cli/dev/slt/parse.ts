import { fault } from "@ultracloud/base";

/** How the values of a query are ordered before they are compared. */
export const sortModes = ["nosort", "rowsort", "valuesort"] as const;
export type SortMode = typeof sortModes[number];

/** One record of a sqllogictest file; `line` is where its command stands. */
export type SltRecord =
  | {
    readonly kind: "statement";
    readonly line: number;
    readonly sql: string;
    /** Wanted outcome; `count` is the number of rows changed. */
    readonly expect: "ok" | "error" | "count";
    /** Part of the failure's message, or the number of rows, in text. */
    readonly detail: string;
  }
  | {
    readonly kind: "query";
    readonly line: number;
    readonly sql: string;
    /** One of T, I, R per column. */
    readonly types: string;
    readonly sort: SortMode;
    readonly label: string;
    /** Lines after `----`; undefined when the file has none, and the result only gives a label its value. */
    readonly results: readonly string[] | undefined;
  }
  | { readonly kind: "halt"; readonly line: number }
  | { readonly kind: "hash_threshold"; readonly line: number; readonly values: number };

/** Names under which this engine answers `skipif` and `onlyif`. */
const engines: ReadonlySet<string> = new Set(["sqlite", "flaredb"]);

/** A comment behind a command; texts of expected errors keep theirs. */
const withoutComment = (line: string) => line.replace(/\s+#.*$/, "").trim();

/** The records of a file in order, those for other engines left out. A line that is no command is a Fault. */
export function parseSlt(text: string): SltRecord[] {
  const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/);
  const records: SltRecord[] = [];
  let skip = false;
  for (let at = 0; at < lines.length;) {
    const raw = lines[at]!;
    const line = at + 1;
    if (raw.trim() === "" || raw.startsWith("#")) {
      at++;
      continue;
    }
    const refuse = (wanted: string) =>
      fault(
        "invalid_argument",
        "slt_malformed",
        `Cannot read line ${line} ${JSON.stringify(raw.slice(0, 80))}: ${wanted}`,
      );
    const words = withoutComment(raw).split(/\s+/);
    const [command = "", argument = ""] = words;
    at++;
    if (command === "skipif" || command === "onlyif") {
      if (argument === "") throw refuse("wanted the name of an engine");
      if (engines.has(argument.toLowerCase()) === (command === "skipif")) skip = true;
      continue;
    }
    let record: SltRecord | undefined;
    if (command === "halt") record = { kind: "halt", line };
    else if (command === "hash-threshold") {
      if (!/^\d+$/.test(argument)) throw refuse("wanted a number of values");
      record = { kind: "hash_threshold", line, values: Number(argument) };
    } else if (command === "statement" || command === "query") {
      const body = readBody(lines, at);
      at = body.next;
      if (body.sql === "") throw refuse("wanted SQL on the lines below it");
      const detail = raw.trim().replace(/^\S+\s+\S+\s*/, "");
      if (argument === "error" || command === "statement") {
        if (argument !== "ok" && argument !== "error" && argument !== "count") {
          throw refuse("wanted ok, error or count");
        }
        if (argument === "count" && !/^\d+$/.test(withoutComment(detail))) throw refuse("wanted a number of rows");
        const wanted = argument === "count" ? withoutComment(detail) : argument === "error" ? detail : "";
        record = { kind: "statement", line, sql: body.sql, expect: argument, detail: wanted };
      } else {
        const [, types = "", sort = "nosort", label = ""] = words;
        if (!/^[TIR]+$/.test(types)) throw refuse("wanted one of T, I, R for each column");
        if (!(sortModes as readonly string[]).includes(sort)) throw refuse(`wanted one of ${sortModes.join(", ")}`);
        record = { kind: "query", line, sql: body.sql, types, sort: sort as SortMode, label, results: body.results };
      }
    } else throw refuse("wanted statement, query, skipif, onlyif, hash-threshold or halt");
    if (!skip) records.push(record);
    skip = false;
  }
  return records;
}

/** SQL up to a blank line or `----`, and the results after that up to a blank line. */
function readBody(
  lines: readonly string[],
  from: number,
): { readonly sql: string; readonly results: string[] | undefined; readonly next: number } {
  let at = from;
  const sql: string[] = [];
  while (at < lines.length && lines[at]!.trim() !== "" && lines[at] !== "----") sql.push(lines[at++]!);
  if (lines[at] !== "----") return { sql: sql.join("\n").trim(), results: undefined, next: at };
  const results: string[] = [];
  at++;
  while (at < lines.length && lines[at]!.trim() !== "") results.push(lines[at++]!);
  return { sql: sql.join("\n").trim(), results, next: at };
}
