import { Fault, fault } from "@ultracloud/base";
import type { Database } from "@ultracloud/sqlite";
import { copiesOf } from "../domain/copies.ts";
import { planCost, type PlanRow, type Search, searchOf, unnamedSearch } from "../domain/plan_cost.ts";
import { readStatement, type StatementText, tokenize } from "../domain/sql_text.ts";
import type { SqlMode } from "../domain/sql_rules.ts";
import { triggerStatements } from "../domain/trigger_text.ts";
import { boundValues, type ValueLimits, valueLimits, weighedRows } from "../domain/value_bound.ts";
import { addWork, noWork, type ValueWork, valueWork } from "../domain/value_work.ts";
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
  /** What it does to values, with the views, tables and triggers that it goes through. */
  readonly work: ValueWork;
  /** What one row holds may be used for many others. */
  readonly nested: boolean;
  /** It goes through tables as a whole, whatever its plan says: of the values it computes for an index, for one. */
  readonly whole: boolean;
}

/** How a statement is to be run. */
export interface Admitted {
  /** False where its plan could not be read, as what it uses is not there yet. */
  readonly planned: boolean;
  /** Undefined: the usual ones do. */
  readonly limits: ValueLimits | undefined;
}

const unplanned: Admitted = { planned: false, limits: undefined };
const harmless: Admitted = { planned: true, limits: undefined };

interface Sizes {
  rows(table: string): number;
  found(search: Search, tables: readonly string[], rows: number): number;
}

