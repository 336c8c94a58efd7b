import { tokenize } from "./sql_text.ts";

/** What of a migration's statement loses data or names; undefined when it only adds. UPDATE counts as adding. */
export function destruction(sql: string): string | undefined {
  const words = tokenize(sql).filter((token) => token.kind === "word").map((token) => token.word);
  const [first, second] = words;
  // What a trigger will do is not done yet.
  if (first === "CREATE") return undefined;
  if (first === "DROP") return second === "INDEX" ? undefined : `DROP ${second ?? ""}`;
  if (first === "ALTER") return words.find((word) => word === "DROP" || word === "RENAME")?.replace(/^/, "ALTER ");
  if (first === "REPLACE") return "REPLACE";
  return words.includes("DELETE") ? "DELETE" : undefined;
}
