import { assert, fault } from "@ultracloud/base";
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";

export type SqlParameter = null | number | bigint | string | Uint8Array | boolean;
export type SqlValue = null | number | bigint | string | Uint8Array;
export type Row = Record<string, SqlValue>;

export interface OpenOptions {
  /**
   * NORMAL (the default): a commit survives a killed process, a power cut may lose the newest commits; the Raft log
   * above is what makes them durable. FULL: a commit is durable when it returns.
   */
  readonly synchronous?: "NORMAL" | "FULL";
  readonly readOnly?: boolean;
  /**
   * Free pages can be given back to the file system step by step (`PRAGMA incremental_vacuum`). It counts for a database
   * that is made now; one that exists stays as it is.
   */
  readonly incrementalVacuum?: boolean;
  /** Pages in the write-ahead log before a commit writes them back, which syncs twice; SQLite's own 1000 by default. */
  readonly autoCheckpointPages?: number;
  /** Prepared statements kept, least recently used dropped first. */
  readonly statementsMax?: number;
}

export interface RunResult {
  readonly changes: number;
  readonly lastInsertRowid: bigint;
}

/** What an authorizer answers: SQLITE_OK, SQLITE_DENY, SQLITE_IGNORE. */
export const authorizerCodes = { ok: 0, deny: 1, ignore: 2 } as const;

/** Waiting for another connection to the same file never takes longer: components do not share files. */
const busyTimeoutMs = 5_000;
const statementsMaxDefault = 256;

/**
 * One connection to one SQLite database. Synchronous, as node:sqlite is. Integers come back as number where they are
 * safe and as bigint beyond. A transaction is a function: it commits when the function returns and rolls back when it
 * throws. Errors of SQLite pass through with their `errcode`.
 */
export class Database implements Disposable {
  readonly #db: DatabaseSync;
  readonly #path: string;
  readonly #statements = new Map<string, StatementSync>();
  readonly #statementsMax: number;
  #depth = 0;
  #open = true;
  #reading = false;
  #roundEnd: NodeJS.Immediate | undefined;
  #beginRead: StatementSync | undefined;
  #endRead: StatementSync | undefined;

  constructor(db: DatabaseSync, path: string, statementsMax: number) {
    this.#db = db;
    this.#path = path;
    this.#statementsMax = statementsMax;
  }

  /** The connection below, for what this adapter does not wrap (column metadata, limits). */
  get raw(): DatabaseSync {
    return this.#db;
  }

