import { utf8 } from "@ultracloud/base";
import { type Token, tokenize } from "../domain/sql_text.ts";

/** A text may hold a token this often, and be this long, before its place is not looked for: each is read once more. */
const candidatesMax = 64;
const sqlCharsMax = 16 * 1024;

/**
 * Where in the text SQLite stopped, in bytes of UTF-8 as SQLite counts; undefined where that cannot be told. SQLite
 * itself knows, but this runtime does not pass it on. A syntax error is found by reading the text up to each place that
 * the message could mean: `parse` answers SQLite's message for a text, and must do so without effect. A name is told
 * where it stands once.
 */
export function errorOffset(
  sql: string,
  message: string,
  parse: (sql: string) => string | undefined,
): number | undefined {
  if (sql.length > sqlCharsMax) return undefined;
  const bytesBefore = (at: number) => utf8.encode(sql.slice(0, at)).length;
  if (message === "incomplete input") return bytesBefore(sql.length);
  const tokens = tokenize(sql);
  const near = /^(?:near "([\s\S]*)": syntax error|unrecognized token: "([\s\S]*)")$/.exec(message);
  if (near !== null) {
    const text = near[1] ?? near[2]!;
    // What does not close goes to the end.
    if (near[2] !== undefined && sql.endsWith(text)) return bytesBefore(sql.length - text.length);
    const places = tokens.filter(({ at, end }) => sql.slice(at, end) === text);
    if (places.length > candidatesMax) return undefined;
    const place = places.find(({ end }) => parse(sql.slice(0, end)) === message);
    return place === undefined ? undefined : bytesBefore(place.at);
  }
  const name =
    /^(?:no such (?:column|table|function|index|view|trigger|collation sequence): |ambiguous column name: )(.+)$/
      .exec(message)?.[1] ?? /^(?:table .+ has no column named (.+)|wrong number of arguments to function (.+)\(\))$/
      .exec(message)?.slice(1).find((part) => part !== undefined);
  const places = name === undefined ? [] : placesOf(name, tokens);
  return places.length === 1 ? bytesBefore(places[0]!) : undefined;
}

/** Where a name stands, like `a` or `main.a`: its first part. */
function placesOf(name: string, tokens: readonly Token[]): number[] {
  const parts = name.toUpperCase().split(".");
  const isWord = (token: Token | undefined, part: string) =>
    (token?.kind === "word" || token?.kind === "quoted") && token.word.toUpperCase() === part;
  return tokens.flatMap(({ at }, i) => {
    const stands = parts.every((part, p) =>
      isWord(tokens[i + p * 2], part) && (p === 0 || tokens[i + p * 2 - 1]?.word === ".")
    );
    return stands ? [at] : [];
  });
}
