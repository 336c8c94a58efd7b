import { type Clock, Fault, fault, invalidField, type Rng } from "@ultracloud/base";
import {
  BatchRequestSchema,
  type BatchResponse,
  ExecuteRequestSchema,
  type ExecuteResponse,
  type ExpectedResult,
  SqlService,
  type Statement,
} from "@ultracloud/proto/flaredb/v1";
import { type AuthzTable, bind, type BoundService, type CallContext, type Handlers } from "@ultracloud/rpc";
import { databaseScope } from "./database_service.ts";
import {
  expectedMax,
  expectedResultsMax,
  pageBytesDefault,
  pageBytesMax,
  queryRowsDefault,
  queryRowsMax,
  statementsMax,
} from "./domain/bounds.ts";
import { entryKinds } from "./domain/log_entry.ts";
import { readStatement } from "./domain/sql_text.ts";
import { migrate } from "./migrate.ts";
import { checkIndex } from "./domain/names.ts";
import { awaitLevel } from "./reads.ts";
import type { Databases, OpenDatabase } from "./databases.ts";
import { watchRows } from "./row_watch.ts";
import { executeCodec, queryCodec } from "./sql_wire.ts";
import { digestBytes, digestOf } from "./state/result_digest.ts";
import { listTables } from "./state/tables.ts";
import { idleMsDefault, idleMsMax, type Transactions } from "./transactions.ts";

export interface SqlOptions {
  /** Rows the plan of one statement may visit, by estimate; more is refused before it runs. */
  readonly costRowsMax: number;
  /** A query that still yields rows after this long is cut. */
  readonly queryMsMax: number;
  /** A migration that loses data needs a full backup at most this old. */
  readonly backupAgeMsMax: number;
}

/** Refusals of what would take too long; they leave nothing to be answered from the log. */
const tooMuch: ReadonlySet<string> = new Set(["sql_too_costly", "sql_too_slow"]);

export interface SqlDeps {
  readonly databases: Databases;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly transactions: Transactions;
}

