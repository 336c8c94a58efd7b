import type { MessageInitShape } from "@bufbuild/protobuf";
import { Fault, fault, invalidField } from "@ultracloud/base";
import type { ResultSetSchema, Row, Statement } from "@ultracloud/proto/flaredb/v1";
import { authorizerCodes, type Database } from "@ultracloud/sqlite";
import type { SQLInputValue, StatementSync } from "node:sqlite";
import type { PlanRow } from "../domain/plan_cost.ts";
import {
  actions,
  completionFunction,
  isAllowedFunction,
  refusal,
  type SqlContext,
  type SqlMode,
} from "../domain/sql_rules.ts";
import { calledNames, readStatement, type StatementText } from "../domain/sql_text.ts";
import type { ValueLimits } from "../domain/value_bound.ts";
import { errorOffset } from "./error_offset.ts";
import type { FrozenInputs } from "./frozen_functions.ts";
import { type Admitted, type Explained, StatementCosts } from "./statement_cost.ts";
import { isStatementError, type SqliteError } from "./sqlite_errors.ts";
import { bindings, checkParameters, toValue } from "./sql_values.ts";

export type ResultSet = MessageInitShape<typeof ResultSetSchema>;

export interface RunLimits {
  readonly rowsMax: number;
  readonly bytesMax: number;
  /** What `admit` answered; where it is undefined, the connection's own hold. */
  readonly values?: ValueLimits | undefined;
  /** Asked between rows; throws when the statement has run for too long. */
  readonly tick?: () => void;
}

interface Prepared {
  /**
   * `effect`: no rows; `returning`: changes with rows; `query`: a SELECT; `point`: one that looks a single row up and
   * calls nothing; `listing`: a pragma or a plan, few rows.
   */
  readonly kind: "effect" | "returning" | "query" | "point" | "listing";
  readonly statement: StatementSync;
  readonly columns: string[];
  readonly types: string[];
  readonly tables: Touched;
}

/** Tables that statements use; `schema` when one of them changes what tables there are. */
export interface Touched {
  readonly reads: ReadonlySet<string>;
  readonly writes: ReadonlySet<string>;
  readonly schema: boolean;
}

/** Texts whose reading is remembered; statements come again and again. */
const textsMax = 1_000;
const statementsMax = 256;
const rowBytes = 16;
/** SQLITE_TOOBIG. */
const tooBig = 18;

/** Runs callers' SQL on a connection that also holds the store's own tables. */
export class SqlRunner {
  readonly #db: Database;
  readonly #inputs: FrozenInputs;
  readonly #texts = new Map<string, StatementText>();
  /** By mode, then by text: what a query may not do was decided when its statement was prepared. */
  readonly #statements = { read: new Map<string, Prepared>(), write: new Map<string, Prepared>() };
  readonly #costs: StatementCosts;
  /** SQLite's functions that statements may not call. */
  readonly #unknown: ReadonlySet<string>;
  #context: SqlContext | undefined;
  #refused = "";
  #tables = new Set<string>();
  #written = new Set<string>();
  /** Triggers and views that something was done for. */
  #sources = new Set<string>();
  #called = false;
  #reads = new Set<string>();
  #writes = new Set<string>();
  #schema = false;
  #completed = false;
  /** Something in the schema may keep half of a failed statement; undefined until asked. */
  #schemaFails: boolean | undefined;

