import { type Token, tokenize } from "./sql_text.ts";

/**
 * What a trigger runs for each row, as statements that can be planned by themselves: its condition as a SELECT, then its
 * body. Columns of the row become parameters and RAISE becomes NULL, as both exist inside triggers only.
 */
export function triggerStatements(sql: string): string[] {
  const tokens = tokenize(sql);
  let depth = 0, when = -1, begin = -1;
  for (const [i, token] of tokens.entries()) {
    if (is(token, "(")) depth++;
    else if (is(token, ")")) depth--;
    else if (depth === 0 && word(token, "WHEN") && when < 0) when = i;
    else if (depth === 0 && word(token, "BEGIN")) {
      begin = i;
      break;
    }
  }
  if (begin < 0) return [];
  const statements = when < 0 ? [] : [`SELECT ${standalone(sql, tokens.slice(when + 1, begin))}`];
  let start = begin + 1;
  for (let i = start; i < tokens.length; i++) {
    if (!is(tokens[i], ";")) continue;
    if (i > start) statements.push(standalone(sql, tokens.slice(start, i)));
    start = i + 1;
  }
  return statements;
}

function standalone(sql: string, tokens: readonly Token[]): string {
  let text = "";
  let end = tokens[0]?.at ?? 0;
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    // Operators of two characters are two tokens.
    if (token.at > end) text += " ";
    const names = token.kind === "word" || token.kind === "quoted";
    if (names && /^(new|old)$/i.test(token.word) && is(tokens[i + 1], ".")) {
      text += "?1";
      i += 2;
    } else if (word(token, "RAISE") && is(tokens[i + 1], "(")) {
      text += "NULL";
      while (i < tokens.length - 1 && !is(tokens[i], ")")) i++;
    } else text += sql.slice(token.at, token.end);
    end = tokens[i]?.end ?? end;
  }
  return text;
}

function is(token: Token | undefined, symbol: string): boolean {
  return token?.kind === "symbol" && token.word === symbol;
}

function word(token: Token, name: string): boolean {
  return token.kind === "word" && token.word === name;
}
