import { assert, equalBytes, Fault, fault } from "@ultracloud/base";
import type { ExpectedResult, Statement, TableVersion } from "@ultracloud/proto/flaredb/v1";
import type { Database } from "@ultracloud/sqlite";
import { answerBytesMax, entryRowsMax } from "../domain/bounds.ts";
import type { FrozenInputs } from "./frozen_functions.ts";
import { digestOf } from "./result_digest.ts";
import type { RowChanges } from "./row_changes.ts";
import type { ResultSet, SqlRunner } from "./sql_runner.ts";
import type { TableVersionInit, TableVersions } from "./table_versions.ts";

/** Time and chance that a statement sees. */
export interface Frozen {
  readonly timeMs: number;
  readonly seed: Uint8Array;
}

/** What a statement answered, and the versions of the tables it used. */
export interface QueryResult {
  readonly result: ResultSet;
  readonly reads: TableVersionInit[];
}

/** What a statement that was rehearsed answered behind those before it. */
export interface Rehearsed extends QueryResult {
  readonly digest: Uint8Array<ArrayBuffer>;
}

/** What entries rest on: refused as aborted when it does not hold. */
export interface Conditions {
  /** Tables that must not have changed. */
  readonly expected?: readonly TableVersion[];
  /** Queries that must answer the same as then. */
  readonly expectedResults?: readonly ExpectedResult[];
  /** What the statements themselves must answer; empty: anything. */
  readonly digests?: readonly Uint8Array[];
}

export interface SqlEffectsDeps {
  readonly db: Database;
  readonly sql: SqlRunner;
  readonly inputs: FrozenInputs;
  readonly versions: TableVersions;
  readonly rowChanges: RowChanges;
}

/** Callers' statements on the state: read, rehearsed, or in effect. */
export class SqlEffects {
  readonly #deps: SqlEffectsDeps;

  constructor(deps: SqlEffectsDeps) {
    this.#deps = deps;
  }

  /** Runs one read-only statement. */
  query(
    statement: Statement,
    frozen: Frozen,
    limits: { readonly rowsMax: number; readonly costRowsMax: number; readonly tick: () => void },
  ): QueryResult {
    const { db, sql, inputs, versions } = this.#deps;
    return db.reading(() => {
      const { limits: values } = sql.admit(statement, "read", limits.costRowsMax, "statement");
      inputs.freeze(frozen.timeMs, frozen.seed);
      sql.watchTables();
      const result = sql.run(statement, "read", { ...limits, values, bytesMax: answerBytesMax }, "statement");
      return { result, reads: versions.of(sql.touched.reads) };
    });
  }

  /**
   * Runs statements and undoes them: what the last one answers, and the tables that all of them read or wrote with
   * their versions. Nothing is left, not even when one fails. Those before the last one must answer what `digests` say,
   * or it is aborted: what they showed is over. Each is admitted where it stands, so that what uses a table is planned
   * with the rows that those before it put there.
   */
  rehearse(
    statements: readonly Statement[],
    frozen: Frozen,
    tick: () => void,
    { digests = [], field = () => "statement", costRowsMax = Infinity }: {
      readonly digests?: readonly Uint8Array[];
      readonly field?: (i: number) => string;
      readonly costRowsMax?: number;
    } = {},
  ): Rehearsed {
    const { db, sql, inputs, versions } = this.#deps;
    assert(!db.inTransaction, "What is rehearsed must not be able to undo what was applied");
    const undo = new Error("undo");
    let answer: Rehearsed | undefined;
    inputs.freeze(frozen.timeMs, frozen.seed);
    sql.forgetLastInsert();
    sql.watchTables();
    try {
      db.transaction(() => {
        const results = statements.map((statement, i) => {
          const { limits: values } = sql.admit(statement, "write", costRowsMax, field(i));
          const limits = { rowsMax: entryRowsMax, bytesMax: answerBytesMax, tick, values };
          return shown(digests[i], i, () => sql.run(statement, "write", limits, field(i)));
        });
        const { reads, writes } = sql.touched;
        const result = results.at(-1) ?? {};
        answer = { result, digest: digestOf(result), reads: versions.of(new Set([...reads, ...writes])) };
        throw undo;
      });
    } catch (error) {
      sql.forget();
      if (error !== undo) throw error;
    }
    return answer!;
  }

  /** All statements of the entry at `index`, or none and the fault of the one that failed. */
  apply(
    index: number,
    frozen: Frozen,
    statements: readonly Statement[],
    { expected = [], expectedResults = [], digests = [] }: Conditions,
    field: (i: number) => string,
  ): ResultSet[] | Fault {
    const { db, sql, inputs, versions, rowChanges } = this.#deps;
    inputs.freeze(frozen.timeMs, frozen.seed);
    const changed = versions.firstChanged(expected) ?? this.#firstOther(expectedResults);
    if (changed !== undefined) return changed;
    sql.forgetLastInsert();
    sql.watchTables();
    const session = rowChanges.begin();
    try {
      const work = () => {
        let bytesMax = answerBytesMax;
        return statements.map((statement, i) => {
          const run = () => sql.run(statement, "write", { rowsMax: entryRowsMax, bytesMax }, field(i));
          const result = digests.length === 0 ? run() : shown(digests[i], i, run);
          bytesMax = Math.max(0, bytesMax - sizeOf(result));
          return result;
        });
      };
      // SQLite undoes a single statement that fails by itself: a savepoint costs as much as inserting a row.
      const alone = statements.length === 1 && db.inTransaction && sql.undoesItself(statements[0]!);
      const results = alone ? work() : db.transaction(work);
      versions.mark(sql.touched, index);
      if (session !== undefined) rowChanges.keep(session, sql.touched, index);
      return results;
    } catch (error) {
      sql.forget();
      if (error instanceof Fault) return error;
      throw fault("internal", "apply_failed", "Cannot apply a log entry: the database failed", { cause: error });
    } finally {
      session?.close();
    }
  }

  /** The refusal when one of the queries answers anything else by now; rows that none of them sees may have changed. */
  #firstOther(expected: readonly ExpectedResult[]): Fault | undefined {
    const { sql } = this.#deps;
    const limits = { rowsMax: entryRowsMax, bytesMax: answerBytesMax };
    for (const [i, { statement, digest }] of expected.entries()) {
      try {
        shown(digest, i, () => sql.run(statement!, "read", limits, `expected_results[${i}].statement`));
      } catch (error) {
        sql.forget();
        if (error instanceof Fault) return error;
        throw error;
      }
    }
    return undefined;
  }
}

/** The answer, which must be the one that was shown; a statement that answered then and fails now is another one, too. */
function shown(digest: Uint8Array | undefined, position: number, run: () => ResultSet): ResultSet {
  if (digest === undefined) return run();
  let cause: unknown;
  try {
    const result = run();
    if (equalBytes(digestOf(result), digest)) return result;
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    cause = error;
  }
  throw fault(
    "aborted",
    "read_changed",
    `Cannot go on as statement ${position} would answer anything else by now: wanted what it answered before; read again`,
    { metadata: { statement: String(position) }, ...(cause === undefined ? {} : { cause }) },
  );
}

function sizeOf(result: ResultSet): number {
  let bytes = 0;
  for (const row of result.rows ?? []) {
    for (const { kind } of row.values ?? []) {
      bytes += kind?.case === "text" || kind?.case === "blob" ? kind.value.length + 16 : 16;
    }
  }
  return bytes;
}