  constructor(db: Database, inputs: FrozenInputs) {
    this.#db = db;
    this.#inputs = inputs;
    const { length, likePatternLength } = nativeLimits(db);
    const usual = { bytesMax: length, patternMax: likePatternLength };
    this.#costs = new StatementCosts(db, usual, (text, mode) => this.#explainPlan(text, mode));
    const names = db.all<{ name: string }>("SELECT DISTINCT lower(name) AS name FROM pragma_function_list");
    this.#unknown = new Set(names.map(({ name }) => name).filter((name) => !isAllowedFunction(name)));
    // Always set and switched by context: SQLite asks again whenever it prepares anew after a change of the schema.
    db.authorizer((action, arg1, arg2, database, source) => {
      if (this.#context === undefined) return authorizerCodes.ok;
      if (action === actions.read && arg1 !== null) this.#tables.add(arg1);
      if (source !== null) this.#sources.add(source);
      this.#called ||= action === actions.function;
      if ((action === actions.insert || action === actions.update || action === actions.delete) && arg1 !== null) {
        this.#written.add(arg1);
      }
      const reason = refusal({ action, arg1, arg2, database, source }, this.#context);
      if (reason === undefined) return authorizerCodes.ok;
      this.#refused = reason;
      return authorizerCodes.deny;
    });
    db.function(completionFunction, () => {
      this.#completed = true;
      return null;
    });
    db.exec("CREATE TEMP TABLE IF NOT EXISTS uc_rowid(id INTEGER PRIMARY KEY)");
  }

  /** Forgets prepared statements; needed after the database was replaced or the schema was rolled back. */
  forget(): void {
    this.#statements.read.clear();
    this.#statements.write.clear();
    this.#costs.forget();
    this.#schemaFails = undefined;
  }

  /** From here on `touched` tells the tables of the statements that were run. */
  watchTables(): void {
    this.#reads = new Set();
    this.#writes = new Set();
    this.#schema = false;
  }

  get touched(): Touched {
    return { reads: this.#reads, writes: this.#writes, schema: this.#schema };
  }

  /** changes() and last_insert_rowid() must not tell what an earlier entry did: a restarted replica would not know. */
  forgetLastInsert(): void {
    this.#db.run("INSERT OR REPLACE INTO temp.uc_rowid VALUES(0)");
  }

  /**
   * A statement of which nothing is left when it fails, whatever made it fail. The conflict clause FAIL, of a statement,
   * a constraint or a trigger's RAISE, keeps what was done before; rows that are answered are bounded after the changes.
   */
  undoesItself({ sql }: Statement): boolean {
    const text = this.#texts.get(sql);
    if (text?.class !== "write" || text.mayFail) return false;
    this.#schemaFails ??= this.#db.get<{ sql: string }>(
      "SELECT sql FROM sqlite_schema WHERE sql LIKE '%fail%' LIMIT 1",
    ) !== undefined;
    return !this.#schemaFails && !text.returns;
  }

  /** Checks the text and binds the parameters' shapes without running anything. */
  check(statement: Statement, mode: SqlMode, field: string): StatementText {
    let text = this.#texts.get(statement.sql);
    if (text === undefined) {
      text = readStatement(statement.sql, field);
      if (this.#texts.size >= textsMax) this.#texts.delete(this.#texts.keys().next().value!);
      this.#texts.set(statement.sql, text);
    }
    if (text.class === "schema") this.#refuseDefaults(text, field);
    if (mode === "read" && (text.class === "write" || text.class === "schema")) {
      throw invalidField(`${field}.sql`, "Cannot change anything in a query: wanted Execute", "sql_read_only");
    }
    checkParameters(statement, text, field);
    return text;
  }

  /** SQLite does not ask the authorizer about functions of defaults, not even when they are used. */
  #refuseDefaults(text: StatementText, field: string): void {
    const called = [...calledNames(text.sql)].find((name) => this.#unknown.has(name));
    if (called === undefined) return;
    throw invalidField(
      `${field}.sql`,
      `Cannot run the statement: the function ${called} is not known to give the same result on every replica`,
      "sql_refused",
    );
  }

  /**
   * Refuses a statement that may visit more rows than `rowsMax`, and answers how it is to be run; see StatementCosts.
   * Entries are applied under the usual limits: what they may do is decided before they are in the log.
   */
  admit(statement: Statement, mode: SqlMode, rowsMax: number, field: string): Admitted {
    const text = this.check(statement, mode, field);
    return this.#costs.check(text, mode, longValues(statement), rowsMax, field);
  }

  #explainPlan(text: StatementText, mode: SqlMode): Explained | undefined {
    this.#tables = new Set();
    this.#written = new Set();
    this.#sources = new Set();
    let rows: PlanRow[];
    try {
      const explain = `EXPLAIN QUERY PLAN ${text.sql}`;
      rows = this.#as(text, mode, () => this.#db.raw.prepare(explain).all() as unknown as PlanRow[]);
    } catch (error) {
      if (error instanceof Fault) throw error;
      return undefined;
    }
    return {
      rows: rows.map((row) => ({ id: Number(row.id), parent: Number(row.parent), detail: row.detail })),
      tables: [...this.#tables],
      sources: [...this.#sources],
    };
  }

  /**
   * Runs one statement.
   *
   * @throws {Fault} `sql_error` with SQLite's code and text, `sql_refused`, `rows_too_many`. Anything else is a
   * failure of the machine.
   */
  run(statement: Statement, mode: SqlMode, limits: RunLimits, field: string): ResultSet {
    const text = this.check(statement, mode, field);
    this.#inputs.failure = undefined;
    try {
      return this.#as(text, mode, () => {
        const prepared = this.#prepare(text, mode);
        for (const table of prepared.tables.reads) this.#reads.add(table);
        for (const table of prepared.tables.writes) this.#writes.add(table);
        this.#schema ||= prepared.tables.schema;
        const step = () => this.#step(prepared, statement, text, limits);
        return limits.values === undefined ? step() : this.#within(limits.values, step);
      });
    } catch (error) {
      throw this.#explain(error, field, text.sql, limits.values);
    } finally {
      // Columns were read when statements were prepared.
      if (text.class === "schema") this.forget();
    }
  }

  #as<T>(text: StatementText, mode: SqlMode, work: () => T): T {
    this.#context = { mode, schema: text.class === "schema", bounded: text.bounded };
    this.#refused = "";
    try {
      return work();
    } finally {
      this.#context = undefined;
    }
  }

  #within<T>({ bytesMax, patternMax }: ValueLimits, work: () => T): T {
    const native = nativeLimits(this.#db);
    const { length, likePatternLength } = native;
    native.length = bytesMax;
    native.likePatternLength = patternMax;
    try {
      return work();
    } finally {
      native.length = length;
      native.likePatternLength = likePatternLength;
    }
  }

  #prepare(text: StatementText, mode: SqlMode): Prepared {
    const known = this.#statements[mode];
    let prepared = known.get(text.sql);
    if (prepared !== undefined) return prepared;
    this.#tables = new Set();
    this.#written = new Set();
    this.#called = false;
    const statement = this.#prepareText(text.sql);
    const columns = statement.columns() as unknown as readonly { name: string; type: string | null }[];
    const base = {
      columns: columns.map((column) => column.name),
      types: columns.map((column) => column.type ?? ""),
      tables: { reads: this.#tables, writes: this.#written, schema: text.class === "schema" },
    };
    if (columns.length === 0) prepared = { ...base, kind: "effect", statement };
    else if (this.#written.size > 0) prepared = { ...base, kind: "returning", statement };
    else if (text.class !== "read") prepared = { ...base, kind: "listing", statement };
    else if (!this.#called && this.#looksOneUp(text)) prepared = { ...base, kind: "point", statement };
    else {
      const nulls = ", NULL".repeat(columns.length - 1);
      const wrapped = `SELECT * FROM (\n${text.body}\n) UNION ALL SELECT ${completionFunction}()${nulls}`;
      prepared = { ...base, kind: "query", statement: this.#prepareText(wrapped) };
    }
    if (known.size >= statementsMax) known.delete(known.keys().next().value!);
    known.set(text.sql, prepared);
    return prepared;
  }

  /** One row at most, and nothing that could fail half way: it needs neither a count of rows nor a sign of its end. */
  #looksOneUp(text: StatementText): boolean {
    const rows = this.#db.raw.prepare(`EXPLAIN QUERY PLAN ${text.sql}`).all() as unknown as PlanRow[];
    return rows.length === 1 && / USING INTEGER PRIMARY KEY \(rowid=\?\)$/.test(rows[0]!.detail);
  }

  #prepareText(sql: string): StatementSync {
    const statement = this.#db.raw.prepare(sql);
    statement.setReadBigInts(true);
    (statement as unknown as { setReturnArrays(on: boolean): void }).setReturnArrays(true);
    return statement;
  }

  #step(prepared: Prepared, statement: Statement, text: StatementText, limits: RunLimits): ResultSet {
    const bound = bindings(statement, text) as SQLInputValue[];
    const { columns, types } = prepared;
    switch (prepared.kind) {
      case "effect": {
        const { changes, lastInsertRowid } = prepared.statement.run(...bound);
        // Changes of the schema leave the count of the statement before.
        return text.class === "schema" ? {} : { rowsAffected: BigInt(changes), lastInsertId: BigInt(lastInsertRowid) };
      }
      case "point":
      case "listing":
        return { columns, types, rows: collect(prepared.statement.all(...bound), limits) };
      case "query":
        return { columns, types, rows: this.#query(prepared.statement, bound, limits) };
      case "returning": {
        const rows = this.#returning(prepared.statement, bound, limits);
        const last = this.#own(() =>
          this.#db.get<{ n: number; id: number | bigint }>("SELECT changes() AS n, last_insert_rowid() AS id")!
        );
        return { columns, types, rows, rowsAffected: BigInt(last.n), lastInsertId: BigInt(last.id) };
      }
    }
  }

  /**
   * Rows as they come, so that the limits hold before memory is used. The iterator of node:sqlite ends in silence when
   * a step fails: the query has an arm after its last row that says that it got there.
   */
  #query(statement: StatementSync, bound: SQLInputValue[], limits: RunLimits): Row[] {
    this.#completed = false;
    const rows = collect(statement.iterate(...bound), limits, () => this.#completed);
    // Once more in one go, for the failure.
    if (!this.#completed) statement.all(...bound);
    return rows;
  }

  /**
   * SQLite makes every change before it returns the first row, and a row for each: none means that nothing changed or
   * that the statement failed, which only running it in one go tells.
   */
  #returning(statement: StatementSync, bound: SQLInputValue[], limits: RunLimits): Row[] {
    this.#own(() => this.#db.exec("SAVEPOINT uc_returning"));
    try {
      const rows = collect(statement.iterate(...bound), limits);
      if (rows.length > 0) return rows;
      this.#own(() => this.#db.exec("ROLLBACK TO uc_returning"));
      return collect(statement.all(...bound), limits);
    } finally {
      this.#own(() => this.#db.exec("RELEASE uc_returning"));
    }
  }

  /** A statement of the store itself in the middle of a caller's. */
  #own<T>(work: () => T): T {
    const context = this.#context;
    this.#context = undefined;
    try {
      return work();
    } finally {
      this.#context = context;
    }
  }

