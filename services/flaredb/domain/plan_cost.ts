import { recursionRowsMax } from "./sql_text.ts";

/** One row of EXPLAIN QUERY PLAN. */
export interface PlanRow {
  readonly id: number;
  readonly parent: number;
  readonly detail: string;
}

/** Rows a table function is taken to yield: its argument is not known before it runs. */
const tableFunctionRows = 1_000;
/** A second one in the same statement multiplies what one text of the largest size may hold. */
const nestedFunctionRows = 1_000_000;

/** A look-up in a plan: of a table by its key, or through an index. */
export interface Search {
  /** Table or alias. */
  readonly name: string;
  /** Undefined: the table's own key, or one that SQLite makes for the statement. */
  readonly index: string | undefined;
  /** Columns compared for equality, by name. */
  readonly equal: readonly string[];
  /** It reads on from where it started. */
  readonly range: boolean;
  /** By the one integer that is the row's own. */
  readonly single: boolean;
}

/** What a step of a plan looks up; undefined for other steps. */
export function searchOf(detail: string): Search | undefined {
  const match =
    /^SEARCH (\S+) USING (?:(INTEGER PRIMARY KEY)|PRIMARY KEY|(AUTOMATIC )?(?:PARTIAL )?(?:COVERING )?INDEX ?(\S+)?) \((.*)\)/
      .exec(detail);
  if (match === null) return undefined;
  const [, name, key, automatic, index, terms] = match as unknown as [
    string,
    string,
    string?,
    string?,
    string?,
    string?,
  ];
  const conditions = (terms ?? "").split(" AND ");
  const equal = conditions.filter((term) => term.endsWith("=?")).map((term) => term.slice(0, -2));
  const range = equal.length < conditions.length;
  return { name, index: automatic ? undefined : index, equal, range, single: key !== undefined && !range };
}

/** A look-up that does not say by what. */
export function unnamedSearch(detail: string): boolean {
  return /^SEARCH \S+$/.test(detail);
}

/**
 * How many rows the plan may visit: the product of its nested scans and of look-ups that find several. An estimate that
 * catches joins that explode, not a promise. `rowsOf` answers an upper bound
 * for a table, undefined for what is none; `foundBy` one for a look-up.
 */
export function planCost(
  plan: readonly PlanRow[],
  bounded: ReadonlyMap<string, number>,
  rowsOf: (table: string) => number | undefined,
  foundBy: (search: Search) => number = () => 1,
): number {
  let functions = 0;
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
        const yielded = scan[2] === undefined
          ? rowsOf(name)
          : functions++ === 0
          ? tableFunctionRows
          : nestedFunctionRows;
        loops *= Math.max(1, derived.get(name) ?? yielded ?? 1);
        loops *= inner;
      } else if (/^CORRELATED /.test(detail)) {
        perRow += inner;
      } else if (unnamedSearch(detail)) {
        // How SQLite shows a scan that may end early, for min() and max(): it need not.
        const name = detail.slice("SEARCH ".length);
        loops *= inner * Math.max(1, derived.get(name) ?? rowsOf(name) ?? 1);
      } else if (/^SEARCH /.test(detail)) {
        const search = searchOf(detail);
        const known = search === undefined ? undefined : derived.get(search.name);
        loops *= inner * Math.max(1, known ?? (search === undefined || search.single ? 1 : foundBy(search)));
      } else if (detail === "MULTI-INDEX OR") {
        loops *= inner;
      } else {
        separate += inner;
      }
    }
    return loops * (1 + perRow) + separate;
  };
  return costOf(0);
}
