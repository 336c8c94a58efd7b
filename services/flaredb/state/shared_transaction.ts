import { type Database, LastingTransaction } from "@ultracloud/sqlite";

/**
 * Bounds of what one transaction collects: what it changes is to fit into SQLite's cache of 2 MB, as pages that it has to
 * write before the commit cost more than those that it writes then. Entries in case each changes another page, bytes of
 * entries for what they bring, rows for those that say little and change much. A killed process applies as much again.
 */
const entriesMax = 256;
const bytesMax = 2 ** 20;
const rowsMax = 10_000;

export interface SharedTransactionOptions {
  /** Entries before it ends, when that is fewer than usual. */
  readonly entriesMax?: number | undefined;
}

export interface SharedTransactionDeps {
  /** Writes what goes with every commit, into the transaction. */
  readonly store: () => void;
  /** SQLite has undone what was applied: nothing may be read or written any more. */
  readonly onLost: (error: Error) => void;
}

/**
 * The transaction of SQLite that batches of the log share, as writing changed pages for each costs more than changing
 * them. What is applied is readable on its connection at once; on others, and after a kill, when it has ended. The log
 * has all of it until then.
 */
export class SharedTransaction {
  readonly #db: Database;
  readonly #transaction: LastingTransaction;
  readonly #store: () => void;
  readonly #entriesMax: number;
  #entries = 0;
  #bytes = 0;
  #rowsBefore = 0;

  constructor(db: Database, options: SharedTransactionOptions, deps: SharedTransactionDeps) {
    this.#db = db;
    this.#transaction = new LastingTransaction(db, deps.onLost);
    this.#store = deps.store;
    this.#entriesMax = options.entriesMax ?? entriesMax;
  }

  /** Applies entries of so many bytes within the transaction, which is begun when there is none. */
  apply<T>(entries: number, bytes: number, work: () => T): T {
    const begins = !this.#db.inTransaction;
    return this.#transaction.within(() => {
      if (begins) {
        this.#entries = this.#bytes = 0;
        this.#rowsBefore = this.#rowsChanged();
      }
      const result = work();
      this.#entries += entries;
      this.#bytes += bytes;
      return result;
    });
  }

  /** Rows that this connection has changed, those of triggers, too. */
  #rowsChanged(): number {
    return this.#db.get<{ n: number }>("SELECT total_changes() AS n")!.n;
  }

  /** It has collected enough. */
  get full(): boolean {
    return this.#entries >= this.#entriesMax || this.#bytes >= bytesMax ||
      this.#rowsChanged() - this.#rowsBefore >= rowsMax;
  }

  /** Commits what was applied, with what `store` writes: the file says everything. */
  end(): void {
    this.#transaction.commit(this.#store);
  }

  /** What was applied is still there. */
  get sound(): boolean {
    return this.#transaction.sound;
  }

  /** Throws when what was applied is not there any more. */
  check(): void {
    this.#transaction.check();
  }
}