/** SQL on the tables of a database. Statements that change something go through its log and run on every replica. */
export function sqlHandlers(
  options: SqlOptions,
  { databases, clock, rng, transactions }: SqlDeps,
): Handlers<typeof SqlService> {
  /**
   * Refuses what would only fail, or stall every replica, once it is in the log. What may take long, or uses what is only
   * made on the way, is rehearsed first: there is no end to it any more once it is applied.
   */
  const admit = async (opened: OpenDatabase, statements: readonly Statement[], field: (i: number) => string) => {
    const { sql } = opened.machine.parts;
    const admitted = statements.map((statement, i) => sql.admit(statement, "write", options.costRowsMax, field(i)));
    if (admitted.every(({ planned, limits }) => planned && limits === undefined)) return;
    // What was written elsewhere, just before, is there too.
    await opened.group.readBarrier();
    const frozen = { timeMs: clock.nowMs(), seed: rng.fill(new Uint8Array(16)) };
    try {
      opened.machine.rehearse(statements, frozen, timer(), { field, costRowsMax: options.costRowsMax });
    } catch (error) {
      // What else fails is answered from the log: a call that is repeated has its answer there.
      if (!(error instanceof Fault) || tooMuch.has(error.code)) throw error;
    }
  };
  const admitExpected = ({ machine }: OpenDatabase, expected: readonly ExpectedResult[]) => {
    if (expected.length > expectedResultsMax) {
      const message = `Cannot expect ${expected.length} results: wanted at most ${expectedResultsMax}`;
      throw invalidField("expected_results", message);
    }
    expected.forEach(({ statement, digest }, i) => {
      const field = `expected_results[${i}]`;
      if (digest.length !== digestBytes) {
        throw invalidField(
          `${field}.digest`,
          `Cannot expect a digest of ${digest.length} bytes: wanted ${digestBytes}, as Query answers with digest`,
        );
      }
      const { limits } = machine.parts.sql.admit(present(statement), "read", options.costRowsMax, `${field}.statement`);
      if (limits === undefined) return;
      throw fault(
        "resource_exhausted",
        "sql_too_costly",
        "Cannot expect a result of a query that may work through long values, as every replica would: wanted one that " +
          "makes none",
        { field: `${field}.statement.sql` },
      );
    });
  };
  /** Ends a statement that still yields rows after the longest time. */
  const timer = (startMs = clock.monotonicMs()) => {
    let rows = 0;
    return () => {
      if ((++rows & 255) === 0 && clock.monotonicMs() - startMs > options.queryMsMax) {
        throw fault(
          "deadline_exceeded",
          "sql_too_slow",
          `Cannot run the query for more than ${options.queryMsMax} ms: wanted an index or a LIMIT`,
        );
      }
    };
  };
  const seeds = querySeeds(rng);
  /** One statement within an interactive transaction. */
  const rehearse = async (name: string, id: string, statement: Statement, context: CallContext) => {
    const opened = await databases.find(name);
    const startMs = clock.monotonicMs();
    const limits = { tick: timer(), costRowsMax: options.costRowsMax };
    const { result, reads } = transactions.run(opened, id, statement, context, limits);
    const elapsedMs = clock.monotonicMs() - startMs;
    return { result: { ...result, elapsedMs }, reads, index: BigInt(opened.machine.index) };
  };
  return {
    async query({ database, statement, read, rowLimit, transaction, digest }, context) {
      const rowsMax = rowLimit === 0 ? queryRowsDefault : rowLimit;
      if (rowsMax < 0 || rowsMax > queryRowsMax) {
        throw invalidField("row_limit", `Cannot answer ${rowLimit} rows: wanted 0 to ${queryRowsMax}`);
      }
      const asked = present(statement);
      if (transaction !== "") {
        readOnly(asked);
        return await rehearse(database, transaction, asked, context);
      }
      const opened = await databases.find(database);
      await awaitLevel(databases, opened, read, context);
      const startMs = clock.monotonicMs();
      const frozen = { timeMs: clock.nowMs(), seed: seeds() };
      const limits = { rowsMax, costRowsMax: options.costRowsMax, tick: timer(startMs) };
      const { result, reads } = opened.machine.parts.effects.query(asked, frozen, limits);
      const elapsedMs = clock.monotonicMs() - startMs;
      const answer = { result: { ...result, elapsedMs }, reads, index: BigInt(opened.machine.index) };
      return digest ? { ...answer, digest: digestOf(result) } : answer;
    },
    async execute(request, context) {
      const statement = present(request.statement);
      if (request.transaction !== "") {
        const { result, index } = await rehearse(request.database, request.transaction, statement, context);
        return { result, index };
      }
      const opened = await databases.find(request.database);
      await admit(opened, [statement], () => "statement");
      const { execute: kind } = entryKinds;
      return await databases.propose(opened, kind, ExecuteRequestSchema, request, context) as ExecuteResponse;
    },
    async batch(request, context) {
      const { statements } = request;
      if (statements.length === 0 || statements.length > statementsMax) {
        throw invalidField("statements", `Cannot run ${statements.length} statements: wanted 1 to ${statementsMax}`);
      }
      if (request.expected.length > expectedMax) {
        throw invalidField(
          "expected",
          `Cannot expect ${request.expected.length} table versions: wanted at most ${expectedMax}`,
        );
      }
      const opened = await databases.find(request.database);
      await admit(opened, statements, (i) => `statements[${i}]`);
      const kind = request.expectedResults.length === 0 ? entryKinds.batch : entryKinds.checkedBatch;
      admitExpected(opened, request.expectedResults);
      return await databases.propose(opened, kind, BatchRequestSchema, request, context) as BatchResponse;
    },
    async begin({ database, idleTimeoutMs }, context) {
      const idleMs = idleTimeoutMs === 0n ? idleMsDefault : Number(idleTimeoutMs);
      if (idleMs < 1 || idleMs > idleMsMax) {
        throw invalidField(
          "idle_timeout_ms",
          `Cannot wait ${idleTimeoutMs} ms between calls: wanted 0 to ${idleMsMax}`,
        );
      }
      const { id, index } = await transactions.begin(await databases.find(database), idleMs, context);
      return { transaction: id, index: BigInt(index) };
    },
    async commit({ database, transaction }, context) {
      return await transactions.commit(await databases.find(database), transaction, context);
    },
    async rollback({ database, transaction }, context) {
      transactions.rollback(await databases.find(database), transaction, context);
      return {};
    },
    async *changes({ database, tables, afterIndex, pageBytes }, context) {
      const after = checkIndex(afterIndex, "after_index");
      if (tables.length > expectedMax) {
        throw invalidField("tables", `Cannot watch ${tables.length} tables: wanted at most ${expectedMax}`);
      }
      if (pageBytes < 0 || pageBytes > pageBytesMax) {
        throw invalidField("page_bytes", `Cannot tell ${pageBytes} bytes at once: wanted 0 to ${pageBytesMax}`);
      }
      const opened = await databases.find(database);
      await opened.group.readBarrier();
      const wanted = { tables: new Set(tables), after, pageBytes: pageBytes === 0 ? pageBytesDefault : pageBytes };
      const pages = watchRows(wanted, opened, clock, context.signal);
      for await (const { index, changes } of pages) yield { index: BigInt(index), changes };
    },
    migrate: (request, context) => migrate(options, { databases, clock, rng }, request, context),
    async listMigrations({ database }) {
      const opened = await databases.find(database);
      await opened.group.readBarrier();
      return { migrations: opened.machine.parts.migrations.list() };
    },
    async listTables({ database, read }, context) {
      const opened = await databases.find(database);
      await awaitLevel(databases, opened, read, context);
      return { tables: listTables(opened.machine.db), index: BigInt(opened.machine.index) };
    },
  };
}