  /** The failure as the caller may see it; anything that is not the statement's fault stays what it is. */
  #explain(error: unknown, field: string, sql: string, values?: ValueLimits): unknown {
    if (this.#inputs.failure !== undefined) return this.#inputs.failure;
    if (error instanceof Fault || !(error instanceof Error)) return error;
    const { errcode, errstr, message } = error as SqliteError;
    if (this.#refused !== "" && /not authorized|prohibited/.test(message)) {
      return invalidField(`${field}.sql`, `Cannot run the statement: ${this.#refused}`, "sql_refused");
    }
    if (!isStatementError(error)) return error;
    if (values !== undefined && (errcode === tooBig || /pattern too complex/.test(message))) {
      return fault(
        "resource_exhausted",
        "sql_too_costly",
        `Cannot run the statement as it makes values or rows of more than ${values.bytesMax} bytes, or looks for ` +
          `patterns of more than ${values.patternMax}: wanted shorter ones, or fewer rows that it is done for`,
        { field: `${field}.sql` },
      );
    }
    const offset = this.#own(() => errorOffset(sql, message, (part) => this.#refusalOf(part)));
    return fault("invalid_argument", "sql_error", `Cannot run the statement: ${message || errstr || "SQL error"}`, {
      field: `${field}.sql`,
      metadata: {
        sqlite_code: String(errcode ?? 1),
        sqlite_text: errstr ?? "SQL logic error",
        ...(offset === undefined ? {} : { sqlite_offset: String(offset) }),
      },
    });
  }

