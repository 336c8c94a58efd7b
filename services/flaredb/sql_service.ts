import { type Clock, fault, invalidField, type Rng } from "@ultracloud/base";
import {
  BatchRequestSchema,
  type BatchResponse,
  ExecuteRequestSchema,
  type ExecuteResponse,
  SqlService,
  type Statement,
} from "@ultracloud/proto/flaredb/v1";
import { type AuthzTable, bind, type BoundService, type Handlers } from "@ultracloud/rpc";
import { databaseScope } from "./database_service.ts";
import { entryRowsMax, statementsMax } from "./domain/bounds.ts";
import { entryKinds } from "./domain/log_entry.ts";
import { awaitLevel } from "./reads.ts";
import type { Databases, OpenDatabase } from "./databases.ts";
import { listTables } from "./state/tables.ts";

export interface SqlOptions {
  /** Rows the plan of one statement may visit, by estimate; more is refused before it runs. */
  readonly costRowsMax: number;
  /** A query that still yields rows after this long is cut. */
  readonly queryMsMax: number;
}

export interface SqlDeps {
  readonly databases: Databases;
  readonly clock: Clock;
  readonly rng: Rng;
}

/** SQL on the tables of a database. Statements that change something go through its log and run on every replica. */
export function sqlHandlers(options: SqlOptions, { databases, clock, rng }: SqlDeps): Handlers<typeof SqlService> {
  /** Refuses what would only fail, or stall every replica, once it is in the log. */
  const admit = ({ machine }: OpenDatabase, statements: readonly Statement[], field: (i: number) => string) => {
    statements.forEach((statement, i) => {
      const text = machine.sql.check(statement, "write", field(i));
      machine.sql.checkCost(text, "write", options.costRowsMax, field(i));
    });
  };
  return {
    async query({ database, statement, read, rowLimit }, context) {
      const rowsMax = rowLimit === 0 ? entryRowsMax : rowLimit;
      if (rowsMax < 0 || rowsMax > entryRowsMax) {
        throw invalidField("row_limit", `Cannot answer ${rowLimit} rows: wanted 0 to ${entryRowsMax}`);
      }
      const asked = present(statement);
      const opened = await databases.find(database);
      await awaitLevel(opened, read, () => context.signal);
      const startMs = clock.monotonicMs();
      let rows = 0;
      const tick = () => {
        if ((++rows & 255) === 0 && clock.monotonicMs() - startMs > options.queryMsMax) {
          throw fault(
            "deadline_exceeded",
            "sql_too_slow",
            `Cannot run the query for more than ${options.queryMsMax} ms: wanted an index or a LIMIT`,
          );
        }
      };
      const frozen = { timeMs: clock.nowMs(), seed: rng.fill(new Uint8Array(16)) };
      const result = opened.machine.query(asked, frozen, { rowsMax, costRowsMax: options.costRowsMax, tick });
      const elapsedMs = clock.monotonicMs() - startMs;
      return { result: { ...result, elapsedMs }, index: BigInt(opened.machine.appliedIndex()) };
    },
    async execute(request, context) {
      const statement = present(request.statement);
      const opened = await databases.find(request.database);
      admit(opened, [statement], () => "statement");
      const { execute: kind } = entryKinds;
      return await databases.propose(opened, kind, ExecuteRequestSchema, request, context) as ExecuteResponse;
    },
    async batch(request, context) {
      const { statements } = request;
      if (statements.length === 0 || statements.length > statementsMax) {
        throw invalidField("statements", `Cannot run ${statements.length} statements: wanted 1 to ${statementsMax}`);
      }
      const opened = await databases.find(request.database);
      admit(opened, statements, (i) => `statements[${i}]`);
      const { batch: kind } = entryKinds;
      return await databases.propose(opened, kind, BatchRequestSchema, request, context) as BatchResponse;
    },
    async listTables({ database, read }, context) {
      const opened = await databases.find(database);
      await awaitLevel(opened, read, () => context.signal);
      return { tables: listTables(opened.machine.db), index: BigInt(opened.machine.appliedIndex()) };
    },
  };
}

const scope = (request: { readonly database: string }) => databaseScope(request.database);

export const sqlAuthz = {
  query: { resource: "sql", action: "query", scope },
  execute: { resource: "sql", action: "execute", scope },
  batch: { resource: "sql", action: "execute", scope },
  listTables: { resource: "sql", action: "list", scope },
} satisfies AuthzTable<typeof SqlService>;

export function sqlService(options: SqlOptions, deps: SqlDeps): BoundService {
  return bind(SqlService, sqlHandlers(options, deps), sqlAuthz);
}

function present(statement: Statement | undefined): Statement {
  if (statement !== undefined) return statement;
  throw invalidField("statement", "Cannot run a request without a statement: wanted SQL");
}