const plansMax = 256;
/** Copies of an expression that a statement may come to while it is prepared: half a second, and 100 MB. */
const copiesMax = 1_000_000;
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
  readonly #usual: ValueLimits;
  readonly #works = new Map<string, ValueWork>();
  /** Of views, and of tables with triggers, by their names in lower case; undefined until asked. */
  #definitions: Map<string, { readonly texts: string[]; copies: number | undefined }> | undefined;
  readonly #plans = { read: new Map<string, Plan | undefined>(), write: new Map<string, Plan | undefined>() };

  constructor(db: Database, usual: ValueLimits, explain: Explain) {
    this.#db = db;
    this.#usual = usual;
    this.#explain = explain;
  }

  /** Plans are of a schema that is no more. */
  forget(): void {
    this.#plans.read.clear();
    this.#plans.write.clear();
    this.#works.clear();
    this.#definitions = undefined;
  }

  /**
   * Refuses a statement whose plan may visit more rows than `rowsMax`, and answers how long its values may get. A
   * statement that cannot be planned yet, as what it uses is made earlier in the same batch, passes: it is to be asked
   * about again once that is there.
   */
  check(
    text: StatementText,
    mode: SqlMode,
    values: Iterable<string | Uint8Array>,
    rowsMax: number,
    field: string,
  ): Admitted {
    if (text.class === "pragma" || text.class === "explain") return harmless;
    const planned = this.#plan(text, mode, field);
    if (planned === undefined) return harmless;
    if (planned === "unknown") return unplanned;
    const bound = boundValues(values, planned.work.asked > 0);
    const limitsFor = (rows: number) => valueLimits(rows, planned.nested, planned.work, bound, this.#usual);
    // Row ids are at hand; counting is for the rare statement that seems to be too much.
    const first = costOf(planned, { rows: (table) => this.#lastRowid(table), found: (_s, _t, rows) => rows });
    if (weighedRows(first, planned.work, bound) <= rowsMax && limitsFor(first) === undefined) return harmless;
    const counts = new Map<string, number>();
    const count = (table: string) => {
      const known = counts.get(table) ?? this.#count(table, rowsMax);
      counts.set(table, known);
      return known;
    };
    const rows = costOf(planned, {
      rows: count,
      found: (search, tables, rows) => foundBy(this.#db, search, tables, rows),
    });
    const cost = weighedRows(rows, planned.work, bound);
    if (cost <= rowsMax) return { planned: true, limits: limitsFor(rows) };
    throw fault(
      "resource_exhausted",
      "sql_too_costly",
      `Cannot run the statement as its plan visits about ${cost.toExponential(1)} rows: wanted at most ${rowsMax}`,
      { field: `${field}.sql` },
    );
  }

  #plan(text: StatementText, mode: SqlMode, field: string): Plan | undefined | "unknown" {
    const plans = this.#plans[mode];
    const known = plans.get(text.sql);
    if (known !== undefined || plans.has(text.sql)) return known;
    this.#checkCopies(text, field);
    const plan = this.#make(text, mode, new Set());
    if (plan === undefined) return "unknown";
    // One look-up alone finds no more than there is.
    const several = plan.plan.filter((r) => searchOf(r.detail)?.single === false).length > 1;
    const matters = several || plan.perRow.length > 0 || isWork(plan.work) ||
      // The least or greatest of one table, alone, is at hand or one scan.
      plan.plan.some(({ detail }) => detail.startsWith("SCAN ") || (plan.plan.length > 1 && unnamedSearch(detail)));
    if (plans.size >= plansMax) plans.delete(plans.keys().next().value!);
    plans.set(text.sql, matters ? plan : undefined);
    return matters ? plan : undefined;
  }

  /** Before SQLite prepares it, which is when it would make them. */
  #checkCopies(text: StatementText, field: string): void {
    const copies = this.#copiesThrough(text.sql, text.copies);
    if (copies <= copiesMax) return;
    throw fault(
      "resource_exhausted",
      "sql_too_costly",
      `Cannot run the statement as its queries within queries come to ${copies.toExponential(1)} copies of an ` +
        `expression: wanted at most ${copiesMax}, or MATERIALIZED common table expressions`,
      { field: `${field}.sql` },
    );
  }

  /** With those of the views that it names, and of the triggers of tables that it names. */
  #copiesThrough(sql: string, own: number): number {
    if (this.#definitions === undefined) {
      this.#definitions = new Map();
      const rows = this.#db.all<{ name: string; sql: string }>(
        "SELECT lower(iif(type='view', name, tbl_name)) AS name, sql FROM sqlite_schema WHERE type IN ('view', 'trigger')",
      );
      for (const { name, sql } of rows) {
        const known = this.#definitions.get(name) ?? { texts: [], copies: undefined };
        known.texts.push(sql);
        this.#definitions.set(name, known);
      }
    }
    if (this.#definitions.size === 0) return own;
    let most = 1;
    for (const { kind, word } of tokenize(sql)) {
      const definition = kind === "word" || kind === "quoted" ? this.#definitions.get(word.toLowerCase()) : undefined;
      if (definition === undefined) continue;
      if (definition.copies === undefined) {
        // A definition names itself.
        definition.copies = 1;
        const each = definition.texts.map((text) => this.#copiesThrough(text, copiesOf(tokenize(text))));
        definition.copies = Math.max(...each);
      }
      most = Math.max(most, definition.copies);
    }
    return own * most;
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
    const { rows, tables, sources } = explained;
    const work = [...tables, ...sources].reduce((sum, name) => addWork(sum, this.#workOf(name)), text.work);
    const nested = rows.filter(({ detail }) => /^(SCAN|SEARCH|SCALAR) /.test(detail)).length > 1;
    return { plan: rows, tables, bounded: text.bounded, perRow, work, nested, whole: text.class === "schema" };
  }

  /** Of a view, a trigger, or a table with its indexes: what they compute stands in no statement. */
  #workOf(name: string): ValueWork {
    let work = this.#works.get(name);
    if (work !== undefined) return work;
    const definitions = this.#db.all<{ sql: string }>(
      "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND (name=?1 OR (tbl_name=?1 AND type='index'))",
      name,
    );
    work = definitions.reduce(
      (sum, { sql }) => addWork(sum, valueWork(tokenize(sql), /\brecursive\b/i.test(sql))),
      noWork,
    );
    this.#works.set(name, work);
    return work;
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

/** Work that a single row may make too much of. */
function isWork(work: ValueWork): boolean {
  return work.makes || work.square > 0 || work.needles > 0 || work.replaces || work.asked > 0 || work.patterns > 0;
}

function costOf({ plan, tables, bounded, perRow, work, whole }: Plan, sizes: Sizes): number {
  const largest = () => Math.max(1, ...tables.map((table) => sizes.rows(table)));
  // Scans of an alias are named after it: then the largest table of the statement counts.
  const rowsOf = (name: string) => tables.includes(name) ? sizes.rows(name) : largest();
  const least = whole && isWork(work) ? largest() : 1;
  const own = Math.max(
    least,
    planCost(plan, bounded, rowsOf, (search) => sizes.found(search, tables, rowsOf(search.name))),
  );
  const each = perRow.reduce((sum, inner) => sum + costOf(inner, sizes), 0);
  return own * (1 + each);
}
