import type { Token } from "./sql_text.ts";

const keywords: ReadonlySet<string> = new Set(
  ("ALL AND AS ASC BETWEEN BY CASE CAST COLLATE CROSS DESC DISTINCT ELSE END ESCAPE EXCEPT EXISTS FILTER FROM FULL GLOB " +
    "GROUP HAVING IN INNER INTERSECT IS ISNULL JOIN LEFT LIKE LIMIT NATURAL NOT NOTNULL NULL OFFSET ON OR ORDER OUTER " +
    "OVER PARTITION RIGHT SELECT THEN UNION USING VALUES WHEN WHERE WINDOW WITH").split(" "),
);
const compounds: ReadonlySet<string> = new Set(["UNION", "EXCEPT", "INTERSECT"]);

interface Query {
  /** How often the most frequent name stands in it, by branches of a compound. */
  most: number;
  counts: Map<string, number>;
  /** Of the queries within it: those it reads, and those that follow one another as common table expressions. */
  within: number;
  chained: number;
}

const query = (): Query => ({ most: 1, counts: new Map(), within: 1, chained: 1 });
const copiesIn = ({ most, within, chained }: Query) => most * within * chained;

/**
 * How often at most an expression of the innermost query may stand in what SQLite makes of the statement: it puts the
 * expressions of a query in the place of their names in the one around it, while it prepares the statement. Forty queries
 * that name a column twice would take all memory before anything runs. MATERIALIZED keeps a query as it is.
 */
export function copiesOf(tokens: readonly Token[]): number {
  const open: { readonly at: number; readonly inner: Query | undefined }[] = [];
  const queries = [query()];
  for (const [i, token] of tokens.entries()) {
    const current = queries.at(-1)!;
    if (token.kind === "symbol" && token.word === "(") {
      const inner = /^(SELECT|WITH|VALUES)$/.test(tokens[i + 1]?.word ?? "") ? query() : undefined;
      open.push({ at: i, inner });
      if (inner !== undefined) queries.push(inner);
    } else if (token.kind === "symbol" && token.word === ")") {
      const { at, inner } = open.pop() ?? {};
      if (at === undefined || inner === undefined) continue;
      queries.pop();
      const around = queries.at(-1)!;
      const before = tokens[at - 1]?.word;
      if (before === "MATERIALIZED" && tokens[at - 2]?.word !== "NOT") continue;
      if (before === "AS" || before === "MATERIALIZED") around.chained *= copiesIn(inner);
      else around.within = Math.max(around.within, copiesIn(inner));
    } else if (token.kind === "word" && compounds.has(token.word)) current.counts.clear();
    else if (token.kind === "quoted" || (token.kind === "word" && !keywords.has(token.word))) {
      const next = tokens[i + 1];
      if (next?.kind === "symbol" && (next.word === "(" || next.word === ".")) continue;
      const name = token.word.toLowerCase();
      const count = (current.counts.get(name) ?? 0) + 1;
      current.counts.set(name, count);
      current.most = Math.max(current.most, count);
    }
  }
  return queries.reduce((product, each) => product * copiesIn(each), 1);
}