  /** The prepared statement of this text, from the cache when it is there. */
  prepare(sql: string): StatementSync {
    const cached = this.#statements.get(sql);
    if (cached) {
      this.#statements.delete(sql);
      this.#statements.set(sql, cached);
      return cached;
    }
    const statement = this.#db.prepare(sql);
    statement.setReadBigInts(true);
    this.#statements.set(sql, statement);
    if (this.#statements.size > this.#statementsMax) this.#statements.delete(this.#statements.keys().next().value!);
    return statement;
  }

  /** Forgets prepared statements; needed after the schema was replaced from outside (`restore`). */
  forgetStatements(): void {
    this.#statements.clear();
  }

  run(sql: string, ...params: readonly SqlParameter[]): RunResult {
    this.endReading();
    const { changes, lastInsertRowid } = this.prepare(sql).run(...params.map(toInput));
    return { changes: Number(changes), lastInsertRowid: BigInt(lastInsertRowid) };
  }

  /** The first row; undefined when there is none. */
  get<T = Row>(sql: string, ...params: readonly SqlParameter[]): T | undefined {
    const row = this.prepare(sql).get(...params.map(toInput)) as Row | undefined;
    return row === undefined ? undefined : narrow(row) as T;
  }

  all<T = Row>(sql: string, ...params: readonly SqlParameter[]): T[] {
    const rows = this.prepare(sql).all(...params.map(toInput)) as Row[];
    for (const row of rows) narrow(row);
    return rows as T[];
  }

  /**
   * The rows one after the other. They are read at once: the iterator of node:sqlite ends in silence when a step fails
   * (a page that cannot be read, malformed JSON), and the rows before would pass for all of them.
   */
  *iterate<T = Row>(sql: string, ...params: readonly SqlParameter[]): Generator<T> {
    const rows = this.prepare(sql).all(...params.map(toInput)) as Row[];
    for (const row of rows) yield narrow(row) as T;
  }

  /** Runs statements without parameters or results. */
  exec(sql: string): void {
    this.endReading();
    this.#db.exec(sql);
  }

  /**
   * Reads within one round of the event loop share one read transaction: taking and leaving its lock costs several
   * system calls, more than looking a row up. It ends by itself, at the latest before anything is written.
   */
  reading<T>(work: () => T): T {
    if (!this.#reading && this.#depth === 0) {
      this.#beginRead ??= this.#db.prepare("BEGIN");
      this.#beginRead.run();
      this.#reading = true;
      this.#roundEnd = setImmediate(() => this.endReading());
    }
    return work();
  }

  /** Ends what `reading` began; needed before the connection is used past this adapter for anything but reading. */
  endReading(): void {
    if (!this.#reading) return;
    this.#reading = false;
    clearImmediate(this.#roundEnd);
    this.#endRead ??= this.#db.prepare("COMMIT");
    if (this.#db.isTransaction) this.#endRead.run();
  }

  /**
   * Opens a transaction that stays open over many calls, until `commit`. Transactions inside are savepoints. What is
   * written is readable here at once and nowhere else before.
   */
  begin(): void {
    assert(this.#depth === 0, "A transaction is open already");
    this.exec("BEGIN IMMEDIATE");
    this.#depth = 1;
  }

  /** Ends what `begin` opened. */
  commit(): void {
    assert(this.#depth === 1, "Only a transaction that `begin` opened can be committed");
    this.#depth = 0;
    this.exec("COMMIT");
  }

  /**
   * False when SQLite has undone the open transaction by itself, as it does when the disk or memory fail, even while it
   * only reads: what was written in it is gone.
   */
  get intact(): boolean {
    return this.#depth === 0 || this.#db.isTransaction;
  }

  /** True inside a transaction. */
  get inTransaction(): boolean {
    return this.#depth > 0;
  }

  /** Commits when `work` returns, rolls back when it throws. Inside another transaction it is a savepoint. */
  transaction<T>(work: () => T): T {
    this.endReading();
    const depth = this.#depth++;
    const [begin, commit, rollback] = depth === 0
      ? ["BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"]
      : [`SAVEPOINT s${depth}`, `RELEASE s${depth}`, `ROLLBACK TO s${depth}; RELEASE s${depth}`];
    try {
      this.exec(begin!);
      try {
        const result = work();
        assert(!(result instanceof Promise), "A transaction's function must not be asynchronous");
        this.exec(commit!);
        return result;
      } catch (error) {
        // SQLite rolls a whole transaction back by itself on some errors (disk full): then there is nothing to undo.
        if (this.#db.isTransaction) this.exec(rollback!);
        throw error;
      }
    } finally {
      this.#depth--;
    }
  }

  /**
   * Defines or replaces an SQL function; also replaces SQLite's own of that name. One that throws has no place in a
   * statement for `all` or `iterate`, where this runtime repeats it until memory is gone; `get` and `run` throw on.
   */
  function(
    name: string,
    fn: (...args: SqlValue[]) => SqlValue,
    options: { readonly deterministic?: boolean } = {},
  ): void {
    this.#db.function(
      name,
      { varargs: true, useBigIntArguments: true, deterministic: options.deterministic ?? false },
      fn as never,
    );
  }

  /** Asked for every action of every statement prepared from now on; answers one of `authorizerCodes`. */
  authorizer(
    decide:
      | ((
        action: number,
        arg1: string | null,
        arg2: string | null,
        database: string | null,
        source: string | null,
      ) => number)
      | null,
  ): void {
    this.forgetStatements();
    (this.#db as unknown as { setAuthorizer(decide: unknown): void }).setAuthorizer(decide);
  }

  /** The whole database as bytes, as of now. */
  serialize(): Uint8Array {
    this.endReading();
    return (this.#db as unknown as { serialize(): Uint8Array }).serialize();
  }

  /** Makes everything committed so far durable: writes the WAL back and syncs. In memory it does nothing. */
  checkpoint(): void {
    this.endReading();
    if (this.#path === ":memory:") return;
    // Under NORMAL a checkpoint syncs the WAL before and the database after it copies pages: that is the durability.
    // A reader in another thread may take long, a backup for one: whoever asks can ask again, and must not stand still.
    this.#db.exec("PRAGMA busy_timeout=0");
    let row: { busy: number } | undefined;
    try {
      row = this.#db.prepare("PRAGMA wal_checkpoint(FULL)").get() as { busy: number } | undefined;
    } finally {
      this.#db.exec(`PRAGMA busy_timeout=${busyTimeoutMs}`);
    }
    if (row === undefined || Number(row.busy) !== 0) {
      throw fault(
        "unavailable",
        "checkpoint_busy",
        `Cannot checkpoint ${this.#path} as a reader holds it: wanted no open cursor`,
      );
    }
  }

  /** Problems found by SQLite's own check; empty when the database is whole. */
  integrityCheck(): string[] {
    const rows = this.#db.prepare("PRAGMA integrity_check").all() as { integrity_check: string }[];
    return rows.map((row) => row.integrity_check).filter((text) => text !== "ok");
  }

  close(): void {
    if (!this.#open) return;
    this.endReading();
    this.#open = false;
    this.#statements.clear();
    this.#beginRead = this.#endRead = undefined;
    this.#db.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function toInput(value: SqlParameter): SQLInputValue {
  return typeof value === "boolean" ? (value ? 1 : 0) : value;
}

/** Safe integers as numbers, in place: bigint arithmetic is slow and rarely needed. */
function narrow(row: Row): Row {
  for (const key in row) {
    const value = row[key];
    if (typeof value === "bigint" && value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER) {
      row[key] = Number(value);
    }
  }
  return row;
}

/** Opens or makes the database at `path` (":memory:" for one that nobody else sees). The directory must exist. */
export function openDatabase(path: string, options: OpenOptions = {}): Database {
  const db = new DatabaseSync(path, { readOnly: options.readOnly ?? false, allowExtension: false });
  try {
    // The constructor's `timeout` is ignored by this runtime, so it is set by hand.
    db.exec(`PRAGMA busy_timeout=${busyTimeoutMs}`);
    // Before the first page is written, or never.
    if (options.incrementalVacuum) db.exec("PRAGMA auto_vacuum=INCREMENTAL");
    if (path !== ":memory:" && !options.readOnly) {
      db.exec(`PRAGMA journal_mode=WAL; PRAGMA synchronous=${options.synchronous ?? "NORMAL"}`);
      if (options.autoCheckpointPages !== undefined) {
        db.exec(`PRAGMA wal_autocheckpoint=${Math.trunc(options.autoCheckpointPages)}`);
      }
    }
    db.exec("PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY");
    return new Database(db, path, options.statementsMax ?? statementsMaxDefault);
  } catch (error) {
    db.close();
    throw error;
  }
}
