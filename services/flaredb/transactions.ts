import { create } from "@bufbuild/protobuf";
import { type Clock, Fault, fault, type Rng, ulid } from "@ultracloud/base";
import { type BatchResponse, LoggedTransactionSchema, type Statement } from "@ultracloud/proto/flaredb/v1";
import type { CallContext } from "@ultracloud/rpc";
import type { Databases, OpenDatabase } from "./databases.ts";
import { entryKinds } from "./domain/log_entry.ts";
import type { QueryResult, Rehearsed } from "./state/sql_effects.ts";

/** Open transactions of this process; each holds its statements. */
const openMax = 256;
/** Every call runs all statements before it once more. */
const statementsMax = 100;
const statementBytesMax = 1024 * 1024;
export const idleMsDefault = 30_000;
export const idleMsMax = 300_000;

interface Open {
  readonly id: string;
  readonly database: string;
  readonly group: number;
  readonly term: number;
  readonly owner: string;
  readonly idleMs: number;
  readonly timeMs: number;
  readonly seed: Uint8Array<ArrayBuffer>;
  readonly statements: Statement[];
  /** Of what each statement answered. */
  readonly digests: Uint8Array<ArrayBuffer>[];
  bytes: number;
  usedMs: number;
}

/**
 * Interactive transactions, on the leader and in its memory. No lock is held between calls: each statement is run
 * behind those before it and undone, against the state as it is; when one of those would answer anything else by now, the
 * transaction is over. Commit puts all statements into one entry, which checks that once more where it is applied. So
 * what was answered on the way is what happens, in one place of the order; rows that nobody was shown may change.
 */
export class Transactions {
  readonly #databases: Databases;
  readonly #clock: Clock;
  readonly #rng: Rng;
  readonly #open = new Map<string, Open>();

  constructor(deps: { readonly databases: Databases; readonly clock: Clock; readonly rng: Rng }) {
    this.#databases = deps.databases;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
  }

  /** Starts a transaction; `idleMs` after its last call it is forgotten. Asked of the leader. */
  async begin(database: OpenDatabase, idleMs: number, context: CallContext): Promise<{ id: string; index: number }> {
    this.#forgetIdle();
    if (this.#open.size >= openMax) {
      throw fault("resource_exhausted", "transactions_full", `Cannot begin a transaction beside ${openMax} others`, {
        retryAfterMs: 1_000,
      });
    }
    // Answered by a leader only, which then knows everything that was committed before.
    const index = await this.#databases.barrier(database, context);
    const id = `tx_${ulid(this.#clock, this.#rng)}`;
    const { group, term, role } = database.group.status();
    if (role !== "leader") await this.#databases.leaderOnly(database);
    const { clock, rng } = { clock: this.#clock, rng: this.#rng };
    this.#open.set(id, {
      id,
      database: database.row.name,
      group,
      term,
      owner: context.principal.id,
      idleMs,
      timeMs: Math.max(clock.nowMs(), database.machine.timeMs),
      seed: rng.fill(new Uint8Array(16)),
      statements: [],
      digests: [],
      bytes: 0,
      usedMs: clock.monotonicMs(),
    });
    return { id, index };
  }

  /** Runs one more statement behind those before it; a refused one leaves the transaction as it was. */
  run(
    database: OpenDatabase,
    id: string,
    statement: Statement,
    context: CallContext,
    { tick, costRowsMax }: { readonly tick: () => void; readonly costRowsMax: number },
  ): QueryResult {
    const open = this.#find(database, id, context);
    const bytes = open.bytes + sizeOf(statement);
    if (open.statements.length >= statementsMax || bytes > statementBytesMax) {
      throw fault(
        "resource_exhausted",
        "transaction_full",
        `Cannot take more than ${statementsMax} statements or ${statementBytesMax} bytes into a transaction`,
      );
    }
    const frozen = { timeMs: open.timeMs, seed: open.seed };
    let answer: Rehearsed;
    try {
      const options = { costRowsMax, digests: open.digests };
      answer = database.machine.rehearse([...open.statements, statement], frozen, tick, options);
    } catch (error) {
      if (error instanceof Fault && error.code === "read_changed") this.#open.delete(id);
      throw error;
    }
    open.statements.push(statement);
    open.digests.push(answer.digest);
    open.bytes = bytes;
    return answer;
  }

  /** Lets all statements take effect, or none; over either way, unless nobody could be asked. */
  async commit(database: OpenDatabase, id: string, context: CallContext): Promise<BatchResponse> {
    const open = this.#find(database, id, context);
    this.#open.delete(id);
    const request = create(LoggedTransactionSchema, {
      statements: open.statements,
      digests: open.digests,
      timeMs: BigInt(open.timeMs),
      seed: open.seed,
    });
    const answer = await this.#databases.propose(
      database,
      entryKinds.checkedTransaction,
      LoggedTransactionSchema,
      request,
      context,
    );
    return answer as BatchResponse;
  }

  rollback(database: OpenDatabase, id: string, context: CallContext): void {
    this.#find(database, id, context);
    this.#open.delete(id);
  }

  #find(database: OpenDatabase, id: string, context: CallContext): Open {
    this.#forgetIdle();
    const open = this.#open.get(id);
    const status = database.group.status();
    const known = open !== undefined && open.owner === context.principal.id && open.group === status.group;
    if (known && status.role === "leader" && status.term === open.term) {
      open.usedMs = this.#clock.monotonicMs();
      return open;
    }
    if (known) this.#open.delete(id);
    throw fault(
      "aborted",
      "transaction_over",
      `Cannot go on with transaction ${id.slice(0, 40)}: it is over, was idle for too long, or its leader changed`,
    );
  }

  #forgetIdle(): void {
    const nowMs = this.#clock.monotonicMs();
    for (const [id, open] of this.#open) if (nowMs - open.usedMs > open.idleMs) this.#open.delete(id);
  }
}

function sizeOf({ sql, positional, named }: Statement): number {
  let bytes = sql.length;
  for (const { kind } of [...positional, ...Object.values(named)]) {
    bytes += kind.case === "text" || kind.case === "blob" ? kind.value.length : 16;
  }
  return bytes;
}