  /** SQLite's message for a text that is read and not run. */
  #refusalOf(sql: string): string | undefined {
    try {
      this.#db.raw.prepare(sql);
      return undefined;
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }
}

/** Values of text and bytes that are bound. */
function* longValues({ positional, named }: Statement): Generator<string | Uint8Array> {
  for (const { kind } of [...positional, ...Object.values(named)]) {
    if (kind.case === "text" || kind.case === "blob") yield kind.value;
  }
}

function nativeLimits(db: Database): { length: number; likePatternLength: number } {
  return (db.raw as unknown as { limits: { length: number; likePatternLength: number } }).limits;
}

/** Rows within the limits. `completed` says that the row just read is not one of them and the last. */
function collect(rows: unknown, limits: RunLimits, completed?: () => boolean): Row[] {
  const collected: Row[] = [];
  let bytes = 0;
  for (const row of rows as Iterable<readonly unknown[]>) {
    if (completed?.()) break;
    bytes += rowBytes;
    const values = row.map((value) => {
      bytes += typeof value === "string" || value instanceof Uint8Array ? value.length : 8;
      return toValue(value);
    });
    if (collected.length >= limits.rowsMax || bytes > limits.bytesMax) {
      throw fault(
        "resource_exhausted",
        "rows_too_many",
        `Cannot answer more than ${limits.rowsMax} rows or ${limits.bytesMax} bytes: wanted a LIMIT`,
      );
    }
    collected.push({ $typeName: "ultracloud.flaredb.v1.Row", values });
    limits.tick?.();
  }
  return collected;
}
