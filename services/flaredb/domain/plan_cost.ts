import { recursionRowsMax } from "./sql_text.ts";

/** One row of EXPLAIN QUERY PLAN. */
export interface PlanRow {
  readonly id: number;
  readonly parent: number;
  readonly detail: string;
}

/** Rows a table function is taken to yield: its argument is not known before it runs. */
const tableFunctionRows = 1_000;

/**
 * How many rows the plan may visit: the product of its nested scans. An index look-up counts as one row, so this is
 * an estimate that catches joins without a condition, not a promise; `rowsOf` answers an upper bound for a table,
 * undefined for what is none.
 */
export function planCost(
  plan: readonly PlanRow[],
  bounded: ReadonlyMap<string, number>,
  rowsOf: (table: string) => number | undefined,
): number {
  const children = new Map<number, PlanRow[]>();
  for (const row of plan) {
    const list = children.get(row.parent);
    if (list === undefined) children.set(row.parent, [row]);
    else list.push(row);
  }
  /** Rows of materialised subqueries and common table expressions, by the name that later scans use. */
  const derived = new Map<string, number>();

  const costOf = (parent: number): number => {
    let loops = 1, separate = 0, perRow = 0;
    for (const { id, detail } of children.get(parent) ?? []) {
      const named = /^(?:CO-ROUTINE|MATERIALIZE) (.+)$/.exec(detail);
      const scan = /^SCAN ([^ ]+|\(.+?\))( VIRTUAL TABLE)?(?: |$)/.exec(detail);
      if (named !== null) {
        const recursive = (children.get(id) ?? []).some((child) => child.detail === "RECURSIVE STEP");
        // Inside its own body a recursive table is read row by row.
        if (recursive) derived.set(named[1]!, 1);
        const inner = costOf(id);
        const rows = recursive ? (bounded.get(named[1]!.toLowerCase()) ?? recursionRowsMax) * inner : inner;
        derived.set(named[1]!, rows);
        separate += rows;
        continue;
      }
      const inner = costOf(id);
      if (scan !== null && detail !== "SCAN CONSTANT ROW") {
        const name = scan[1]!;
        loops *= Math.max(1, derived.get(name) ?? rowsOf(name) ?? (scan[2] ? tableFunctionRows : 1));
        loops *= inner;
      } else if (/^CORRELATED /.test(detail)) {
        perRow += inner;
      } else if (/^SEARCH /.test(detail)) {
        loops *= inner;
      } else {
        separate += inner;
      }
    }
    return loops * (1 + perRow) + separate;
  };
  return costOf(0);
}