const scope = (request: { readonly database: string }) => databaseScope(request.database);

export const sqlAuthz = {
  query: { resource: "sql", action: "query", scope },
  execute: { resource: "sql", action: "execute", scope },
  batch: { resource: "sql", action: "execute", scope },
  begin: { resource: "sql", action: "execute", scope },
  commit: { resource: "sql", action: "execute", scope },
  rollback: { resource: "sql", action: "execute", scope },
  changes: { resource: "sql", action: "watch", scope },
  migrate: { resource: "sql", action: "migrate", scope },
  listMigrations: { resource: "sql", action: "list", scope },
  listTables: { resource: "sql", action: "list", scope },
} satisfies AuthzTable<typeof SqlService>;

export function sqlService(options: SqlOptions, deps: SqlDeps): BoundService {
  return bind(SqlService, sqlHandlers(options, deps), sqlAuthz, { query: queryCodec, execute: executeCodec });
}

/** Seeds of 16 bytes for queries, drawn many at once: drawing costs by the call. */
function querySeeds(rng: Rng): () => Uint8Array {
  const drawn = new Uint8Array(256 * 16);
  let at = drawn.length;
  return () => {
    if (at === drawn.length) {
      rng.fill(drawn);
      at = 0;
    }
    return drawn.subarray(at, at += 16);
  };
}

function present(statement: Statement | undefined): Statement {
  if (statement !== undefined) return statement;
  throw invalidField("statement", "Cannot run a request without a statement: wanted SQL");
}

/** Refuses a statement whose text says that it changes something. */
function readOnly({ sql }: Statement): void {
  const text = readStatement(sql, "statement");
  if (text.class !== "write" && text.class !== "schema" && !text.writes) return;
  throw invalidField("statement.sql", "Cannot change anything in a query: wanted Execute", "sql_read_only");
}
