import { parseSlt, type SltRecord } from "./parse.ts";
import { difference, formatRows, hashLine, type JsonValue } from "./values.ts";

/** What one request to POST /api/v1/sql answered. */
export type SqlAnswer =
  | { readonly rows: readonly (readonly JsonValue[])[]; readonly rowsAffected: number }
  | { readonly error: string };

/** Runs one SQL text on the database of the file. */
export type RunSql = (sql: string) => Promise<SqlAnswer>;

export interface SltReport {
  readonly passed: number;
  /** One line each, with the place in the file. */
  readonly failures: readonly string[];
}

/** Failures listed per file; the rest is counted. */
export const failuresShownMax = 20;

/** Runs the records of one file in order and counts; a failed record does not end the file. */
export async function runSlt(text: string, run: RunSql): Promise<SltReport> {
  const failures: string[] = [];
  let records: SltRecord[];
  try {
    records = parseSlt(text);
  } catch (error) {
    return { passed: 0, failures: [error instanceof Error ? error.message : String(error)] };
  }
  let passed = 0;
  const labels = new Map<string, string>();
  for (const record of records) {
    if (record.kind === "halt") break;
    // Only for runners that write results.
    if (record.kind === "hash_threshold") continue;
    const why = record.kind === "statement" ? await runStatement(record, run) : await runQuery(record, run, labels);
    if (why === undefined) passed++;
    else failures.push(`line ${record.line}: ${why} in ${JSON.stringify(record.sql.slice(0, 120))}`);
  }
  return { passed, failures };
}

async function runStatement(
  { expect, detail, sql }: SltRecord & { readonly kind: "statement" },
  run: RunSql,
): Promise<string | undefined> {
  const parts = statementsOf(sql);
  let answer = await run(parts[0]!);
  for (const part of parts.slice(1)) if (!("error" in answer)) answer = await run(part);
  if (expect === "error") {
    if (!("error" in answer)) return "it succeeded, wanted an error";
    return answer.error.toLowerCase().includes(detail.toLowerCase())
      ? undefined
      : `its error is ${JSON.stringify(answer.error)}, wanted ${JSON.stringify(detail)} in it`;
  }
  if ("error" in answer) return answer.error;
  if (expect === "count" && answer.rowsAffected !== Number(detail)) {
    return `it changed ${answer.rowsAffected} rows, wanted ${detail}`;
  }
  return undefined;
}

async function runQuery(
  { sql, types, sort, label, results }: SltRecord & { readonly kind: "query" },
  run: RunSql,
  labels: Map<string, string>,
): Promise<string | undefined> {
  const answer = await run(sql);
  if ("error" in answer) return answer.error;
  let values: string[];
  try {
    values = formatRows(answer.rows, types, sort);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  const why = results === undefined ? undefined : difference(values, results, types.length);
  if (why !== undefined || label === "") return why;
  // Queries of one label must agree, whatever the file says of each.
  const digest = hashLine(values);
  const before = labels.get(label);
  labels.set(label, digest);
  return before === undefined || before === digest ? undefined : `its label ${label} stood for another result before`;
}

/** A record may hold several statements, each at its own lines; the body of a trigger stays whole. */
function statementsOf(sql: string): string[] {
  if (/^\s*create\s+(temp\w*\s+)?trigger/i.test(sql)) return [sql];
  return sql.split(/;[ \t]*\n/).filter((part) => part.trim() !== "");
}
