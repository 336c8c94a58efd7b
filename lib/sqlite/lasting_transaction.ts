import { fault } from "@ultracloud/base";
import type { Database } from "./database.ts";

/**
 * A transaction that stays open over many calls, for a store that can build it again from a log. SQLite undoes a whole
 * transaction by itself when the disk or memory fail, also while something is only read. What was applied, and answered,
 * is then gone from the connection: it must not be read, nothing may be taken for written, and the process must end,
 * which brings it back from the log.
 */
export class LastingTransaction {
  readonly #db: Database;
  readonly #onLost: (error: Error) => void;
  #lost: Error | undefined;

  /** `onLost` is told once, and is to end the process. */
  constructor(db: Database, onLost: (error: Error) => void) {
    this.#db = db;
    this.#onLost = onLost;
  }

  /** Writes within the transaction, which is begun when there is none; what `work` throws means that it is lost. */
  within<T>(work: () => T): T {
    this.check();
    try {
      if (!this.#db.inTransaction) this.#db.begin();
      return work();
    } catch (error) {
      throw this.#lose(error);
    }
  }

  /** Ends it; `store` writes what goes with every commit. */
  commit(store: () => void): void {
    this.within(() => {
      store();
      this.#db.commit();
    });
  }

  /** What was applied is still there. */
  get sound(): boolean {
    return this.#lost === undefined && this.#db.intact;
  }

  /** Throws when what was applied is not there any more. */
  check(): void {
    if (this.#lost !== undefined) throw this.#lost;
    if (!this.#db.intact) throw this.#lose(new Error("SQLite has ended the transaction"));
  }

  /** What to throw: the failure itself, where it is told for the first time. */
  #lose(cause: unknown): unknown {
    if (this.#lost !== undefined) return cause;
    this.#lost = fault("internal", "applied_lost", "Cannot go on as what was applied is lost", { cause });
    this.#onLost(this.#lost);
    return cause;
  }
}
