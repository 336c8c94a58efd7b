import { Fault, fault } from "@ultracloud/base";
import type { Database } from "@ultracloud/sqlite";
import { planCost, type PlanRow, type Search, searchOf, unnamedSearch } from "../domain/plan_cost.ts";
import { readStatement, type StatementText } from "../domain/sql_text.ts";
import type { SqlMode } from "../domain/sql_rules.ts";
import { triggerStatements } from "../domain/trigger_text.ts";
import { foundBy } from "./index_fanout.ts";

/** What SQLite says of a statement that it has planned. */
export interface Explained {
  readonly rows: readonly PlanRow[];
  /** Tables it reads. */
  readonly tables: readonly string[];
  /** Triggers and views that it goes through. */
  readonly sources: readonly string[];
}

/** The plan of a statement; undefined when it cannot be planned. */
export type Explain = (text: StatementText, mode: SqlMode) => Explained | undefined;

interface Plan {
  readonly plan: readonly PlanRow[];
  readonly tables: readonly string[];
  readonly bounded: ReadonlyMap<string, number>;
  /** What else runs for each row that it changes. */
  readonly perRow: readonly Plan[];
}

interface Sizes {
  rows(table: string): number;
  found(search: Search, tables: readonly string[], rows: number): number;
}

const plansMax = 256;
/** Rows counted exactly before a table counts as larger than any budget. */
const countMax = 100_000_000;
const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

/**
 * Refuses statements whose plans, with those of the triggers they fire, may visit too many rows. What foreign keys look
 * up is in SQLite's own plan; what triggers do is not. */
export class StatementCosts {
  readonly #db: Database;
  readonly #explain: Explain;
  /** Undefined for statements that visit a row or two. */
  readonly #plans = { read: new Map<string, Plan | undefined>(), write: new Map<string, Plan | undefined>() };

  constructor(db: Database, explain: Explain) {
    this.#db = db;
    this.#explain = explain;
  }

  /** Plans are of a schema that is no more. */
  forget(): void {
    this.#plans.read.clear();
    this.#plans.write.clear();
  }

  /**
   * Refuses a statement whose plan may visit more rows than `rowsMax`. A statement that cannot be planned yet, as
   * what it uses is made earlier in the same batch, passes: running it tells.
   */
  check(text: StatementText, mode: SqlMode, rowsMax: number, field: string): void {
    if (text.class === "pragma" || text.class === "explain") return;
    const planned = this.#plan(text, mode);
    if (planned === undefined) return;
    // Row ids are at hand; counting is for the rare statement that seems to be too much.
    if (costOf(planned, { rows: (table) => this.#lastRowid(table), found: (_s, _t, rows) => rows }) <= rowsMax) return;
    const counts = new Map<string, number>();
    const count = (table: string) => {
      const known = counts.get(table) ?? this.#count(table, rowsMax);
      counts.set(table, known);
      return known;
    };
    const cost = costOf(planned, {
      rows: count,
      found: (search, tables, rows) => foundBy(this.#db, search, tables, rows),
    });
    if (cost <= rowsMax) return;
    throw fault(
      "resource_exhausted",
      "sql_too_costly",
      `Cannot run the statement as its plan visits about ${cost.toExponential(1)} rows: wanted at most ${rowsMax}`,
      { field: `${field}.sql` },
    );
  }

  #plan(text: StatementText, mode: SqlMode): Plan | undefined {
    const plans = this.#plans[mode];
    const known = plans.get(text.sql);
    if (known !== undefined || plans.has(text.sql)) return known;
    const plan = this.#make(text, mode, new Set());
    // One look-up alone finds no more than there is.
    const several = plan !== undefined && plan.plan.filter((r) => searchOf(r.detail)?.single === false).length > 1;
    const matters = plan !== undefined &&
      (several || plan.perRow.length > 0 ||
        // The least or greatest of one table, alone, is at hand or one scan.
        plan.plan.some(({ detail }) => detail.startsWith("SCAN ") || (plan.plan.length > 1 && unnamedSearch(detail))));
    if (plans.size >= plansMax) plans.delete(plans.keys().next().value!);
    plans.set(text.sql, matters ? plan : undefined);
    return matters ? plan : undefined;
  }

  /** `above` are the triggers that run already: none fires itself again. */
  #make(text: StatementText, mode: SqlMode, above: ReadonlySet<string>): Plan | undefined {
    const explained = this.#explain(text, mode);
    if (explained === undefined) return undefined;
    const perRow: Plan[] = [];
    for (const name of explained.sources) {
      if (above.has(name)) continue;
      const sql = this.#db.get<{ sql: string }>("SELECT sql FROM sqlite_schema WHERE type='trigger' AND name=?", name);
      if (sql === undefined) continue;
      const within = new Set([...above, name]);
      for (const statement of triggerStatements(sql.sql)) {
        const plan = this.#planAlone(statement, within);
        if (plan !== undefined) perRow.push(plan);
      }
    }
    return { plan: explained.rows, tables: explained.tables, bounded: text.bounded, perRow };
  }

  #planAlone(sql: string, above: ReadonlySet<string>): Plan | undefined {
    try {
      return this.#make(readStatement(sql, "trigger"), "write", above);
    } catch (error) {
      if (error instanceof Fault) return undefined;
      throw error;
    }
  }

  #lastRowid(table: string): number {
    try {
      const row = this.#db.raw.prepare(`SELECT max(_rowid_) AS n FROM ${quoted(table)}`).get();
      return Number((row as { n: bigint | number | null }).n ?? 0);
    } catch {
      return countMax;
    }
  }

  #count(table: string, max: number): number {
    try {
      const sql = `SELECT count(*) AS n FROM (SELECT 1 FROM ${quoted(table)} LIMIT ${max + 1})`;
      return Number((this.#db.raw.prepare(sql).get() as { n: bigint | number }).n);
    } catch {
      return 1;
    }
  }
}

function costOf({ plan, tables, bounded, perRow }: Plan, sizes: Sizes): number {
  const largest = () => Math.max(1, ...tables.map((table) => sizes.rows(table)));
  // Scans of an alias are named after it: then the largest table of the statement counts.
  const rowsOf = (name: string) => tables.includes(name) ? sizes.rows(name) : largest();
  const own = planCost(plan, bounded, rowsOf, (search) => sizes.found(search, tables, rowsOf(search.name)));
  const each = perRow.reduce((sum, inner) => sum + costOf(inner, sizes), 0);
  return own * (1 + each);
}
